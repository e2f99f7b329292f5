"""Derived quantities: one number per sample, with its median, intervals and, where known, the truth's rank."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciinstruct.calibration.ranks import randomised_ranks


@dataclass(frozen=True)
class Quantity:
    """One number per posterior sample.

    Parameters
    ----------
    values : Tensor, shape (S,)
        NaN where the quantity could not be measured on a sample (no ring found, say): counted, left out of intervals.
    unit : str
    truth : float, optional
        Its value on the true image, in simulations.
    period : float, optional
        For angles: 360 in degrees. Intervals are then taken around the circular mean and may start below zero.
    """

    values: Tensor
    unit: str = ""
    truth: float | None = None
    period: float | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or not len(self.values):
            raise ValueError(f"values must be one number per sample, shape (S,), got {tuple(self.values.shape)}")

    @property
    def finite(self) -> Tensor:
        """The values that could be measured, float64; angles within half a period of their circular mean."""
        values = self.values.detach().cpu().double()
        values = values[values.isfinite()]
        return values if self.period is None or not len(values) else self._near(values, self._centre(values))

    def _centre(self, values: Tensor) -> float:
        phase = values * (2 * math.pi / self.period)  # type: ignore[operator]
        return math.atan2(float(phase.sin().sum()), float(phase.cos().sum())) * self.period / (2 * math.pi)  # type: ignore[operator]

    def _near(self, values: Tensor, centre: float) -> Tensor:
        half = self.period / 2  # type: ignore[operator]
        centre %= self.period  # type: ignore[operator]
        return (values - centre + half).remainder(self.period) - half + centre  # type: ignore[arg-type]

    @property
    def local_truth(self) -> float | None:
        """The truth on the same branch of the period as `finite`."""
        if self.truth is None or self.period is None or not len(self.finite):
            return self.truth
        return float(self._near(torch.tensor(self.truth, dtype=torch.float64), self._centre(self.finite)))

    def rank(self, generator: torch.Generator | None = None) -> float | None:
        """Randomised rank of the truth among the samples, None without truth or measured samples."""
        truth, values = self.local_truth, self.finite
        if truth is None or not math.isfinite(truth) or not len(values):
            return None
        return float(randomised_ranks(values[None], values.new_tensor([truth]), generator))

    def summary(self, generator: torch.Generator | None = None) -> dict[str, Any]:
        """Median, 68 and 95 % central intervals, share of samples without a value, truth and its rank; JSON-able.

        Intervals end between the order statistics that hold a calibrated truth as often as they say: wider than the
        samples' own quantiles. Fewer than 39 samples cannot promise 95 %; the interval is then their range, and
        ``interval_levels`` says what that holds.
        """
        values = self.finite
        low68, high68, level68 = sample_interval(values, 0.68)
        low95, high95, level95 = sample_interval(values, 0.95)
        return {
            "unit": self.unit,
            "median": float(torch.quantile(values, 0.5)) if len(values) else None,
            "interval_68": [low68, high68],
            "interval_95": [low95, high95],
            "interval_levels": [level68, level95],
            "missing_fraction": 1 - len(values) / len(self.values),
            "truth": self.local_truth,
            "rank": self.rank(generator),
        }


def sample_interval(values: Tensor, level: float) -> tuple[float | None, float | None, float | None]:
    r"""Central interval of `values` (S,) that holds one more draw of their law with probability `level`.

    Its ends lie at the positions :math:`(1 \mp \text{level})/2 \cdot (S + 1)` among the ordered values, where one more
    draw falls below with just that probability (the ranks of S + 1 exchangeable draws are uniform).

    Returns
    -------
    tuple
        Low, high, and the level they really have: `level`, or :math:`(S - 1)/(S + 1)` where S is too small and the
        interval is the range. Three None if there are fewer than two values.
    """
    s = len(values)
    if s < 2:
        return None, None, None
    ordered = values.double().sort().values
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64) * (s + 1) - 1
    inside = ends.clamp(0, s - 1)
    below = inside.floor().long().clamp(max=s - 2)
    low, high = torch.lerp(ordered[below], ordered[below + 1], inside - below).tolist()
    return low, high, min(level, (s - 1) / (s + 1))


def as_quantities(entries: Mapping[str, "Tensor | Quantity"] | None, n_samples: int) -> dict[str, Quantity]:
    """Turn tensors (S,) into quantities without unit; raises ValueError unless all have `n_samples` values."""
    found = {name: e if isinstance(e, Quantity) else Quantity(e) for name, e in (entries or {}).items()}
    for name, quantity in found.items():
        if len(quantity.values) != n_samples:
            raise ValueError(f"{name!r} must have one value per sample ({n_samples}), got {len(quantity.values)}")
    return found


def rank_p_value(rank: float) -> float:
    """Two-sided p-value of a single rank, ``2 min(u, 1 - u)``."""
    return 2 * min(rank, 1 - rank)
