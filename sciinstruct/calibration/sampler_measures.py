"""What can be measured of a sampler of an unnormalised density: Stein discrepancy, distances, modes, marginals."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.calibration.mmd import mean_discrepancy, median_distance
from sciinstruct.core.ksd import stein_kernel
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.implicit.clusters import Clusters, assign, find_clusters
from sciinstruct.implicit.targets import Target
from sciinstruct.implicit.whitened import WhitenedTarget

_RESAMPLES = 500
_STEIN, _MMD, _CLUSTERED = 1000, 2000, 512  # points used
_WEIGHTY, _MISSING = 0.05, 0.2  # a mode this heavy with less than this of its weight is missing


class SteinTest(NamedTuple):
    """Squared kernel Stein discrepancy and where it would lie for exact draws."""

    squared: float  # U-statistic
    null_95: float  # 95 % of exact samples of this size give less
    p_value: float
    n: int


def stein_test(x: Tensor, score: Tensor, generator: torch.Generator) -> SteinTest:
    """Test draws against a score, with the null distribution from multinomial weights on the draws themselves.

    Parameters
    ----------
    x, score : Tensor, shape (n, d)
        Whitened points and scores; the first 1000 with finite scores are used.

    References
    ----------
    Liu, Lee and Jordan 2016, "A kernelized Stein discrepancy for goodness-of-fit tests", Algorithm 1.
    """
    ok = score.isfinite().all(1)
    x, score = x[ok][:_STEIN].double(), score[ok][:_STEIN].double()
    n = len(x)
    kernel = stein_kernel(x, score)
    kernel.fill_diagonal_(0)
    squared = float(kernel.sum()) / (n * (n - 1))
    picks = torch.randint(n, (_RESAMPLES, n), generator=generator, device=x.device)
    counts = torch.zeros(_RESAMPLES, n, dtype=x.dtype, device=x.device)
    counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=x.dtype))
    v = counts / n - 1 / n
    null = ((v @ kernel) * v).sum(1)
    p = (1 + int((null >= squared).sum())) / (_RESAMPLES + 1)
    return SteinTest(squared, float(null.quantile(0.95)), p, n)


class Distances(NamedTuple):
    """Distances to gold draws, and what two sets of gold draws of the same sizes have."""

    sliced_w2: float
    sliced_w2_floor: float
    mmd: float
    mmd_floor: float
    mmd_squared: float  # unbiased, the floor's average is zero
    n: int
    repeats: int

    @property
    def ratios(self) -> tuple[float, float]:
        """Of sliced W2 and MMD to their floors."""
        return self.sliced_w2 / self.sliced_w2_floor, self.mmd / self.mmd_floor


def distances(draws: list[Tensor], gold: list[Tensor], generator: torch.Generator) -> Distances:
    """Average distances over sets of whitened points, (n, d) each.

    Parameters
    ----------
    draws : list of Tensor
        Sets of the sampler, as many as `gold`.
    gold : list of Tensor
        Sets of the same size, at least two, independent of one another.
    """
    scale = median_distance(gold[0])
    pairs = list(zip(gold[0::2], gold[1::2]))

    def sliced(a: Tensor, b: Tensor) -> float:
        return float(sliced_w2(a.double(), b.double(), generator=generator))

    def mmd(a: Tensor, b: Tensor) -> tuple[float, float]:
        found = mean_discrepancy(a[:_MMD], b[:_MMD], scale)
        return found.v, found.squared

    far, floor = [sliced(a, b) for a, b in zip(draws, gold)], [sliced(a, b) for a, b in pairs]
    v, squared = zip(*(mmd(a, b) for a, b in zip(draws, gold)))
    v_floor = [mmd(a, b)[0] for a, b in pairs]
    w2, w2_floor, v_mean, v_mean_floor, unbiased = (
        sum(values) / len(values) for values in (far, floor, v, v_floor, squared)
    )
    return Distances(w2, w2_floor, v_mean, v_mean_floor, unbiased, len(gold[0]), len(gold))


class ModeTable(NamedTuple):
    """Weights of separate modes beside the sampler's."""

    weights: list[float]  # of the reference
    shares: list[float]  # of the draws
    worst: float  # largest difference
    standard_error: float  # of that difference, by chance
    missing: list[int]  # modes of weight >= 0.05 with less than a fifth of it
    source: str


def mode_table(shares: Tensor, weights: Tensor, n: int, n_reference: int | None, source: str) -> ModeTable:
    """Compare shares (K,) of n draws with weights (K,), known (`n_reference` None) or counted in so many draws."""
    shares, weights = shares.double().cpu(), weights.double().cpu()
    gap = (shares - weights).abs()
    k = int(gap.argmax())
    variance = float(weights[k] * (1 - weights[k])) * (1 / n + (0 if n_reference is None else 1 / n_reference))
    missing = [i for i in range(len(weights)) if weights[i] >= _WEIGHTY and shares[i] < _MISSING * weights[i]]
    return ModeTable(weights.tolist(), shares.tolist(), float(gap[k]), variance**0.5, missing, source)


class ModeFinder:
    """Which mode a point belongs to: the nearest known centre, or the nearest cluster of gold draws.

    Parameters
    ----------
    target : Target
    gold : Tensor, shape (n, d), optional
        In the target's unconstrained coordinates; needed where the target does not know its modes.
    white : WhitenedTarget
        Coordinates in which clusters are found.

    Attributes
    ----------
    refusal : str
        Why modes cannot be told apart; empty if they can.
    """

    def __init__(self, target: Target, gold: Tensor | None, white: WhitenedTarget) -> None:
        self.target, self.white, self.refusal = target, white, ""
        self.clusters: Clusters | None = None
        if target.modes is not None:
            return
        if gold is None:
            self.refusal = "neither the modes nor draws of the target are known"
            return
        self.few = white.from_target(gold[:_CLUSTERED].to(white.mean))
        self.clusters = find_clusters(self.few, white.log_prob, lambda w: white.score(w).value)
        if self.clusters.stray > 0.5:
            self.refusal = "there are more modes than can be counted"

    def shares(self, x: Tensor) -> Tensor:
        """Share of each mode among points (n, d) of the target's coordinates."""
        if self.clusters is None:
            modes = self.target.modes
            assert modes is not None
            label = torch.cdist(x.double(), modes.double().to(x.device)).argmin(1)
            return torch.bincount(label, minlength=len(modes)).double() / len(x)
        return assign(self.white.from_target(x.to(self.white.mean)), self.few, self.clusters)

    def weights(self, gold: Tensor | None) -> tuple[Tensor, int | None, str]:
        """Weights of the modes, how many draws they were counted in (None if known), and where they are from."""
        if self.target.mode_weights is not None:
            return self.target.mode_weights, None, "known"
        assert gold is not None
        return self.shares(gold), len(gold), f"clusters of {len(gold)} gold draws"


def marginal_rows(names: list[str], x: Tensor, gold: Tensor | None) -> list[dict[str, Any]]:
    """Mean, sd and quantiles of every parameter, beside those of gold draws where there are any.

    Parameters
    ----------
    names : list of str
    x, gold : Tensor, shapes (n, p) and (m, p)
        Parameters.
    """
    x = x.double()
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        one = x[:, i]
        q = one.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=one.dtype, device=one.device))
        row = {"name": name, "mean": float(one.mean()), "sd": float(one.std())}
        row |= {f"q{p}": float(value) for p, value in zip(("05", "50", "95"), q)}
        rows.append(row if gold is None else row | _beside(one, q, gold[:, i].double()))
    return rows


def _beside(one: Tensor, q: Tensor, gold: Tensor) -> dict[str, float]:
    """A marginal against gold draws; errors in their standard deviations, with what chance alone gives."""
    sd = float(gold.std())
    inside = (gold >= q[0]) & (gold <= q[2])
    fourth = float((gold - gold.mean()).div(sd).pow(4).mean())
    both = 1 / len(one) + 1 / len(gold)
    return {
        "gold_mean": float(gold.mean()),
        "gold_sd": sd,
        "mean_error": float(one.mean() - gold.mean()) / sd,
        "mean_error_by_chance": both**0.5,
        "sd_ratio": float(one.std()) / sd,
        "sd_ratio_by_chance": math.sqrt(max(0.0, fourth - 1) / 4 * both),
        "coverage_90": float(inside.double().mean()),
    }
