"""Closures: blind to station gains, complete, and independent of the basis chosen."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.operators.interferometry import closure_basis
from sciinstruct.operators.interferometry.closure_terms import (
    ClosurePhaseTerm,
    LogClosureAmplitudeTerm,
    ProjectedAmplitudeTerm,
)
from sciinstruct.operators.interferometry.closures import closure_set, count_closures, triangle_phases
from sciinstruct.operators.interferometry.gains import fit_gains
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.simulation import plan_benchmark9

FILES = {"101_lo": (134, 113, 107, 91), "096_lo": (173, 149, 141, 117)}


def make_observation(generator, stations=6, scans=4, drop=0.2, snr=20.0):
    """Random visibilities on random baselines; the last scan has the first three stations alone."""
    rows = [(s, a, b) for s in range(scans) for a in range(stations) for b in range(a + 1, stations)]
    rows = [r for r in rows if r[0] < scans - 1 or r[2] < 3]
    keep = torch.rand(len(rows), generator=generator) > drop
    scan, a, b = torch.tensor([r for r, k in zip(rows, keep) if k or r[0] == scans - 1]).T
    turned = torch.rand(len(a), generator=generator) > 0.7
    a, b = torch.where(turned, b, a), torch.where(turned, a, b)
    n = len(scan)
    normal = lambda: torch.randn(n, generator=generator, dtype=torch.float64)
    vis = torch.complex(normal(), normal()) + 0.3
    return Observation(
        u=3e9 * normal(), v=3e9 * normal(), vis=vis, sigma=vis.abs() / snr * (0.5 + normal().abs()),
        time=scan.double(), station1=a, station2=b, scan=scan, integration=torch.full((n,), 10.0, dtype=torch.float64),
        stations=tuple("ABCDEFGH"[:stations]), positions=torch.zeros(stations, 3, dtype=torch.float64),
        ra=187.7, dec=12.4, frequency=230e9, bandwidth=2e9, mjd=57854.0,
    )  # fmt: skip


def relative_variance(obs):
    return (obs.sigma / obs.vis.abs()).square()


def corrupt(obs, generator):
    """Random complex gain per station and scan."""
    shape = (int(obs.scan.max()) + 1, len(obs.stations))
    gain = torch.polar(
        torch.exp(0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)),
        2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64),
    )
    factor = gain[obs.scan, obs.station1] * gain[obs.scan, obs.station2].conj()
    return obs.evolve("gains", vis=obs.vis * factor, sigma=obs.sigma * factor.abs())


def residual_of(term, vis):
    return term.residuals(vis[None], torch.ones(1, 1, 2, 2, dtype=torch.float64))[0]


@pytest.mark.parametrize("day", list(FILES))
def test_counts_of_the_m87_files(eht_dir, day):
    (path,) = eht_dir.glob(f"*{day}*.uvfits")
    obs = Observation.from_uvfits(path).scan_average()
    assert (*count_closures(obs), *count_closures(obs, 1e8)) == FILES[day]
    found = [closure_set(obs, k, relative_variance(obs), m).n for m in (0.0, 1e8) for k in ("phase", "amplitude")]
    assert tuple(found) == FILES[day]


def test_counts_of_the_nine_station_benchmark():
    obs = plan_benchmark9()
    assert count_closures(obs) == (580, 485)
    found = [closure_set(obs, kind, torch.ones(len(obs), dtype=torch.float64)).n for kind in ("phase", "amplitude")]
    assert found == [580, 485]


@pytest.mark.parametrize("day, scan, degrees, error", [("101_lo", 13, 102.30, 1.80), ("096_lo", 10, 108.75, 3.78)])
def test_alma_lmt_iram_closure_phase(eht_dir, day, scan, degrees, error):
    (path,) = eht_dir.glob(f"*{day}*.uvfits")
    phases = triangle_phases(Observation.from_uvfits(path).scan_average(), ("AA", "LM", "PV"))
    (at,) = (phases.scan == scan).nonzero().squeeze(1)
    assert math.degrees(phases.phase[at]) == pytest.approx(degrees, abs=0.005)
    assert math.degrees(phases.sigma[at]) == pytest.approx(error, abs=0.005)


def test_triangle_phase_does_not_depend_on_how_baselines_are_written(generator):
    obs = make_observation(generator, drop=0.0)
    there, back = triangle_phases(obs, ("A", "C", "B")), triangle_phases(obs, ("A", "B", "C"))
    assert len(there.phase) == 4
    torch.testing.assert_close(there.phase, -back.phase)


def test_gains_leave_closures_alone(generator):
    obs = make_observation(generator)
    other = corrupt(obs, generator)
    phases = closure_set(obs, "phase", relative_variance(obs))
    turn = phases.combine(other.vis.angle()) - phases.combine(obs.vis.angle())
    assert (torch.exp(1j * turn) - 1).abs().max() < 1e-12
    amplitudes = closure_set(obs, "amplitude", relative_variance(obs))
    change = amplitudes.combine(other.vis.abs().log()) - amplitudes.combine(obs.vis.abs().log())
    assert change.abs().max() < 1e-12


@pytest.mark.parametrize("term", [ClosurePhaseTerm, LogClosureAmplitudeTerm, ProjectedAmplitudeTerm])
def test_gains_leave_chi_square_alone(term, generator):
    obs = make_observation(generator)
    other = corrupt(obs, generator)
    options = {"uv_min": 0.0} if term is ClosurePhaseTerm else {"debias": False}
    model = obs.vis + 0.1
    before, after = (residual_of(term(o, **options), model).square().sum() for o in (obs, other))
    assert float(after / before) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("kind", ["phase", "amplitude"])
def test_chi_square_does_not_depend_on_the_basis(kind, generator):
    obs = make_observation(generator, drop=0.1)
    variance = relative_variance(obs)
    error = 0.1 * torch.randn(len(obs), generator=generator, dtype=torch.float64)
    chi2 = []
    for order in (variance, torch.rand(len(obs), generator=generator, dtype=torch.float64)):
        closures = closure_set(obs, kind, order)
        white = closures.whitening(variance) @ closures.combine(error)[..., None]
        chi2.append((closures.matrix, white.square().sum()))
    assert not torch.equal(chi2[0][0], chi2[1][0])
    assert float(chi2[0][1] / chi2[1][1]) == pytest.approx(1, abs=1e-10)


def test_projected_amplitudes_equal_the_full_covariance(generator):
    obs = make_observation(generator)
    model = obs.vis * (1 + 0.2 * torch.randn(len(obs), generator=generator, dtype=torch.float64)).abs()
    full, projected = (residual_of(t(obs), model) for t in (LogClosureAmplitudeTerm, ProjectedAmplitudeTerm))
    assert len(full) == len(projected)
    assert float(projected.square().sum() / full.square().sum()) == pytest.approx(1, abs=1e-10)


def test_gain_prior_runs_from_free_gains_to_calibrated_amplitudes(generator):
    obs = make_observation(generator)
    model = obs.vis * 1.1
    chi2 = lambda s: float(
        residual_of(ProjectedAmplitudeTerm(obs, dict.fromkeys(obs.stations, s) if s else None), model).square().sum()
    )
    assert chi2(1e4) == pytest.approx(chi2(None), rel=1e-5)
    amplitude = (obs.vis.abs().square() - obs.sigma.square()).sqrt()
    calibrated = ((model.abs() / amplitude).log() / (obs.sigma / amplitude)).square().sum()
    assert chi2(1e-6) == pytest.approx(float(calibrated), rel=1e-5)
    assert chi2(1e4) < chi2(0.1) < chi2(1e-6)


def test_gain_prior_is_the_integral_over_gains(generator):
    obs = make_observation(generator, stations=4, scans=2, drop=0.0)
    obs = obs.select(obs.scan == 0, "one scan")
    gain_sigma = {"A": 0.1, "B": 0.05, "C": 0.3, "D": 0.2}
    error = 0.1 * torch.randn(len(obs), generator=generator, dtype=torch.float64)
    term = ProjectedAmplitudeTerm(obs, gain_sigma, debias=False)
    got = residual_of(term, obs.vis * error.exp()).square().sum()
    s = obs.sigma / obs.vis.abs()
    response = torch.zeros(len(obs), 4, dtype=torch.float64)
    for row, (a, b) in enumerate(zip(obs.station1, obs.station2)):
        response[row, a] = response[row, b] = 1
    # minimum over gains of the joint misfit: for Gaussians it equals the marginal chi-square
    design = torch.cat(
        [response / s[:, None], torch.diag(1 / torch.tensor(list(gain_sigma.values()), dtype=torch.float64))]
    )
    target = torch.cat([error / s, torch.zeros(4, dtype=torch.float64)])
    fit = torch.linalg.lstsq(design, target[:, None]).solution[:, 0]
    assert float(got) == pytest.approx(float((target - design @ fit).square().sum()), rel=1e-10)


def test_what_freely_fitted_gains_leave_is_the_closures(generator):
    """Two routes to one chi-square; they differ by the curvature of the gains, of relative order 1/SNR."""
    obs = make_observation(generator, snr=5000.0)
    noise = obs.sigma * torch.view_as_complex(torch.randn(len(obs), 2, generator=generator, dtype=torch.float64))
    corrupted = corrupt(obs.evolve("noise", vis=obs.vis + noise), generator)
    fit = fit_gains(corrupted, obs.vis, math.inf)
    terms = ClosurePhaseTerm(corrupted, uv_min=0.0), LogClosureAmplitudeTerm(corrupted)
    closures = sum(float(residual_of(term, obs.vis).square().sum()) for term in terms)
    assert fit.chi2 * 2 * len(obs) == pytest.approx(closures, rel=5e-3)


def test_whitening_makes_unit_covariance(generator):
    obs = make_observation(generator)
    for kind in ("phase", "amplitude"):
        closures = closure_set(obs, kind, relative_variance(obs))
        w = closures.whitening(relative_variance(obs))
        unit = w @ closures.covariance(relative_variance(obs)) @ w.mT
        torch.testing.assert_close(unit, torch.diag_embed(closures.valid.double()), rtol=0, atol=1e-10)
        diagonal = closures.whitening(relative_variance(obs), full=False)
        error = (diagonal @ closures.covariance(relative_variance(obs)) @ diagonal.mT).diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(error, closures.valid.double(), rtol=0, atol=1e-12)


GRAPHS = {
    "triangle": ([(0, 1), (1, 2), (0, 2)], 1, 0),
    "square": ([(0, 1), (1, 2), (2, 3), (0, 3)], 1, 1),
    "pentagon": ([(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)], 1, 0),
    "hexagon": ([(0, 1), (1, 2), (3, 2), (3, 4), (4, 5), (0, 5)], 1, 1),
    "two triangles apart": ([(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5)], 2, 0),
    "two triangles at one station": ([(0, 1), (1, 2), (0, 2), (2, 4), (4, 5), (2, 5)], 2, 1),
    "two triangles and a bridge": ([(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (4, 5), (3, 5)], 2, 1),
    "star": ([(0, 1), (0, 2), (0, 3)], 0, 0),
    "complete on 5": ([(a, b) for a in range(5) for b in range(a + 1, 5)], 6, 5),
}


@pytest.mark.parametrize("name", list(GRAPHS))
def test_any_graph_of_baselines_gets_a_complete_set(name):
    pairs, phases, amplitudes = GRAPHS[name]
    variance = np.ones(len(pairs))
    for kind, make, n in (
        ("phase", closure_basis.phase_rows, phases),
        ("amplitude", closure_basis.amplitude_rows, amplitudes),
    ):
        rows = make(pairs, variance)
        assert rows.shape == (n, len(pairs)) and closure_basis.rank_of_closures(pairs, kind) == n
        assert n == 0 or np.linalg.matrix_rank(rows) == n
        assert np.abs(rows @ closure_basis.incidence(pairs, kind)).max(initial=0) < 1e-12


def test_unaveraged_data_are_refused(generator):
    obs = make_observation(generator)
    twice = obs.select(torch.cat([torch.arange(len(obs)), torch.tensor([0])]), "row 0 again")
    with pytest.raises(ValueError, match="scan_average"):
        ClosurePhaseTerm(twice)


def test_too_few_stations_are_named(generator):
    obs = make_observation(generator, stations=4)
    pair = obs.select(obs.baseline_rows("A", "B"), "one baseline")
    with pytest.raises(ValueError, match="3 stations"):
        ClosurePhaseTerm(pair, uv_min=0.0)
    with pytest.raises(ValueError, match="4 stations"):
        LogClosureAmplitudeTerm(pair)
    with pytest.raises(ValueError, match="gain_sigma"):
        ProjectedAmplitudeTerm(pair)


def test_bad_options_are_named(generator):
    obs = make_observation(generator)
    with pytest.raises(ValueError, match="covariance"):
        ClosurePhaseTerm(obs, "none")
    with pytest.raises(ValueError, match="gain_sigma must name"):
        ProjectedAmplitudeTerm(obs, {"A": 0.1})
    with pytest.raises(ValueError, match="exactly 0"):
        ClosurePhaseTerm(obs.evolve("hole", vis=obs.vis * (torch.arange(len(obs)) > 0)))
