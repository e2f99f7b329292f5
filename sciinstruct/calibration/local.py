"""Calibrated on average is not calibrated everywhere: ranks apart for low, middle and high values of a feature."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sciinstruct.calibration.bands import holm, uniformity_p_value

BINS = 3
MIN_IN_BIN = 16


def local_ranks(
    ranks: Mapping[str, Tensor], features: Mapping[str, Tensor], bins: int = BINS
) -> dict[str, list[dict[str, Any]]]:
    """Test the ranks of each quantity apart in bins of each feature.

    Given the data, the rank of an exact posterior is uniform, so it is uniform in every bin of a number that is
    computed from the data alone. A posterior too narrow for faint sources and too wide for bright ones passes on
    average and fails here.

    Parameters
    ----------
    ranks : dict of Tensor (N,)
        One rank per observation and quantity.
    features : dict of Tensor (N,)
        Signal-to-noise, number of stations, time of day: anything known without the truth.
    bins : int
        Bins of about equal count; fewer where they would hold under 16 observations or the feature has few values.

    Returns
    -------
    dict of list of dict
        Per feature and bin ``low``, ``high``, ``n``, and ``p_values`` by quantity, Holm-corrected over the feature's
        bins and quantities together.

    Raises
    ------
    ValueError
        If a feature has another length, is not finite, or there are fewer than 32 observations.
    """
    n = len(next(iter(ranks.values())))
    if n < 2 * MIN_IN_BIN:
        raise ValueError(f"features need at least {2 * MIN_IN_BIN} observations, got {n}")
    found = {}
    for name, feature in features.items():
        if feature.shape != (n,) or not feature.isfinite().all():
            raise ValueError(f"feature {name!r} must hold {n} finite numbers, got shape {tuple(feature.shape)}")
        found[name] = _one_feature(ranks, feature.double(), min(bins, n // MIN_IN_BIN))
    return found


def _one_feature(ranks: Mapping[str, Tensor], feature: Tensor, bins: int) -> list[dict[str, Any]]:
    masks = _bins(feature, bins)
    raw = {
        f"{i} {name}": uniformity_p_value(rank[mask.to(rank.device)])
        for i, mask in enumerate(masks)
        for name, rank in ranks.items()
    }
    adjusted = holm(raw)
    return [
        {
            "low": float(feature[mask].min()),
            "high": float(feature[mask].max()),
            "n": int(mask.sum()),
            "p_values": {name: adjusted[f"{i} {name}"] for name in ranks},
        }
        for i, mask in enumerate(masks)
    ]


def _bins(feature: Tensor, bins: int) -> list[Tensor]:
    """Masks of about equal count; equal values stay together, and a bin too thin joins the one below."""
    edges = torch.quantile(feature, torch.linspace(0, 1, bins + 1, dtype=feature.dtype)[1:-1])
    index = torch.bucketize(feature, edges.unique(), right=True)
    masks: list[Tensor] = []
    for k in index.unique():
        mask = index == k
        if masks and (int(mask.sum()) < MIN_IN_BIN or int(masks[-1].sum()) < MIN_IN_BIN):
            masks[-1] = masks[-1] | mask
        else:
            masks.append(mask)
    return masks
