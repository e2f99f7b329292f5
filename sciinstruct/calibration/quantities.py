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
        """Median, 68 and 95 % central intervals, share of samples without a value, truth and its rank; JSON-able."""
        values = self.finite
        if len(values):
            levels = values.new_tensor([0.5, 0.16, 0.84, 0.025, 0.975])
            median, low68, high68, low95, high95 = torch.quantile(values, levels).tolist()
        else:
            median = low68 = high68 = low95 = high95 = None
        return {
            "unit": self.unit,
            "median": median,
            "interval_68": [low68, high68],
            "interval_95": [low95, high95],
            "missing_fraction": 1 - len(values) / len(self.values),
            "truth": self.local_truth,
            "rank": self.rank(generator),
        }


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
