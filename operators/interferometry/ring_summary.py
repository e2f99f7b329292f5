"""Intervals of ring parameters over posterior samples."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.operators.interferometry.ring import RingParameters

_NAMES = ("diameter", "width", "position_angle", "asymmetry", "central_brightness")
_LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)


class Interval(NamedTuple):
    """Median and central intervals of 68 % and 95 %."""

    median: float
    low68: float
    high68: float
    low95: float
    high95: float


class RingSummary(NamedTuple):
    """Ring parameters of a set of samples.

    Attributes
    ----------
    intervals : dict of str to Interval
        ``diameter`` and ``width`` (uas), ``position_angle`` (deg, cut opposite to the mean direction, so the ends of an
        interval may lie below 0 or above 360), ``asymmetry``, ``central_brightness``; over the samples that are rings.
        Empty if none is.
    ring_fraction : float
        Share of samples that are rings.
    n : int
        Number of samples.
    """

    intervals: dict[str, Interval]
    ring_fraction: float
    n: int


def summarise_rings(rings: RingParameters) -> RingSummary:
    """Turn the ring parameters of samples into medians and intervals.

    Parameters
    ----------
    rings : RingParameters
        Of equally weighted samples, as `extract_ring` returns.

    Returns
    -------
    RingSummary
    """
    kept = rings.is_ring
    intervals = {}
    for name in _NAMES if bool(kept.any()) else ():
        values = getattr(rings, name)[kept].double()
        values = values[torch.isfinite(values)]
        if len(values):
            intervals[name] = _circular(values) if name == "position_angle" else _interval(values)
    return RingSummary(intervals, float(kept.double().mean()), len(kept))


def _interval(values: Tensor) -> Interval:
    """Quantiles of plain numbers."""
    low95, low68, median, high68, high95 = torch.quantile(values, values.new_tensor(_LEVELS)).tolist()
    return Interval(median, low68, high68, low95, high95)


def _circular(degrees: Tensor) -> Interval:
    """Quantiles of angles measured from their mean direction."""
    mean = torch.rad2deg(torch.exp(1j * torch.deg2rad(degrees)).mean().angle()) % 360
    return _interval(mean + (degrees - mean + 180) % 360 - 180)
