"""Is a set of ranks uniform? Simultaneous ECDF bands by simulation, p-values, and a bootstrap for pooled pixels."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DRAWS = 4000
GRID = 100


class EcdfBand(NamedTuple):
    """Where the ECDF of uniform ranks stays, at all `z` at once, with the probability asked for."""

    z: np.ndarray  # (G,) evaluation points
    low: np.ndarray  # (G,) lower edge of the ECDF
    high: np.ndarray  # (G,) upper edge
    gamma: float  # pointwise tail probability that gives the simultaneous level


def evaluation_grid(n_samples: int) -> np.ndarray:
    """Points (1..S)/(S + 1), thinned evenly to about 100."""
    steps = np.unique(np.linspace(1, n_samples, min(n_samples, GRID)).round())
    return steps / (n_samples + 1)


@lru_cache(maxsize=64)
def ecdf_band(n: int, n_samples: int, level: float = 0.95, seed: int = 0) -> EcdfBand:
    """Simultaneous band of the ECDF of `n` independent randomised ranks.

    The smallest pointwise binomial tail over the grid is simulated 4000 times; its (1 - level) quantile is the
    pointwise level at which binomial quantiles make the band.

    Parameters
    ----------
    n : int
        Number of observations, one rank each. Pixels of one image are not independent: see `bootstrap_band`.
    n_samples : int
        Posterior samples per observation; sets the grid.
    level : float
        Simultaneous probability.

    References
    ----------
    Säilynoja, Bürkner, Vehtari 2022, "Graphical test for discrete uniformity", for the idea.
    """
    from scipy.stats import binom

    z = evaluation_grid(n_samples)
    counts = _uniform_counts(n, z, seed)
    table = binom.cdf(np.arange(n + 1)[:, None], n, z)  # P(K <= k)
    tail = 2 * np.minimum(table, 1 - table + binom.pmf(np.arange(n + 1)[:, None], n, z))
    smallest = np.take_along_axis(tail, counts, 0).min(1)
    gamma = float(np.quantile(smallest, 1 - level))
    return EcdfBand(z, binom.ppf(gamma / 2, n, z) / n, binom.ppf(1 - gamma / 2, n, z) / n, gamma)


def _uniform_counts(n: int, z: np.ndarray, seed: int) -> np.ndarray:
    """Number of `n` uniforms at or below each z, `DRAWS` times, shape (DRAWS, G): multinomial over the cells."""
    cells = np.diff(z, prepend=0.0, append=1.0)
    return np.random.default_rng(seed).multinomial(n, cells, DRAWS)[:, :-1].cumsum(1)


def ecdf(ranks: Tensor, z: np.ndarray) -> np.ndarray:
    """Share of all `ranks` at or below each z, shape of z."""
    ordered = np.sort(ranks.detach().cpu().double().numpy().ravel())
    return np.searchsorted(ordered, z, side="right") / ordered.size


def bootstrap_band(
    ranks: Tensor, z: np.ndarray, level: float = 0.95, resamples: int = 1000, generator: torch.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise band of the pooled ECDF when each observation gives many correlated ranks: resample observations.

    Parameters
    ----------
    ranks : Tensor, shape (N, ...)
        Pixels of one observation stay together.

    Returns
    -------
    tuple of two arrays of z's shape
        Lower and upper edge.
    """
    per_observation = torch.as_tensor(np.stack([ecdf(row, z) for row in ranks]))
    n = len(per_observation)
    chosen = torch.randint(n, (resamples, n), generator=generator)
    curves = torch.stack([per_observation[row].mean(0) for row in chosen]).numpy()
    return np.quantile(curves, (1 - level) / 2, axis=0), np.quantile(curves, (1 + level) / 2, axis=0)


def uniformity_p_value(ranks: Tensor) -> float:
    """Kolmogorov-Smirnov p-value of independent `ranks` (N,) against the uniform law."""
    from scipy.stats import kstest

    if ranks.ndim != 1:
        raise ValueError(
            f"ranks must be one per observation, shape (N,), got {tuple(ranks.shape)}: pixels are not independent"
        )
    return float(kstest(ranks.detach().cpu().double().numpy(), "uniform").pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction of several p-values: valid whatever their dependence. Same names."""
    adjusted, running, m = {}, 0.0, len(p_values)
    for i, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (m - i) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


@lru_cache(maxsize=16)
def smallest_visible_error(n: int, n_samples: int, runs: int = 100, seed: int = 0) -> float:
    """Relative error of the width that N ranks of one quantity reject (p < 0.05) in 80 % of runs.

    Simulated: standard normal truths, samples scaled by 1 - e. What "not rejected" is worth at this N and S.

    Returns
    -------
    float
        The smallest e of 0.05, 0.1, ... 0.95 that is seen; 1 if none is.
    """
    from scipy.stats import kstwo

    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(runs, n, 1, generator=generator)
    samples = torch.randn(runs, n, n_samples, generator=generator)
    jitter = torch.rand(runs, n, generator=generator)
    step = torch.arange(n) / n
    critical = float(kstwo.isf(0.05, n))
    for k in range(1, 20):
        error = 0.05 * k
        ranks = ((((1 - error) * samples < truth).sum(-1) + jitter) / (n_samples + 1)).sort(-1).values
        distance = torch.maximum((ranks - step).amax(-1), (step + 1 / n - ranks).amax(-1))
        if float((distance > critical).double().mean()) >= 0.8:
            return round(error, 2)
    return 1.0
