r"""The objective of posterior matching on draws of a variational law.

.. math:: J(\phi) = E_{q}[-\log p(y | x_0)] + E \int \|e_q(x_\sigma) - e_p(x_\sigma)\|^2 \, d\log\sigma

(Bai et al. 2026, eq. 12-13, in variance-exploding form): the integral over noise levels is KL(q || p).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, randn_like
from sciinstruct.inference.families.base import Draw
from sciinstruct.inference.levels import Levels

Denoise = Callable[[Tensor, Tensor], Tensor]


class Match(NamedTuple):
    """The terms of the objective, per group (noise level) and draw."""

    prior: Tensor  # (G, M), differentiable: its weighted mean has the gradient of KL(q || p)
    data: Tensor  # (G, M), -log p(y | x0), nats
    cost: Tensor  # (G, M), no gradient: log q(x0) - log p(x0) in expectation, up to one constant for all draws
    gap: Tensor  # (G,), weighted mean of |e_q - e_p|^2: the integrand of KL(q || p)
    projection: Tensor  # (G,), weighted mean of <delta, e_q - n>: zero if e_q belongs to q


def evaluate(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """Noise prediction of a denoiser for grouped images `x` (G, M, *event) at `sigma` (G,)."""
    g, m = x.shape[:2]
    flat = x.flatten(0, 1)
    d = denoise(flat, sigma.repeat_interleave(m)).reshape(x.shape)
    return (x - d) / sigma.reshape(-1, *[1] * (x.ndim - 1))


def match(
    problem: InverseProblem,
    draw: Draw,
    e_q: Callable[[Tensor, Tensor], Tensor],
    levels: Levels,
    smoothing: float,
    *,
    attached: bool,
    generator: torch.Generator | None,
) -> Match:
    """Evaluate the objective on `draw`.

    Parameters
    ----------
    e_q : callable
        ``e_q(x, sigma)`` on grouped images: the noise prediction of the diffused variational law.
    smoothing : float
        The data see ``x0 + smoothing * noise``: the law whose divergence the truncated integral measures.
    attached : bool
        True if `e_q` is exact and differentiable in the law's parameters: the squared difference alone then has the
        right gradient. False: the pair of terms of Theorem 1 is used, and `e_q` must have frozen parameters.
    """
    x0, sigma = draw.x0, levels.sigma
    noise = randn_like(x0, generator)
    x = x0 + sigma.reshape(-1, *[1] * (x0.ndim - 1)) * noise
    eq, ep = e_q(x, sigma), evaluate(problem.prior.denoise, x, sigma)
    delta = (eq - ep).flatten(2)
    square = delta.square().sum(-1)
    cross = (delta * (eq - noise).flatten(2)).sum(-1)
    pair = levels.span * (square - 2 * cross)
    smooth = x0 + smoothing * randn_like(x0, generator)
    data = -problem.log_likelihood(smooth.flatten(0, 1)).reshape(x0.shape[:2])
    weight = draw.weight.detach()
    return Match(
        prior=levels.span * square if attached else pair,
        data=data,
        cost=(pair + data).detach(),
        gap=(square.detach() * weight).sum(1),
        projection=(cross.detach() * weight).sum(1),
    )


class ScoreMatch(NamedTuple):
    """The gradient of the objective at the lowest level, as a surrogate loss."""

    loss: Tensor  # (G, M): its weighted mean has the gradient of KL(q || posterior)
    data: Tensor  # (G, M), -log p(y | x), nats
    mismatch: Tensor  # (G, M), |(s_q - s_p - grad log p(y|x))|^2 in the frame's units: zero at the posterior


def match_score(
    problem: InverseProblem,
    draw: Draw,
    e_q: Callable[[Tensor, Tensor], Tensor],
    whiten: Callable[[Tensor, Tensor], Tensor],
    sigma: float,
    generator: torch.Generator | None,
) -> ScoreMatch:
    r"""Gradient of KL(q || posterior) through the scores at one level, with no pass back through a network.

    By the integral identity the gradient of :math:`KL(q_\sigma || p_\sigma)` is
    :math:`E[(s_q - s_p)(x_\sigma) \, dx_0]`; with the data's score it vanishes draw by draw at the posterior.
    """
    x0 = draw.x0
    x = (x0 + sigma * randn_like(x0, generator)).detach()
    level = torch.full((len(x0),), sigma, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        prior_and_q = (evaluate(problem.prior.denoise, x, level) - e_q(x, level)) / sigma  # s_q - s_p
    flat = x.flatten(0, 1).requires_grad_()
    log_likelihood = problem.log_likelihood(flat)
    pull = torch.autograd.grad(log_likelihood.sum(), flat)[0].reshape(x.shape)
    residual = prior_and_q - pull
    return ScoreMatch(
        loss=(residual * x0).flatten(2).sum(-1),
        data=-log_likelihood.detach().reshape(x0.shape[:2]),
        mismatch=whiten(residual, draw.component).square().flatten(2).sum(-1),
    )


def component_cost(cost: Tensor, draw: Draw, n: int) -> Tensor:
    """Mean cost (n,) of each component's draws over all groups and repeats."""
    total = torch.zeros(n, dtype=cost.dtype, device=cost.device).index_add_(0, draw.component, cost.mean(0))
    return total / torch.bincount(draw.component, minlength=n).to(cost)
