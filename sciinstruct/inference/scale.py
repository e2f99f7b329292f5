"""How wide a prior is, and draws of it to start from."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem
from sciinstruct.diffusion import default_solver


class Scale(NamedTuple):
    """Draws of the prior and their overall standard deviation."""

    draws: Tensor  # (n, *event)
    sd: float  # root mean variance per coordinate


def prior_scale(problem: InverseProblem, n: int, generator: torch.Generator | None, like: Tensor) -> Scale:
    """Draw `n` images of the prior and measure their spread."""
    quick = default_solver(problem.prior.sigma_range, 16)  # good enough to start from
    draws = problem.prior.sample(n, solver=quick, generator=generator, dtype=like.dtype, device=like.device)  # type: ignore[operator]
    return Scale(draws, float(draws.var(0).mean().sqrt()))


def more_draws(problem: InverseProblem, scale: Scale, n: int, generator: torch.Generator | None) -> Tensor:
    """`n` draws of the prior, the ones at hand first."""
    have = scale.draws[:n]
    if len(have) == n:
        return have
    rest = problem.prior.sample(n - len(have), generator=generator, dtype=have.dtype, device=have.device)  # type: ignore[operator]
    return torch.cat([have, rest])
