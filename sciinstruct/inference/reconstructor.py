"""A trained amortised posterior: one network pass per sample."""

from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, Posterior, make_generator, randn_like
from sciinstruct.core.checks import check_finite
from sciinstruct.inference.conditional import ConditionalGenerator


class Reconstructor(torch.nn.Module):
    """Posterior samples for any measurement of the kind it was trained on.

    Its `state_dict` is all that was learned; to load it, train with ``steps=0`` on the same prior and simulator.

    Parameters
    ----------
    network : ConditionalGenerator
        Trained, in the prior's units.
    prior : Denoiser
        Gives the map to physical units.
    range_shape : tuple of int
        Shape of one measurement.
    smoothing : float
        Noise added to the network's output (the lowest level of training), in the prior's units.
    attributes, diagnostics : dict
        Provenance, and the curves of the training; red flags under ``diagnostics["warnings"]``.
    """

    prior: Denoiser
    network: ConditionalGenerator

    def __init__(
        self,
        network: ConditionalGenerator,
        prior: Denoiser,
        range_shape: tuple[int, ...],
        smoothing: float,
        attributes: dict[str, Any],
        diagnostics: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network = network
        object.__setattr__(self, "prior", prior)
        self.range_shape, self.smoothing = tuple(range_shape), smoothing
        self.attributes, self.diagnostics = attributes, diagnostics

    @torch.no_grad()
    def sample(self, y: Tensor, n: int, *, generator: torch.Generator | int | None = None) -> Tensor:
        """Draw `n` posterior samples per measurement, in physical units.

        Parameters
        ----------
        y : Tensor, shape (*batch, *range_shape)
            One measurement, or any batch of them.

        Returns
        -------
        Tensor, shape (*batch, n, *event_shape)

        Raises
        ------
        ValueError
            If `y` has another shape than the training's measurements or is not finite, or `n` is below 1.
        """
        batch = self._check(y, n)
        g = make_generator(generator, y.device)
        rows = y.reshape(-1, *self.range_shape).repeat_interleave(n, 0)
        x = self.network.sample(rows, g)
        x = self.prior.to_physical(x + self.smoothing * randn_like(x, g))
        return x.reshape(*batch, n, *x.shape[1:])

    def posterior(
        self, y: Tensor, n_samples: int = 256, *, generator: torch.Generator | int | None = None
    ) -> Posterior:
        """Samples for one measurement (*range_shape) with the training's provenance and diagnostics."""
        if tuple(y.shape) != self.range_shape:
            raise ValueError(f"y must be one measurement of shape {self.range_shape}, got {tuple(y.shape)}")
        samples = self.sample(y, n_samples, generator=generator)
        return Posterior(samples, attributes=self.attributes, diagnostics=self.diagnostics)

    def _check(self, y: Tensor, n: int) -> tuple[int, ...]:
        m = len(self.range_shape)
        if y.ndim < m or tuple(y.shape[y.ndim - m :]) != self.range_shape:
            raise ValueError(
                f"y must have shape (*batch, {', '.join(map(str, self.range_shape))}) as in the training, "
                f"got {tuple(y.shape)}"
            )
        check_finite("y", y)
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        return tuple(y.shape[: y.ndim - m])
