"""Station gains fitted to model visibilities: recovery, statistics, exact derivative of the profile likelihood."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry import GainModel, Observation, Schedule, eht2017, plan_observation
from sciinstruct.operators.interferometry.arrays import GAIN_BUDGET_M87_2017
from sciinstruct.operators.interferometry.gains import (
    GainSolver,
    GainVisibilityTerm,
    apply_gains,
    fit_gains,
    self_calibrate,
)
from sciinstruct.operators.interferometry.simulation import simulate_observation

UAS = math.pi / 180 / 3600e6


def double_source(u, v):
    """Two points 40 uas apart, 0.4 and 0.2 Jy, over 0.1 Jy of 30 uas FWHM."""
    blob = 0.1 * torch.exp(-((math.pi * 30 * UAS) ** 2) * (u**2 + v**2) / (4 * math.log(2)))
    return 0.4 + 0.2 * torch.exp(2j * math.pi * 40 * UAS * (0.6 * u + 0.8 * v)) + blob


@pytest.fixture(scope="module")
def plan():
    """12 one-minute scans of the 2017 array on M87: at most seven stations."""
    schedule = Schedule.regular(57854.0, start=0.6, n_scans=12, scan_length=60.0, gap=1800.0, integration=60.0)
    return plan_observation(eht2017(), schedule, 187.706, 12.391, frequency=227e9, bandwidth=1.856e9)


def _simulate(plan, generator, noise=1.0, **options):
    like = plan.evolve("quieter", sigma=plan.sigma * noise)
    return simulate_observation(double_source, like, GainModel(**options), generator)


class TestFit:
    @pytest.mark.parametrize("log_std", [math.inf, 10.0])
    def test_noise_free_data_give_the_true_factors(self, plan, generator, log_std):
        out = _simulate(plan, generator, noise=1e-6)
        fit = fit_gains(out.observation, out.model, log_std)
        truth = out.gains.on_rows(plan.station1, plan.station2)
        assert torch.allclose(fit.gains.on_rows(plan.station1, plan.station2), truth, rtol=1e-4)

    def test_true_gains_up_to_a_phase_per_scan(self, plan, generator):
        """With three or more stations every amplitude is determined, and phases relative to the first station."""
        out = _simulate(plan, generator, noise=1e-6)
        fit = fit_gains(out.observation, out.model, math.inf)
        for k in range(plan.n_scans):
            used = torch.cat([plan.station1[plan.scan == k], plan.station2[plan.scan == k]]).unique()
            if len(used) < 3:
                continue
            truth = out.gains.gains[k, used]
            expected = truth * (truth[0].abs() / truth[0])
            assert torch.allclose(fit.gains.gains[k, used], expected, rtol=1e-4)

    def test_chi2_has_the_degrees_of_freedom_that_are_left(self, plan, generator):
        """Free amplitudes and phases: 2 rows - parameters of them, mean over 40 draws within 3 standard errors."""
        draws = []
        for _ in range(40):
            out = _simulate(plan, generator)
            fit = fit_gains(out.observation, out.model, math.inf)
            draws.append(fit.chi2 * 2 * len(plan))
        left = 2 * len(plan) - fit.n_parameters
        assert abs(sum(draws) / 40 - left) < 3 * (2 * left / 40) ** 0.5

    def test_what_is_left_is_the_number_of_closures(self, eht_dir):
        """101_lo has 134 independent closure phases and 113 log closure amplitudes: all that gains cannot change."""
        obs = Observation.from_uvfits(eht_dir / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits").scan_average()
        assert 2 * len(obs) - GainSolver(obs, math.inf).n_parameters() == 134 + 113

    def test_strong_prior_holds_amplitudes(self, plan, generator):
        out = _simulate(plan, generator)
        fit = fit_gains(out.observation, out.model, 1e-7)
        assert (fit.gains.gains.abs() - 1).abs().max().item() < 1e-5

    def test_true_prior_beats_free_amplitudes(self, plan, generator):
        """Posterior mode against maximum likelihood: smaller mean squared error of ln|g| at low signal-to-noise."""
        errors, present = torch.zeros(2), GainSolver(plan, 1.0).present
        for _ in range(20):
            out = _simulate(plan, generator, noise=30.0, offset_std=0.0, scan_std=0.1, station_std={})
            for k, width in enumerate((0.1, math.inf)):
                fit = fit_gains(out.observation, out.model, width)
                error = (fit.gains.gains.abs().log() - out.gains.gains.abs().log())[present]
                errors[k] += error.square().mean()
        assert errors[0] < errors[1]

    def test_batches_do_not_mix(self, plan, generator):
        out = _simulate(plan, generator)
        models = torch.stack([out.model, out.model.conj(), 2 * out.model])
        solver = GainSolver(out.observation, 0.1)
        together = solver.on_rows(solver.solve(models))
        alone = torch.cat([solver.on_rows(solver.solve(m[None])) for m in models])
        assert torch.allclose(together[[0, 2]], alone[[0, 2]], atol=1e-6)


class TestSelfCalibration:
    def test_true_model_leaves_noise(self, plan, generator):
        out = _simulate(plan, generator)
        clean = apply_gains(out.observation, out.gains)
        z = torch.view_as_real(clean.vis - out.model) / clean.sigma[:, None]
        assert abs(z.square().mean().item() - 1) < 3 * (2 / z.numel()) ** 0.5

    def test_closure_phases_are_untouched(self, plan, generator):
        out = _simulate(plan, generator)
        calibrated = self_calibrate(out.observation, out.model.abs().to(torch.complex128), GAIN_BUDGET_M87_2017)
        sides = [("AA", "AZ"), ("AZ", "LM"), ("AA", "LM")]

        def phase(obs):
            first = int(obs.scan[obs.baseline_rows(*sides[0])][0])
            a, b, c = (obs.vis[obs.baseline_rows(*s) & (obs.scan == first)][0] for s in sides)
            return (a * b * c.conj()).angle().item()

        assert phase(calibrated) == pytest.approx(phase(out.observation), abs=1e-10)
        assert torch.allclose(calibrated.snr, out.observation.snr, rtol=1e-10)

    def test_gains_of_another_observation(self, plan, generator):
        gains = GainModel().draw(plan, generator)
        with pytest.raises(ValueError, match="gains are of"):
            apply_gains(plan.flag(stations=("AP",)), gains)


class TestTerm:
    def test_derivative_of_the_profile_likelihood(self, plan, generator):
        """Autograd, which holds the gains fixed, against central differences, which fit them anew."""
        out = _simulate(plan, generator)
        term = GainVisibilityTerm(out.observation, 0.2)
        image = torch.ones(1, 1, 2, 2, dtype=torch.float64)
        direction = torch.complex(*torch.randn(2, 1, len(plan), generator=generator, dtype=torch.float64))
        scale = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
        start = out.model[None] * 1.1

        def value(t):
            return term.neg_log_prob(start + t * 0.01 * direction, image).sum()

        (slope,) = torch.autograd.grad(value(scale), scale)
        h = 1e-3
        numeric = (value(torch.tensor(h)) - value(torch.tensor(-h))) / (2 * h)
        assert slope.item() == pytest.approx(numeric.item(), rel=1e-4)

    def test_value_does_not_change_when_the_model_takes_a_gain(self, plan, generator):
        """Free amplitudes and phases: a model multiplied by any station gains fits as well."""
        out = _simulate(plan, generator)
        term = GainVisibilityTerm(out.observation, math.inf)
        image = torch.ones(1, 1, 2, 2)
        other = GainModel().draw(plan, generator).on_rows(plan.station1, plan.station2)
        a, b = (term.neg_log_prob(m[None], image).item() for m in (out.model, out.model * other))
        assert a == pytest.approx(b, rel=1e-8)

    def test_single_precision_follows_the_model(self, plan, generator):
        out = _simulate(plan, generator)
        term = GainVisibilityTerm(out.observation, 0.2)
        residuals = term.residuals(out.model[None].to(torch.complex64), torch.ones(1, 1, 2, 2))
        assert residuals.dtype == torch.float32 and residuals.shape == (1, term.n)


class TestDoor:
    def test_errors(self, plan, generator):
        with pytest.raises(ValueError, match="one visibility per row"):
            fit_gains(plan, torch.ones(3))
        with pytest.raises(ValueError, match="model must be finite"):
            fit_gains(plan, torch.full_like(plan.vis, torch.nan))
        with pytest.raises(ValueError, match="missing"):
            fit_gains(plan, torch.ones_like(plan.vis), {"AA": 0.1})
        with pytest.raises(ValueError, match="positive"):
            fit_gains(plan, torch.ones_like(plan.vis), 0.0)
