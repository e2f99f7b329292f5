"""Particles with a kernel, and generators that push a start law through a network."""

import torch
from torch import Tensor, nn

from sciinstruct.core import randn_like
from sciinstruct.inference.families.base import Draw, Family


class ParticleFamily(Family):
    """(1/K) sum of N(point_k, tau^2 I): the divergence of bare points would be infinite.

    Parameters
    ----------
    points : Tensor, shape (K, *event)
        Start.
    unit : float
        Length in which the points move: the prior's standard deviation.
    tau : float
        Kernel width, in the prior's units.
    """

    start: Tensor

    def __init__(self, points: Tensor, unit: float, tau: float) -> None:
        super().__init__()
        self.event_shape, self.unit, self.tau = tuple(points.shape[1:]), unit, tau
        self.register_buffer("start", points.clone())
        self.shift = nn.Parameter(torch.zeros_like(points))

    @property
    def points(self) -> Tensor:
        """Where the particles are, (K, *event)."""
        return self.start + self.unit * self.shift

    def _jitter(self, points: Tensor, generator: torch.Generator | None) -> Tensor:
        return points + self.tau * randn_like(points, generator)

    def draw(self, groups: int, per_group: int, generator: torch.Generator | None) -> Draw:
        """Random particles without repeats within a group, jittered by the kernel."""
        points, n = self.points, min(per_group, len(self.start))
        order = torch.rand(groups, len(points), generator=generator, device=points.device).argsort(1)[:, :n]
        x = self._jitter(points[order], generator)
        weight = torch.full((n,), 1 / n, dtype=x.dtype, device=x.device)
        return Draw(x, weight, torch.zeros(n, dtype=torch.long, device=x.device))

    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Every particle about equally often, jittered by the kernel."""
        with torch.no_grad():
            k = len(self.start)
            order = torch.cat(
                [torch.randperm(k, generator=generator, device=self.start.device) for _ in range(-(-n // k))]
            )
            return self._jitter(self.points[order[:n]], generator)


class GeneratorFamily(Family):
    r"""A start law pushed through a residual network: :math:`x_0 = b + \mathrm{unit} \cdot r(b)`, b from the start law.

    The last layer of `network` should start at zero, so that the law starts where the start law is. Curved posteriors
    that no Gaussian mixture follows are within reach; the score then needs an auxiliary network.

    Parameters
    ----------
    base : Family
        Start law, frozen here.
    network : nn.Module
        ``network(b) -> r`` on batches of images.
    unit : float
        Length in which the network answers: the prior's standard deviation.
    """

    def __init__(self, base: Family, network: nn.Module, unit: float) -> None:
        super().__init__()
        self.event_shape, self.unit = base.event_shape, unit
        for p in base.parameters():
            p.requires_grad_(False)
        self.base, self.network = base, network

    def _push(self, n: int, generator: torch.Generator | None) -> Tensor:
        start = self.base.sample(n, generator)
        return start + self.unit * self.network(start / self.unit)

    def draw(self, groups: int, per_group: int, generator: torch.Generator | None) -> Draw:
        """Fresh images, all of the same weight."""
        x = self._push(groups * per_group, generator)
        weight = torch.full((per_group,), 1 / per_group, dtype=x.dtype, device=x.device)
        component = torch.zeros(per_group, dtype=torch.long, device=x.device)
        return Draw(x.reshape(groups, per_group, *self.event_shape), weight, component)

    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Fresh images (n, *event)."""
        with torch.no_grad():
            return self._push(n, generator)
