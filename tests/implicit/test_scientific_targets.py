"""Ring geometry from M87 data and logistic regression: densities are what their formulas say."""

import math

import pytest
import torch

from sciinstruct.implicit import check_target, tempered_smc
from sciinstruct.implicit.targets.logistic import LogisticRegression, breast_cancer
from sciinstruct.implicit.targets.ring import RingTarget
from sciinstruct.operators.interferometry import Disc, MRing, Observation


@pytest.fixture(scope="module")
def observation(eht_dir):
    return Observation.from_uvfits(eht_dir / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits")


def test_visibilities_are_those_of_an_m_ring_and_a_blurred_disc(observation):
    target = RingTarget(observation)
    flux, diameter, width, disc, north, east = found = (0.5, 40.0, 11.0, 0.2, -0.2, 0.1)
    data = observation.scan_average().flag(uv_min=1e8)
    ring = MRing(flux, diameter, width, (complex(north, -east),)).visibility(data.u, data.v)
    blur = MRing(1.0, 1e-6, width).visibility(data.u, data.v)
    expected = (1 - disc) * ring + disc * Disc(flux, diameter).visibility(data.u, data.v) * blur
    vis = target.visibilities(torch.tensor([found], dtype=torch.float64))[0]
    torch.testing.assert_close(vis, expected, rtol=0, atol=6e-7)
    bright = MRing(flux, diameter, width, (complex(north, -east),)).brightness
    south = bright(*torch.tensor([[0.0], [-20.0]], dtype=torch.float64))
    assert south > bright(*torch.tensor([[0.0], [20.0]], dtype=torch.float64))  # north < 0: brighter in the South


def test_amplitudes_do_not_tell_a_ring_from_its_mirror_image_and_phases_do(observation, generator):
    u = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    blind, seeing = RingTarget(observation), RingTarget(observation, closure_phases=True)
    torch.testing.assert_close(blind.log_prob(u), blind.log_prob(blind.mirrored(u)), rtol=1e-10, atol=0)
    gap = (seeing.log_prob(u) - seeing.log_prob(seeing.mirrored(u))).abs()
    assert (gap > 1).all()
    torch.testing.assert_close(blind.unconstrain(blind.constrain(u)), u, rtol=1e-9, atol=1e-9)
    assert (blind.constrain(u)[:, 4:].norm(dim=1) < 0.5).all()


def test_ring_targets_can_be_trained_on(observation):
    for phases in (False, True):
        target = RingTarget(observation, closure_phases=phases)
        check_target(target, twice=True)
        u = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        step = 1e-6 * torch.eye(6, dtype=torch.float64)
        slope = torch.stack([target.log_prob(u + e) - target.log_prob(u - e) for e in step], 1) / 2e-6
        torch.testing.assert_close(target.score(u), slope, rtol=1e-5, atol=1e-4)
    assert set(target.chi2(target.constrain(u))) == {"amplitude", "closure_phase"}
    with pytest.raises(ValueError, match="budget"):
        RingTarget(observation, gain_errors={"AA": 0.1})


@pytest.mark.slow
def test_the_pilot_finds_both_rings(observation):
    target = RingTarget(observation)
    x = tempered_smc(target, 2048, scale=1.0, generator=0).x
    share = float((target.constrain(x)[:, 4] > 0).double().mean())
    assert abs(share - 0.5) < 0.15  # resampling's noise of one run


def test_logistic_regression_is_its_formula(generator):
    x = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    y = (torch.rand(50, generator=generator) < 0.5).double()
    target = LogisticRegression(x, y, prior_sd=2.0)
    w = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    p = torch.sigmoid(x @ w[:, :3].T + w[:, 3])
    fit = (p.log() * y[:, None] + (1 - p).log() * (1 - y[:, None])).sum(0)
    torch.testing.assert_close(target.log_prob(w), fit - w.square().sum(1) / 8, rtol=1e-10, atol=0)
    one = p[:, 0].where(y > 0.5, 1 - p[:, 0]).log().mean()
    assert LogisticRegression.log_predictive(w[:1], x, y) == pytest.approx(float(one), rel=1e-9)
    mixed = p.mean(1).where(y > 0.5, 1 - p.mean(1)).log().mean()
    assert LogisticRegression.log_predictive(w, x, y) == pytest.approx(float(mixed), rel=1e-9)
    check_target(target, twice=True)


def test_logistic_regression_refuses_what_does_not_fit():
    x = torch.zeros(5, 2)
    for features, labels, text in [
        (x, torch.zeros(4), "labels"),
        (x, torch.full((5,), 2.0), "0 or 1"),
        (x * math.nan, torch.zeros(5), "finite"),
    ]:
        with pytest.raises(ValueError, match=text):
            LogisticRegression(features, labels)
    with pytest.raises(ValueError, match="held_out"):
        breast_cancer(1.0)


def test_the_tumours_are_split_and_standardised():
    pytest.importorskip("sklearn")
    data = breast_cancer()
    assert data.features.shape == (455, 30) and len(data.held_out_labels) == 114
    torch.testing.assert_close(data.features.mean(0), torch.zeros(30, dtype=torch.float64), rtol=0, atol=1e-12)
    assert 200 < data.labels.sum() < 400
