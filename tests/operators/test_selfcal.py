"""Gains fitted to a model: exact without noise, the right number of degrees of freedom with it."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry.arrays import eht2017
from sciinstruct.operators.interferometry.closure_terms import ClosurePhaseTerm, LogClosureAmplitudeTerm
from sciinstruct.operators.interferometry.closures import count_closures
from sciinstruct.operators.interferometry.selfcal import fit_gains, remove_gains
from sciinstruct.operators.interferometry.simulation import (
    GainModel,
    Schedule,
    plan_observation,
    simulate_observation,
)
from sciinstruct.operators.interferometry.sources import MRing, Shifted

SKY = Shifted(MRing(0.6, 42.0, 15.0, beta=(0.2 + 0.1j,)), 5.0, -3.0)
GAINS = GainModel(offset_std=0.1, scan_std=0.1, station_std={})


@pytest.fixture(scope="module")
def plan():
    schedule = Schedule.regular(57854.0, 1.0, 6, 300.0, 1800.0, 300.0)
    obs = plan_observation(
        eht2017(), schedule, ra=187.70593, dec=12.39112, frequency=230e9, bandwidth=2e9, source="M87"
    )
    obs = obs.select(torch.hypot(obs.u, obs.v) > 1e8, "no zero baselines")
    clean = SKY.visibility(obs.u, obs.v)
    # equal signal-to-noise: the fit's statistics are then exact to second order
    return obs.evolve("errors", vis=clean, sigma=clean.abs() / 50)


def test_gains_without_noise_are_found_exactly(plan, generator):
    drawn = simulate_observation(SKY.visibility, plan, GAINS, generator).gains
    factor = drawn.on_rows(plan.station1, plan.station2)
    corrupted = plan.evolve("gains", vis=plan.vis * factor, sigma=plan.sigma * factor.abs())
    fit = fit_gains(corrupted, plan.vis)
    torch.testing.assert_close(fit.gains.on_rows(plan.station1, plan.station2), factor, rtol=1e-6, atol=1e-8)
    assert fit.chi2 < 1e-9
    restored = remove_gains(corrupted, fit.gains)
    torch.testing.assert_close(restored.vis, plan.vis, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(restored.sigma, plan.sigma, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prior", [False, True])
def test_chi_square_after_the_fit_is_one(plan, prior, generator):
    gain_sigma = dict.fromkeys(plan.stations, math.hypot(0.1, 0.1)) if prior else None
    chi2 = []
    for _ in range(40):
        obs = simulate_observation(SKY.visibility, plan, GAINS, generator).observation
        fit = fit_gains(obs, plan.vis, gain_sigma)
        chi2.append(fit.chi2)
    chi2 = torch.tensor(chi2)
    assert abs(chi2.mean() - 1) < 3 * chi2.std() / math.sqrt(40)
    assert fit.degrees == (count_closures(plan)[0] + len(plan) if prior else sum(count_closures(plan)))


def test_what_free_gains_leave_is_the_closures(plan, generator):
    """The two chi-squares differ by the curvature of the gains, of relative order 1/SNR."""
    precise = plan.evolve("small errors", sigma=plan.sigma / 100)
    obs = simulate_observation(SKY.visibility, precise, GAINS, generator).observation
    fit = fit_gains(obs, plan.vis)
    blank = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    terms = ClosurePhaseTerm(obs), LogClosureAmplitudeTerm(obs)
    closures = sum(float(term.residuals(plan.vis[None], blank).square().sum()) for term in terms)
    assert fit.chi2 * fit.degrees == pytest.approx(closures, rel=5e-3)


def test_a_tight_prior_holds_the_amplitudes(plan, generator):
    obs = simulate_observation(SKY.visibility, plan, GAINS, generator).observation
    gains = fit_gains(obs, plan.vis, dict.fromkeys(plan.stations, 1e-6)).gains.gains
    torch.testing.assert_close(gains.abs(), torch.ones_like(gains.abs()), rtol=0, atol=1e-6)


def test_bad_arguments_are_named(plan):
    with pytest.raises(ValueError, match="model must have one visibility per row"):
        fit_gains(plan, plan.vis[:-1])
    with pytest.raises(ValueError, match="gain_sigma must name"):
        fit_gains(plan, plan.vis, {"AA": 0.1})
