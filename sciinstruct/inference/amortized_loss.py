"""What the generator of amortised matching descends, image by image, and how its noise is taken out."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, randn_like
from sciinstruct.divergences import Divergence, Levels
from sciinstruct.inference.simulator import Simulator

_KL = Divergence("exact_kl")


class Reference(Protocol):
    """A prior and its posterior in closed form, near the ones at hand."""

    def prior_denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise x (B, *event) at sigma (B,)."""
        ...

    def posterior_denoise(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """The same, given y."""
        ...

    def log_evidence(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """Log p(y | x at sigma), (B,), up to what does not depend on x."""
        ...


class Levelled(NamedTuple):
    """The range of noise levels: from `low`, which annealing moves, to `high`; data are met at `smallest`."""

    low: float
    high: float
    smallest: float


class Cost(NamedTuple):
    """Per image, (B,)."""

    prior: Tensor  # its gradient is that of log q(x)/p(x)
    data: Tensor  # minus the log-likelihood
    kl: Tensor  # the divergence's own estimate, without noise of mean zero; detached
    projection: Tensor  # mean zero if the auxiliary denoiser has caught up; detached


def matching_cost(
    x: Tensor,
    y: Tensor,
    law: Simulator,
    prior: Denoiser,
    student: Callable[[Tensor, Tensor, Tensor], Tensor],
    reference: Reference | None,
    levels: Levelled,
    generator: torch.Generator | None,
) -> Cost:
    r"""Terms of :math:`E_q[\log q/p - \log p(y|x)]` at images x (B, *event) of measurements y, noise of both signs.

    Most of the noise of the KL divergence's estimate is odd in the noise added, and cancels between the signs. Of the
    rest, most is the data's own pull, spread at random over noise levels. For any two laws q', p' the pair of terms at
    a fixed x has the mean :math:`\log q'(x)/p'(x)`, so that a reference whose ratio is known, :math:`\log p'(y|x)`,
    tells how far off this draw of levels and noise is: its pair is subtracted and its ratio added.

    Parameters
    ----------
    student : callable
        ``student(x, sigma, y)``, the auxiliary denoiser, its parameters frozen.
    reference : Reference or None
        Changes the noise of the estimate, not its mean.
    """
    drawn = _KL.levels.sample(len(x), levels.low, levels.high, generator=generator, like=x.detach())
    drawn = Levels(drawn.sigma.repeat(2), drawn.weight.repeat(2))
    noise = randn_like(x, generator)
    both, twice, noise = torch.cat([x, x]), torch.cat([y, y]), torch.cat([noise, -noise])
    terms = _KL.evaluate(both, noise, drawn, prior.denoise, lambda v, s: student(v, s, twice))
    blur = randn_like(x, generator)
    loss, data = _halves(terms.loss), -law.log_prob(y, prior.to_physical(x + levels.smallest * blur))
    if reference is not None:
        known = _KL.evaluate(
            both, noise, drawn, reference.prior_denoise, lambda v, s: reference.posterior_denoise(v, s, twice)
        )
        lowest = torch.full_like(drawn.sigma[: len(x)], levels.low)
        loss = loss - _halves(known.loss) + reference.log_evidence(x + levels.low * blur, lowest, y)
    return Cost(loss, data, _halves(terms.weight * terms.gap), _halves(terms.weight * terms.projection))


def _halves(values: Tensor) -> Tensor:
    """Mean of the two halves of a batch, (2 B,) -> (B,)."""
    return values.reshape(2, -1).mean(0)
