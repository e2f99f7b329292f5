"""From raw rows to a likelihood's data: scans, averages, zero baselines, noise budget, flags."""

import pytest
import torch

from sciinstruct.operators.interferometry import Observation
from sciinstruct.operators.interferometry.arrays import GAIN_BUDGET_M87_2017
from sciinstruct.operators.interferometry.preparation import (
    add_amplitude_budget,
    debiased_amplitude,
    orient,
    scans_by_gaps,
)


def table(vis, sigma, time, station1, station2, u=None):
    """Observation of three stations from lists."""
    rows = len(vis)
    time = torch.tensor(time, dtype=torch.float64)
    u = torch.tensor(u if u is not None else [1e9] * rows, dtype=torch.float64)
    return Observation(
        u=u,
        v=2 * u,
        vis=torch.tensor(vis, dtype=torch.complex128),
        sigma=torch.tensor(sigma, dtype=torch.float64),
        time=time,
        station1=torch.tensor(station1),
        station2=torch.tensor(station2),
        scan=scans_by_gaps(time),
        integration=torch.full((rows,), 10.0, dtype=torch.float64),
        stations=("A", "B", "C"),
        positions=torch.eye(3, dtype=torch.float64),
        ra=0.0,
        dec=0.0,
        frequency=230e9,
        bandwidth=2e9,
        mjd=57854.0,
    )


@pytest.fixture(scope="module", params=[("101", 22, 216, 189, 1.21040), ("096", 25, 274, 242, 1.13972)])
def night(request, eht_dir):
    day, *numbers = request.param
    path = eht_dir / f"SR1_M87_2017_{day}_lo_hops_netcal_StokesI.uvfits"
    return Observation.from_uvfits(path), numbers


class TestRealNights:
    def test_scans_and_rows(self, night):
        obs, (scans, rows, long_rows, _) = night
        average = obs.scan_average()
        assert obs.n_scans == scans and len(average) == rows and average.n_scans == scans
        assert len(average.flag(uv_min=1e8)) == long_rows

    def test_zero_baseline_flux(self, night):
        obs, (_, _, _, flux) = night
        average = obs.scan_average()
        zero = average.baseline_rows("AA", "AP")
        assert average.vis.abs()[zero].quantile(0.5).item() == pytest.approx(flux, abs=5e-6)
        scaled = average.rescale_zero_baselines(0.6)
        assert scaled.vis.abs()[zero].quantile(0.5).item() == pytest.approx(0.6, abs=1e-12)
        short = average.uv_distance < 1e8
        assert torch.equal(short, zero | average.baseline_rows("JC", "SM"))
        assert torch.equal(scaled.vis[~short], average.vis[~short])
        assert torch.allclose(scaled.snr, average.snr, rtol=1e-12)

    def test_averages_are_plain_means(self, night):
        """Against sums in a loop over groups, a different route to the same numbers."""
        obs, _ = night
        average = obs.scan_average()
        for k in range(0, len(average), 13):
            rows = (obs.scan == average.scan[k]) & (obs.station1 == average.station1[k])
            rows &= obs.station2 == average.station2[k]
            assert torch.allclose(average.vis[k], obs.vis[rows].mean(), rtol=1e-12)
            assert torch.allclose(average.u[k], obs.u[rows].mean(), rtol=1e-12)
            assert torch.allclose(average.sigma[k], obs.sigma[rows].norm() / rows.sum(), rtol=1e-12)
            assert average.integration[k] == pytest.approx(obs.integration[rows].sum().item())

    def test_history_tells_every_step(self, night):
        obs, _ = night
        steps = obs.scan_average().rescale_zero_baselines().add_fractional_noise(0.02).flag(uv_min=1e8).history
        for line, word in zip(steps[2:], ("scan average", "AA-AP", "0.02", "flagged")):
            assert word in line

    def test_gain_budget_covers_the_stations(self, night):
        obs, _ = night
        wide = add_amplitude_budget(obs, GAIN_BUDGET_M87_2017)
        row = int(obs.baseline_rows("AA", "LM").nonzero()[0])
        expected = obs.sigma[row] ** 2 + (0.10**2 + 0.22**2) * obs.vis[row].abs() ** 2
        assert wide.sigma[row].item() ** 2 == pytest.approx(expected.item())


class TestScans:
    def test_a_pause_longer_than_the_gap_starts_a_scan(self):
        time = torch.tensor([1.0, 0.0, 0.016, 1.0, 0.033, 2.0], dtype=torch.float64)
        assert scans_by_gaps(time, 0.0165).tolist() == [2, 0, 0, 2, 1, 3]
        assert scans_by_gaps(time, 0.02).tolist() == [1, 0, 0, 1, 0, 2]

    def test_one_time(self):
        assert scans_by_gaps(torch.tensor([3.0, 3.0])).tolist() == [0, 0]


class TestAverage:
    def test_weighted(self):
        obs = table([1, 4], [1.0, 0.5], [0.0, 0.001], [0, 0], [1, 1], u=[1e9, 2e9]).scan_average(weighted=True)
        assert obs.vis.item() == pytest.approx((1 + 4 * 4) / 5)
        assert obs.u.item() == pytest.approx(1e9 * (1 + 4 * 2) / 5)
        assert obs.sigma.item() == pytest.approx(5**-0.5)
        assert obs.time.item() == pytest.approx(0.0005)

    def test_equal_errors_make_both_averages_the_same(self, generator):
        noise = torch.randn(8, generator=generator, dtype=torch.complex128)
        obs = table(noise.tolist(), [0.3] * 8, [0.0] * 4 + [1.0] * 4, [0] * 8, [1, 1, 2, 2] * 2)
        plain, weighted = obs.scan_average(), obs.scan_average(weighted=True)
        assert len(plain) == 4
        assert torch.allclose(plain.vis, weighted.vis) and torch.allclose(plain.sigma, weighted.sigma)

    def test_turned_baselines_join_their_twins(self):
        obs = table([1 + 2j, 1 - 2j], [1.0, 1.0], [0.0, 0.001], [0, 1], [1, 0], u=[1e9, -1e9]).scan_average()
        assert len(obs) == 1 and obs.vis.item() == 1 + 2j and obs.u.item() == 1e9

    def test_orientation_keeps_the_fringe(self):
        obs = table([1 + 2j], [1.0], [0.0], [2], [0], u=[1e9])
        turned = orient(obs)
        assert (turned.station1.item(), turned.station2.item()) == (0, 2)
        assert turned.vis.item() == 1 - 2j and turned.u.item() == -1e9 and turned.v.item() == -2e9

    def test_averaging_twice_changes_nothing(self, night):
        once = night[0].scan_average()
        assert torch.equal(once.scan_average().vis, once.vis)

    def test_sigma_is_the_scatter_of_the_mean(self, generator):
        """2000 scans of 9 samples: the scatter of the averages is what sigma says, within 3 standard errors."""
        n, per = 2000, 9
        scan = torch.arange(n).repeat_interleave(per)
        sigma = 0.2 + torch.rand(per, generator=generator, dtype=torch.float64).repeat(n)
        noise = torch.complex(*torch.randn(2, n * per, generator=generator, dtype=torch.float64)) * sigma
        time = (scan + torch.arange(per).repeat(n) * 1e-3).tolist()
        obs = table(noise.tolist(), sigma.tolist(), time, [0] * n * per, [1] * n * per)
        for weighted in (False, True):
            average = obs.scan_average(weighted)
            z = torch.view_as_real(average.vis) / average.sigma[:, None]
            assert abs(z.square().mean().item() - 1) < 3 * (2 / (2 * n)) ** 0.5


class TestZeroBaselines:
    def test_without_short_baselines_nothing_changes(self):
        obs = table([1.0], [0.1], [0.0], [0], [1]).rescale_zero_baselines()
        assert obs.vis.item() == 1 and "no baselines below" in obs.history[-1]

    def test_flux_must_be_positive(self):
        with pytest.raises(ValueError, match="flux"):
            table([1.0], [0.1], [0.0], [0], [1]).rescale_zero_baselines(-0.6)


class TestNoise:
    def test_adds_in_quadrature(self):
        obs = table([3 + 4j], [0.3], [0.0], [0], [1]).add_fractional_noise(0.08)
        assert obs.sigma.item() == pytest.approx(0.5)

    def test_negative_fraction(self):
        with pytest.raises(ValueError, match="fraction"):
            table([1.0], [0.1], [0.0], [0], [1]).add_fractional_noise(-0.1)

    def test_debias(self):
        obs = table([5.0, 0.1], [3.0, 0.2], [0.0, 0.0], [0, 0], [1, 2])
        assert debiased_amplitude(obs).tolist() == pytest.approx([4.0, 0.2])

    def test_debias_removes_the_mean_excess_of_the_power(self, generator):
        """E[|V|^2] = A^2 + 2 sigma^2 for complex noise, so |V|^2 - sigma^2 halves the excess; SNR 10."""
        n = 20000
        noise = 0.1 * torch.complex(*torch.randn(2, n, generator=generator, dtype=torch.float64))
        obs = table((1 + noise).tolist(), [0.1] * n, [0.0] * n, [0] * n, [1] * n)
        assert abs(debiased_amplitude(obs).mean().item() - 1) < 3 * 0.1 / n**0.5
        assert obs.vis.abs().mean().item() - 1 > 3 * 0.1 / n**0.5

    def test_budget_needs_every_station(self):
        with pytest.raises(ValueError, match="B missing"):
            add_amplitude_budget(table([1.0], [0.1], [0.0], [0], [1]), {"A": 0.1})


class TestFlags:
    @pytest.fixture
    def obs(self):
        return table([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0] * 3, [0, 0, 1], [1, 2, 2], u=[1e7, 1e9, 2e9])

    def test_each_rule(self, obs):
        assert obs.flag(uv_min=1e8).vis.real.tolist() == [2, 3]
        assert obs.flag(stations=("C",)).vis.real.tolist() == [1]
        assert obs.flag(snr_min=2.5).vis.real.tolist() == [3]
        assert obs.flag(uv_min=1e8, snr_min=1.5, stations=("B",)).vis.real.tolist() == [2]
        assert len(obs.flag()) == 3

    def test_all_flagged(self, obs):
        with pytest.raises(ValueError, match="remove all 3 rows"):
            obs.flag(snr_min=100)

    def test_unknown_station_and_bare_string(self, obs):
        with pytest.raises(ValueError, match="'D' is not in this observation, which has A, B, C"):
            obs.flag(stations=("D",))
        with pytest.raises(ValueError, match="tuple"):
            obs.flag(stations="C")

    def test_the_original_is_untouched(self, obs):
        before = obs.vis.clone()
        obs.flag(uv_min=1e8), obs.add_fractional_noise(0.1), obs.conjugate(), obs.rescale_zero_baselines()
        assert torch.equal(obs.vis, before) and len(obs) == 3 and obs.history == ()

    def test_conjugate_is_its_own_inverse(self, obs):
        assert torch.equal(obs.conjugate().conjugate().vis, obs.vis)


class TestObservationDoor:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (dict(vis=torch.ones(2, dtype=torch.complex64)), "vis must be a 1-D tensor of torch.complex128"),
            (dict(time=torch.zeros(3, dtype=torch.float64)), "as many rows as u"),
            (dict(sigma=torch.tensor([1.0, 0.0], dtype=torch.float64)), "sigma must be positive"),
            (dict(u=torch.tensor([1.0, torch.nan], dtype=torch.float64)), "u must be finite"),
            (dict(station2=torch.tensor([1, 3])), "index the 3 stations"),
            (dict(station2=torch.tensor([0, 1])), "autocorrelations"),
            (dict(positions=torch.zeros(2, 3, dtype=torch.float64)), "positions must have shape"),
        ],
    )
    def test_names_what_is_wrong(self, change, text):
        with pytest.raises(ValueError, match=text):
            table([1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0, 0], [1, 2]).evolve("broken", **change)

    def test_no_rows(self):
        obs = table([1.0], [1.0], [0.0], [0], [1])
        with pytest.raises(ValueError, match="at least one row"):
            obs.evolve("none", **{name: getattr(obs, name)[:0] for name in obs.ROWS})
