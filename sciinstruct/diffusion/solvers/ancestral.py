"""Ancestral sampling: the posterior of DDPM, step by step."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sciinstruct.diffusion.solvers.base import Denoise, DiffusionSolver


@dataclass(frozen=True)
class Ancestral(DiffusionSolver):
    r"""Draw each level from :math:`p(x_{low} | x_{high}, x_0 = D)`; weak order 1.

    Parameters
    ----------
    sigmas : sequence of float or Tensor
        Noise levels, strictly falling.
    eta : float
        Share of the posterior's standard deviation that is drawn afresh: 1 is DDPM, 0 is DDIM (`Euler`).
    denoise_final : bool
        End with ``D(x, sigmas[-1])``.

    Raises
    ------
    ValueError
        If `eta` is outside [0, 1].

    References
    ----------
    Ho et al. 2020, equations 6-7; Song, Meng and Ermon 2021, equation 16, for `eta`.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser one run costs."""
        return self.steps + self.denoise_final

    def path(self, denoise: Denoise, x: Tensor, noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield x at each next level; see `DiffusionSolver.path`."""
        for high, low in pairwise(self.levels):
            clean = denoise(x, high)
            fresh = self.eta * low * math.sqrt(1 - (low / high) ** 2)
            kept = math.sqrt(low**2 - fresh**2)
            x = clean + (kept / high) * (x - clean)
            if fresh > 0:
                x = x + fresh * noise()
            yield x
