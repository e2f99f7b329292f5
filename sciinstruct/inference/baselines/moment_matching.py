r"""Posterior draws under a diffusion prior for many measurements at once, each its own, by moment matching.

At level :math:`\sigma` the clean event given the noisy one x is taken for N(D, V), D the prior's denoiser. Data that
are linear turn that into another Gaussian, whose mean

.. math:: D_y = D + V A^T (R + A V A^T)^{-1} (y - A D)

takes the place of D in an ordinary diffusion sampler. The covariance is :math:`V = \sigma^2\, \partial D / \partial x`,
which holds for every prior, through products with the denoiser's Jacobian in a few steps of conjugate gradients; or
:math:`(C^{-1} + \sigma^{-2})^{-1}` with C a covariance of the prior's events, which holds for Gaussian ones. The latter
preconditions the former, and stands for it where the noise is far wider than the prior and errors of the Jacobian would
be multiplied by its square.

References
----------
Rozet, Andry, Lanusse, Louppe 2024, "Learning diffusion priors from observations by expectation maximization".
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core import Denoiser
from sciinstruct.inference.baselines.coordinates import Coordinates
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA
from sciinstruct.inference.gaussian_draw import conjugate_gradients

_ITEMS, _NUMBERS = 256, 2**23  # items walked together, and numbers in their matrices
_TOLERANCE = 1e-8  # of the solves, which are stopped before it
_WIDE = 2.0  # noise over the prior's standard deviation from which on V is taken for Gaussian


class MomentMatching:
    """D_y for a batch of measurements.

    Parameters
    ----------
    data : Coordinates
        Of B items.
    covariance : Tensor, shape (d, d)
        C, in the prior's units.
    solves : int
        Steps of conjugate gradients with the Jacobian; 0 leaves it out.
    """

    def __init__(self, data: Coordinates, covariance: Tensor, solves: int) -> None:
        self.data, self.solves, self.root = data, solves, data.precision.sqrt()
        inside = covariance if data.basis is None else data.basis.T @ covariance @ data.basis
        values, self.vectors = torch.linalg.eigh(0.5 * (inside + inside.T))
        self.values = values.clamp_min(0)
        most = max(1, int(data.measured.sum(1).max()))
        self.chosen = data.measured.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]

    def denoise(self, prior: Denoiser, x: Tensor, sigma: float) -> Tensor:
        """Expectation of the clean events given x (B, *event) at level sigma, and given the data."""
        variance = self.values * sigma**2 / (self.values + sigma**2)
        v = (self.vectors * variance) @ self.vectors.T
        factor = self._factor(v)
        if self.solves == 0 or sigma >= _WIDE * SIGMA_DATA:
            clean = prior.denoise(x, sigma)
            step = (self.root * self._solve(factor, self._misfit(clean))) @ v
        else:
            clean, step = self._by_jacobian(prior, x, sigma, factor)
        return clean + self.data.leave(step, tuple(x.shape[1:]))

    def _misfit(self, clean: Tensor) -> Tensor:
        """In standard deviations of the noise, (B, d)."""
        return self.root * (self.data.values - self.data.enter(clean))

    def _factor(self, v: Tensor) -> Tensor:
        """Cholesky factors of I + S V S on the measured coordinates, S one over the noise; one for all, or each."""
        if len(self.chosen) == 1:
            c = self.chosen[0]
            inner, s = v[c][:, c][None], self.root[:, c]
        else:
            c = self.chosen
            inner, s = v[c[:, :, None], c[:, None]], self.root.gather(1, c)
        eye = torch.eye(c.shape[-1], dtype=v.dtype, device=v.device)
        return torch.linalg.cholesky(eye + s[:, :, None] * inner * s[:, None])

    def _solve(self, factor: Tensor, right: Tensor) -> Tensor:
        """(I + S V S)^-1 of rows (B, d) that are 0 where nothing was measured."""
        chosen = self.chosen.expand(len(right), -1)
        some = right.gather(1, chosen)
        if len(factor) == 1:
            solved = torch.cholesky_solve(some.T, factor[0]).T
        else:
            solved = torch.cholesky_solve(some[..., None], factor)[..., 0]
        return torch.zeros_like(right).scatter(1, chosen, solved)

    def _by_jacobian(self, prior: Denoiser, x: Tensor, sigma: float, factor: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's denoised events, and the data's step from them, in coordinates."""
        leaf, event_shape = x.detach().requires_grad_(), tuple(x.shape[1:])
        with torch.enable_grad():
            clean = prior.denoise(leaf, sigma)

        def spread(u: Tensor) -> Tensor:
            (slope,) = torch.autograd.grad(clean, leaf, self.data.leave(u, event_shape), retain_graph=True)
            return sigma**2 * self.data.enter(slope)

        def matrix(w: Tensor) -> Tensor:
            told = self.root * spread(self.root * w)
            share = (w * told).sum(1, keepdim=True) / w.square().sum(1, keepdim=True).clamp_min(1e-30)
            return w + told - share.clamp_max(0) * w  # a network's Jacobian may be off, a variance is not negative

        centre = clean.detach()
        right = self._misfit(centre)
        found = conjugate_gradients(matrix, right, _TOLERANCE, self.solves, lambda r: self._solve(factor, r))
        return centre, spread(self.root * found)


def posterior_draws(
    prior: Denoiser,
    data: Coordinates,
    covariance: Tensor,
    solves: int,
    solver: Callable[..., Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    """One draw for each item, (n, *event), in the prior's units.

    Parameters
    ----------
    prior : Denoiser
    data : Coordinates
    covariance : Tensor, shape (d, d)
        Of the prior's events.
    solves : int
        As of `MomentMatching`.
    solver : callable
        ``solver(denoise, x, generator=...)`` as in `sciinstruct.diffusion`.
    """
    n, most = len(data.values), int(data.measured.sum(1).max())
    parts = torch.arange(n, device=data.values.device).split(max(1, min(_ITEMS, _NUMBERS // max(1, most) ** 2)))
    return torch.cat([_draws(prior, data.rows(part), covariance, solves, solver, generator) for part in parts])


@torch.no_grad()
def _draws(
    prior: Denoiser,
    data: Coordinates,
    covariance: Tensor,
    solves: int,
    solver: Callable[..., Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    matching = MomentMatching(data, covariance, solves)
    shape, like = (len(data.values), *prior.event_shape), data.values
    start = prior.sigma_range[1] * torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    return solver(lambda x, sigma: matching.denoise(prior, x, sigma), start, generator=generator)
