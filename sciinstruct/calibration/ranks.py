"""Ranks of truths among posterior samples: the one primitive that all coverage comes from."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite

LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


def randomised_ranks(samples: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Ranks :math:`u = (\text{below} + v (1 + \text{ties})) / (S + 1)` with :math:`v \sim U(0, 1)`.

    If samples and truth are exchangeable (an exact posterior), u is uniform on (0, 1) for every S, ties included.

    Parameters
    ----------
    samples : Tensor, shape (N, S, ...)
        Values of a test quantity (or pixels) at the S samples of N observations.
    truth : Tensor, shape (N, ...)
        Its values at the truths.

    Returns
    -------
    Tensor, shape (N, ...), float64

    Raises
    ------
    ValueError
        If the shapes do not match or a value is not finite.

    References
    ----------
    Talts et al. 2018 (simulation-based calibration), made continuous by the uniform share v.
    """
    if samples.ndim < 2 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise ValueError(
            f"samples (N, S, ...) and truth (N, ...) must match, got {tuple(samples.shape)} and {tuple(truth.shape)}"
        )
    check_finite("samples", samples)
    check_finite("truth", truth)
    jitter = torch.rand(truth.shape, generator=generator, dtype=torch.float64, device=truth.device)
    below, ties = torch.empty_like(jitter), torch.empty_like(jitter)
    for i, (draws, value) in enumerate(zip(samples, truth)):  # one observation at a time: memory stays O(S x pixels)
        below[i] = (draws < value).sum(0)
        ties[i] = (draws == value).sum(0)
    return (below + jitter * (1 + ties)) / (samples.shape[1] + 1)


def coverage_from_ranks(ranks: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Share of truths inside the central interval of each level, ``|2u - 1| <= level``.

    Unlike intervals between sample quantiles this is right for every number of samples.

    Parameters
    ----------
    ranks : Tensor, any shape
        From `randomised_ranks`; all entries are pooled.

    Returns
    -------
    Tensor, shape (len(levels),), float64
    """
    distance = (2 * ranks.double().flatten() - 1).abs().sort().values
    thresholds = torch.as_tensor(levels, dtype=torch.float64, device=ranks.device)
    return torch.searchsorted(distance, thresholds, right=True).double() / distance.numel()


def mean_coverage_error(ranks: Tensor, levels: Sequence[float] = LEVELS[1:]) -> float:
    """Mean of ``|coverage - level|`` over `levels`, by default 10, 15, ... 95 %."""
    return float((coverage_from_ranks(ranks, levels) - torch.as_tensor(levels, device=ranks.device)).abs().mean())


def signed_coverage_error(ranks: Tensor, levels: Sequence[float] = LEVELS) -> float:
    """Mean of ``coverage - level``: negative means the posterior is too narrow."""
    return float((coverage_from_ranks(ranks, levels) - torch.as_tensor(levels, device=ranks.device)).mean())


def binomial_band(n: int, levels: Sequence[float] = LEVELS, confidence: float = 0.95) -> np.ndarray:
    """Where the coverage of `n` independent truths falls with probability `confidence`, shape (2, levels)."""
    from scipy.stats import binom

    tail = (1 - confidence) / 2
    return np.stack([binom.ppf(tail, n, levels), binom.ppf(1 - tail, n, levels)]) / n


def rank_histogram(ranks: Tensor, n_samples: int) -> Tensor:
    """Counts in min(S + 1, 20) equal bins: a U is too narrow, a hump too wide, a slope a bias."""
    bins = min(n_samples + 1, 20)
    return torch.histc(ranks.double().flatten(), bins=bins, min=0.0, max=1.0)
