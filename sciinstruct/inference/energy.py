"""How improbable an image is: misfit plus the prior's energy of a blob around it."""

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, InverseProblem, randn_like
from sciinstruct.inference.levels import draw_levels


def prior_energy(
    prior: Denoiser, x: Tensor, lowest: float, highest: float, generator: torch.Generator | None, groups: int = 8
) -> Tensor:
    r"""KL divergence (n,), in nats, of the blob N(x, lowest^2 I) from the prior smoothed alike.

    .. math:: \int_{lowest}^{highest} E |x - D(x + \sigma n)|^2 / \sigma^2 \, d\log\sigma

    the exact-KL integral for a law whose score is that of one Gaussian, up to what lies above `highest`. All images see
    the same noise, so that differences between them are better known than values.
    """
    levels = draw_levels(lowest, highest, groups, generator, x)
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    with torch.no_grad():
        for sigma in levels.sigma.tolist():
            noise = randn_like(x[:1], generator)
            for part, some in zip(total.split(64), x.split(64)):
                error = some - prior.denoise(some + sigma * noise, sigma)
                part += error.flatten(1).square().sum(1) / sigma**2
    return total * (levels.span / groups)


def energy(problem: InverseProblem, x: Tensor, lowest: float, generator: torch.Generator | None) -> Tensor:
    """Misfit of `x` (n, *event) plus prior energy of the blob of width `lowest` around it, (n,), nats."""
    with torch.no_grad():
        misfit = -torch.cat([problem.log_likelihood(some) for some in x.split(64)])
    found = misfit + prior_energy(problem.prior, x, lowest, problem.prior.sigma_range[1], generator)
    return found.nan_to_num(nan=float("inf"))
