"""Simulated observations: coverage, thermal noise, gains."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry import (
    GainModel,
    Observation,
    Schedule,
    eht2017,
    plan_benchmark9,
    plan_observation,
    simulate_observation,
)
from sciinstruct.operators.interferometry.arrays import SEFD_M87_096_LO, SEFD_M87_101_LO, StationArray

M87 = dict(ra=187.7059307575226, dec=12.39112323919932, frequency=227.070703125e9, bandwidth=1.856e9)


def gaussian(u, v):
    return (0.6 * torch.exp(-(u**2 + v**2) / 2e19)).to(torch.complex128)


@pytest.fixture(scope="module")
def plan():
    schedule = Schedule.regular(57854.0, start=0.6, n_scans=20, scan_length=240.0, gap=960.0)
    return plan_observation(eht2017(), schedule, **M87)


class TestBenchmark:
    def test_row_counts_and_longest_baseline(self):
        obs = plan_benchmark9()
        assert len(obs) == 938 and obs.uv_distance.max().item() == pytest.approx(8.95e9, rel=1e-3)

    def test_independent_closures(self):
        """n_b - rank of the phase and amplitude incidence matrices, summed over times."""
        obs, phases, amplitudes = plan_benchmark9(), 0, 0
        for k in range(obs.n_scans):
            rows = obs.scan == k
            first = torch.nn.functional.one_hot(obs.station1[rows], 9).double()
            second = torch.nn.functional.one_hot(obs.station2[rows], 9).double()
            phases += len(first) - int(torch.linalg.matrix_rank(first - second))
            amplitudes += len(first) - int(torch.linalg.matrix_rank(first + second))
        assert (phases, amplitudes) == (580, 485)

    def test_a_prefix_of_the_times(self):
        whole, part = plan_benchmark9(), plan_benchmark9(0.3)
        assert torch.equal(part.u, whole.u[: len(part)]) and part.time.max().item() < 0.3 * 24
        with pytest.raises(ValueError, match="fraction"):
            plan_benchmark9(0.0)


class TestPlan:
    def test_scans_are_found_again_from_the_times(self, plan):
        from sciinstruct.operators.interferometry.preparation import scans_by_gaps

        assert torch.equal(scans_by_gaps(plan.time), plan.scan)
        assert torch.equal(plan.scan.unique(), torch.arange(plan.n_scans))

    def test_baselines_are_those_of_the_geometry(self, plan):
        from sciinstruct.operators.interferometry.geometry import recompute_uvw

        uvw = recompute_uvw(plan)
        assert torch.allclose(uvw[:, 0], plan.u, rtol=0, atol=1) and torch.allclose(uvw[:, 1], plan.v, rtol=0, atol=1)

    def test_radiometer_equation(self):
        """Two stations of 1000 Jy, 2 GHz, 10 s: 1000 / sqrt(4e10) / 0.88 / sqrt(2) Jy."""
        place = torch.tensor([[6e6, 0.0, 0.0], [6e6, 1e5, 0.0]], dtype=torch.float64)
        pair = StationArray(("A", "B"), place, torch.full((2,), 1000.0, dtype=torch.float64))
        schedule = Schedule.sidereal(torch.tensor([1.0]), integration=10.0)
        obs = plan_observation(pair, schedule, ra=0.0, dec=0.0, frequency=230e9, bandwidth=2e9)
        assert obs.sigma.item() == pytest.approx(1000 / math.sqrt(2 * 2e9 * 10) / 0.88 / math.sqrt(2))

    def test_elevation_limits(self, plan):
        schedule = Schedule.regular(57854.0, start=0.6, n_scans=20, scan_length=240.0, gap=960.0)
        high = plan_observation(eht2017(), schedule, **M87, elevation_limits=(30.0, 85.0))
        assert 0 < len(high) < len(plan)
        with pytest.raises(ValueError, match="never within"):
            plan_observation(eht2017(), schedule, **M87, elevation_limits=(89.0, 90.0))

    def test_schedule_door(self):
        with pytest.raises(ValueError, match="scan_length"):
            Schedule.regular(57854.0, 0.0, n_scans=2, scan_length=5.0, gap=100.0)
        with pytest.raises(ValueError, match="integration"):
            Schedule.sidereal(torch.tensor([1.0]), integration=0.0)

    @pytest.mark.parametrize(("day", "sefd"), [("101", SEFD_M87_101_LO), ("096", SEFD_M87_096_LO)])
    def test_fitted_sensitivities_describe_the_files(self, eht_dir, day, sefd):
        """ln sigma^2 of the radiometer equation against the released errors: rms 0.4, no bias beyond 0.1."""
        obs = Observation.from_uvfits(eht_dir / f"SR1_M87_2017_{day}_lo_hops_netcal_StokesI.uvfits")
        flux = torch.tensor([sefd[name] for name in obs.stations], dtype=torch.float64)
        variance = flux[obs.station1] * flux[obs.station2] / (2 * obs.bandwidth * obs.integration) / 0.88**2 / 2
        excess = (obs.sigma**2 / variance).log()
        assert abs(excess.mean().item()) < 0.1 and excess.square().mean().sqrt().item() < 0.5


class TestNoise:
    def test_each_component_has_standard_deviation_sigma(self, plan, generator):
        out = simulate_observation(gaussian, plan, generator=generator)
        z = torch.view_as_real(out.observation.vis - out.model) / plan.sigma[:, None]
        n = z.numel()
        assert out.gains is None and torch.equal(out.model, gaussian(plan.u, plan.v))
        assert abs(z.mean().item()) < 3 / n**0.5
        assert abs(z.square().mean().item() - 1) < 3 * (2 / n) ** 0.5
        assert abs((z[:, 0] * z[:, 1]).mean().item()) < 3 * (2 / n) ** 0.5

    def test_same_seed_same_data(self, plan):
        draws = [
            simulate_observation(gaussian, plan, GainModel(), torch.Generator().manual_seed(s)).observation.vis
            for s in (1, 1, 2)
        ]
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])

    def test_like_a_real_file_keeps_coverage_and_errors(self, eht_dir, generator):
        real = Observation.from_uvfits(eht_dir / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits").scan_average()
        out = simulate_observation(gaussian, real, GainModel(), generator).observation
        assert torch.equal(out.u, real.u) and torch.equal(out.sigma, real.sigma) and "simulated" in out.history[-1]
        assert not torch.equal(out.vis, real.vis)

    def test_model_is_checked(self, plan):
        with pytest.raises(ValueError, match="one visibility per row"):
            simulate_observation(lambda u, v: torch.ones(3), plan)
        with pytest.raises(ValueError, match="model visibilities must be finite"):
            simulate_observation(lambda u, v: u / 0, plan)


class TestGains:
    def test_returned_gains_explain_the_data(self, plan, generator):
        """Dividing by the returned gains leaves noise alone."""
        out = simulate_observation(gaussian, plan, GainModel(), generator)
        factor = out.gains.on_rows(plan.station1, plan.station2)
        z = torch.view_as_real(out.observation.vis - factor * out.model) / plan.sigma[:, None]
        assert abs(z.square().mean().item() - 1) < 3 * (2 / z.numel()) ** 0.5

    def test_statistics(self, plan, generator):
        """Offset and scan parts of ln|g| and uniform phases, over 200 draws; the LMT wider."""
        model = GainModel(offset_std=0.1, scan_std=0.05, station_std={"LM": 0.3})
        draws = torch.stack([model.draw(plan, generator).gains for _ in range(200)])
        log, scans = draws.abs().log(), plan.n_scans
        others = [k for k, name in enumerate(plan.stations) if name != "LM"]
        lm = plan.stations.index("LM")
        within = log.var(1).mean(0)
        assert within[others].sqrt().mean().item() == pytest.approx(0.05, rel=0.02)
        assert within[lm].sqrt().item() == pytest.approx(0.3, rel=0.05)
        offset = log.mean(1)[:, others]
        n = offset.numel()
        assert offset.var().item() == pytest.approx(0.1**2 + 0.05**2 / scans, rel=3 * (2 / n) ** 0.5)
        for power in (1, 2):  # uniform phases: all circular moments vanish
            moment = (draws / draws.abs()).pow(power).mean()
            assert moment.abs().item() < 3 / draws.numel() ** 0.5

    def test_one_gain_per_scan(self, plan, generator):
        gains = GainModel().draw(plan, generator)
        assert gains.gains.shape == (plan.n_scans, 7) and torch.equal(gains.epoch, plan.scan)

    def test_phases_per_sample_keep_amplitudes_per_scan(self, plan, generator):
        gains = GainModel(phase_per_sample=True).draw(plan, generator)
        assert len(gains.gains) == len(plan.time.unique())
        first, last = plan.scan == 0, gains.epoch[plan.scan == 0]
        block = gains.gains[last.unique()]
        assert first.any() and torch.allclose(block.abs(), block.abs()[:1].expand_as(block))
        assert block.angle().std(0).min() > 0.1

    def test_phase_walk(self, plan, generator):
        model = GainModel(phase_walk=0.05, phase_per_sample=True)
        steps = model.draw(plan, generator).gains
        step = (steps[1:] * steps[:-1].conj()).angle()
        assert step.std().item() == pytest.approx(0.05, rel=3 / (2 * step.numel()) ** 0.5)

    def test_closure_quantities_do_not_see_gains(self, eht_dir, generator):
        """Without noise, gains leave the closure phase and log closure amplitude of AA, AP, AZ, LM as they were."""
        obs = Observation.from_uvfits(eht_dir / "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits").scan_average()
        factor = GainModel().draw(obs, generator).on_rows(obs.station1, obs.station2)
        f = {
            (a, b): factor[obs.baseline_rows(a, b) & (obs.scan == 13)][0]
            for a, b in [("AA", "AZ"), ("AA", "LM"), ("AZ", "LM"), ("AA", "PV"), ("LM", "PV"), ("AZ", "PV")]
        }
        phase = (f["AA", "AZ"] * f["AZ", "LM"] * f["AA", "LM"].conj()).angle()
        amplitude = (f["AA", "AZ"] * f["LM", "PV"] / f["AA", "LM"] / f["AZ", "PV"]).abs().log()
        assert abs(phase.item()) < 1e-12 and abs(amplitude.item()) < 1e-12

    def test_negative_width(self):
        with pytest.raises(ValueError, match="scan_std"):
            GainModel(scan_std=-0.1)
