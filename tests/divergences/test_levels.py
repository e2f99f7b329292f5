"""Noise levels: every density gives the same integral."""

import math

import pytest
import torch

from sciinstruct.divergences import (
    Karras,
    LogNormal,
    LogUniform,
)

F64 = torch.float64


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("law", [LogUniform(), LogNormal(), LogNormal(2.0, 1.0), Karras(), Karras(1.0)])
def test_every_law_of_levels_gives_the_same_integral(law):
    u = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    sigma, weight = law.quantile(u, 0.05, 20.0)
    assert sigma.min() >= 0.05 * (1 - 1e-9) and sigma.max() <= 20 * (1 + 1e-9) and (sigma.diff() > 0).all()
    exact = 0.5 * math.log((1 + 20**2) / (1 + 0.05**2))  # integral of s^2/(1+s^2) over log s
    value = (weight * sigma**2 / (1 + sigma**2)).mean()
    assert value.item() == pytest.approx(exact, rel=2e-3)  # midpoint rule; lognormal weights peak at the ends


def test_levels_are_stratified_in_random_order_and_follow_a_moving_range():
    law, like = LogUniform(), torch.zeros((), dtype=F64)
    for lo in (1.0, 0.1):
        sigma, weight = law.sample(64, lo, 50.0, generator=_rng(), like=like)
        place = (sigma / lo).log() / math.log(50 / lo) * 64
        assert torch.equal(place.floor().sort().values, torch.arange(64, dtype=F64))
        assert not torch.equal(place.floor(), torch.arange(64, dtype=F64))
        assert torch.equal(weight, torch.full_like(weight, math.log(50 / lo))) and sigma.dtype == F64
    for lo, hi in ((0.0, 1.0), (2.0, 1.0), (0.1, math.inf)):
        with pytest.raises(ValueError, match="0 < lo < hi"):
            law.sample(4, lo, hi)
