"""Per-sample terms of a divergence estimate and what they tell about it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """One row per noisy image; only `loss` carries a graph."""

    loss: Tensor  # (B,), differentiable: its mean has the gradient of the divergence
    sigma: Tensor  # (B,), noise levels
    weight: Tensor  # (B,), one over the density of log sigma
    delta: Tensor  # (B, *event), noise prediction of the student minus the teacher's
    gap: Tensor  # (B,), |delta|^2: its weighted mean is KL(generator || target)
    projection: Tensor  # (B,), <delta, e_student - noise>: mean zero at every level if the student is the generator's
    log_ratio: Tensor | None  # (B,), log target/generator, where the divergence needs it


class Band(NamedTuple):
    """Sums over one band of noise levels."""

    lo: float
    hi: float
    n: int
    kl: float  # contribution to the KL integral, nats
    projection: float  # mean projection residual
    projection_error: float  # its standard error


class Diagnostics(NamedTuple):
    """What a batch of terms says."""

    kl: float  # integral of |delta|^2 over log sigma: KL(generator || target) between the two ends, nats
    kl_error: float  # standard error
    projection: float  # mean of <delta, e_student - noise>, weighted over levels, nats
    projection_error: float  # standard error
    ratio_ess: float  # effective sample size of the ratio over the batch size; NaN without a ratio
    bands: tuple[Band, ...]

    @property
    def student_lags(self) -> bool:
        """Whether the projection residual is further than three standard errors from zero."""
        return abs(self.projection) > 3 * self.projection_error


def summarise(terms: Terms | Sequence[Terms], bands: int = 8) -> Diagnostics:
    """Diagnostics of one or several batches of terms, pooled.

    Parameters
    ----------
    terms : Terms or sequence of Terms
        From `Divergence.generator_loss`.
    bands : int
        Number of equal bands of log sigma.

    Raises
    ------
    ValueError
        If there are no terms or `bands` is below one.
    """
    batches = [terms] if isinstance(terms, Terms) else list(terms)
    if not batches or bands < 1:
        raise ValueError(f"summarise needs at least one batch and one band, got {len(batches)} and {bands}")
    sigma, weight, gap, projection = (
        torch.cat([getattr(t, name).detach().double() for t in batches])
        for name in ("sigma", "weight", "gap", "projection")
    )
    kl, kl_error = _mean(weight * gap)
    residual, residual_error = _mean(weight * projection)
    return Diagnostics(
        kl, kl_error, residual, residual_error, _ess(batches), _bands(sigma, weight * gap, projection, bands)
    )


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error (infinite for one value)."""
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else math.inf
    return float(values.mean()), error


def _ess(batches: Sequence[Terms]) -> float:
    logs = [t.log_ratio.detach().double() for t in batches if t.log_ratio is not None]
    if not logs:
        return math.nan
    w = torch.cat(logs).softmax(0)
    return float(1 / w.square().sum()) / len(w)


def _bands(sigma: Tensor, contribution: Tensor, projection: Tensor, n: int) -> tuple[Band, ...]:
    edges = torch.linspace(float(sigma.min().log()), float(sigma.max().log()), n + 1, dtype=sigma.dtype).exp()
    place = torch.bucketize(sigma, edges[1:-1].to(sigma.device))
    found = []
    for k in range(n):
        mine = place == k
        residual, error = _mean(projection[mine]) if mine.any() else (math.nan, math.nan)
        kl = float(contribution[mine].sum()) / len(sigma)
        found.append(Band(float(edges[k]), float(edges[k + 1]), int(mine.sum()), kl, residual, error))
    return tuple(found)
