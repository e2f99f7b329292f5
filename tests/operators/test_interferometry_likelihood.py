"""The interferometric likelihood: gradients, noise statistics, invariances, preparation."""

import math

import pytest
import torch
from scipy.stats import rice

from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.operators.interferometry.closure_terms import (
    ClosurePhaseTerm,
    LogClosureAmplitudeTerm,
    ProjectedAmplitudeTerm,
)
from sciinstruct.operators.interferometry.likelihood import InterferometryLikelihood
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.terms import (
    AmplitudeTerm,
    CentroidTerm,
    FluxTerm,
    RiceTerm,
    VisibilityTerm,
)
from sciinstruct.operators.interferometry.visibility import VisibilityOperator

FOV = 120.0
FLUX = 0.6


def ring(npix):
    """Relative brightness of a lopsided ring of diameter 42 uas, mean 1."""
    grid = ((npix - 1) / 2 - torch.arange(npix, dtype=torch.float64)) * FOV / npix
    radius, angle = torch.hypot(grid[:, None], grid), torch.atan2(grid.expand(npix, -1), grid[:, None])
    sky = torch.exp(-0.5 * ((radius - 21) / 6) ** 2) * (1 + 0.4 * torch.cos(angle - 2.9)) + 1e-4
    return (sky / sky.mean()).reshape(1, 1, npix, npix)


def observe(npix=16, stations=6, scans=6, snr=30.0, seed=0):
    """Noisy visibilities of the ring on random baselines up to 8 Glambda; also the operator."""
    g = torch.Generator().manual_seed(seed)
    places = 4e9 * (2 * torch.rand(2, scans, stations, generator=g, dtype=torch.float64) - 1)
    pairs = torch.combinations(torch.arange(stations))
    scan = torch.arange(scans).repeat_interleave(len(pairs))
    a, b = pairs.repeat(scans, 1).T
    u, v = places[:, scan, a] - places[:, scan, b]
    operator = VisibilityOperator(u, v, npix, FOV)
    vis = operator(ring(npix) * FLUX / npix**2)[0]
    # unequal on purpose: among equals the choice of least noisy quadrangles would follow the noise
    sigma = vis.abs() / snr * torch.exp(0.5 * torch.randn(len(u), generator=g, dtype=torch.float64))
    noise = torch.view_as_complex(torch.randn(len(u), 2, generator=g, dtype=torch.float64))
    obs = Observation(
        u=u, v=v, vis=vis + sigma * noise, sigma=sigma, time=scan.double(), station1=a, station2=b, scan=scan,
        integration=torch.ones_like(u), stations=tuple("ABCDEFGH"[:stations]),
        positions=torch.zeros(stations, 3, dtype=torch.float64), ra=0.0, dec=0.0, frequency=230e9, bandwidth=2e9,
        mjd=57854.0,
    )  # fmt: skip
    return obs, operator


TERMS = {
    "visibility": lambda obs: VisibilityTerm(obs),
    "amplitude": lambda obs: AmplitudeTerm(obs),
    "rice": lambda obs: RiceTerm(obs),
    "closure phase": lambda obs: ClosurePhaseTerm(obs),
    "closure phase, diagonal": lambda obs: ClosurePhaseTerm(obs, "diag"),
    "log closure amplitude": lambda obs: LogClosureAmplitudeTerm(obs),
    "log closure amplitude, diagonal": lambda obs: LogClosureAmplitudeTerm(obs, "diag"),
    "projected amplitude": lambda obs: ProjectedAmplitudeTerm(obs),
    "projected amplitude, gain prior": lambda obs: ProjectedAmplitudeTerm(obs, dict.fromkeys("ABCDEF", 0.1)),
    "flux": lambda obs: FluxTerm(FLUX, 0.03),
    "centroid": lambda obs: CentroidTerm(FOV, 5.0),
}


def likelihood_of(name, npix=16, **options):
    obs, operator = observe(npix, **options)
    return InterferometryLikelihood(operator, obs, [TERMS[name](obs)], FLUX)


@pytest.mark.parametrize("name", list(TERMS))
def test_gradient_against_finite_differences(name, generator):
    likelihood = likelihood_of(name, npix=5, snr=3.0)
    x = ring(5) * (0.5 + torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64))
    assert torch.autograd.gradcheck(likelihood.log_prob, x.requires_grad_(), eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(TERMS))
def test_linearisation_by_visibilities_is_the_one_by_pixels(name, generator):
    likelihood = likelihood_of(name)
    images = ring(16) * (1 + 0.1 * torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64))
    residual, jacobian = likelihood.linearise(images)
    by_pixels = BaseLikelihood.linearise(likelihood, images)
    torch.testing.assert_close(residual, by_pixels[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(jacobian, by_pixels[1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", list(TERMS))
def test_shift_invariance_is_what_a_shifted_image_shows(name):
    likelihood = likelihood_of(name)
    image = torch.nn.functional.pad(ring(16)[..., 4:-4, 4:-4], (4, 4, 4, 4))  # nothing near the border
    same = torch.allclose(likelihood.log_prob(image), likelihood.log_prob(image.roll((2, -3), (-2, -1))), atol=1e-6)
    assert same == likelihood.shift_invariant


@pytest.mark.parametrize("name", list(TERMS))
def test_residuals_chi_square_and_log_prob_agree(name, generator):
    likelihood = likelihood_of(name)
    x = ring(16) * (0.5 + torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64))
    residuals = likelihood.residuals(x)
    (term,) = likelihood.terms
    assert residuals.shape == (3, likelihood.counts[term.name])
    torch.testing.assert_close(likelihood.chi2(x)[term.name], residuals.square().mean(1))
    if name != "rice":
        torch.testing.assert_close(likelihood.log_prob(x), -0.5 * residuals.square().sum(1))
    singles = torch.cat([likelihood.log_prob(row[None]) for row in x])
    torch.testing.assert_close(likelihood.log_prob(x), singles, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("name", list(TERMS))
def test_works_inside_functional_transforms_and_in_float32(name, generator):
    likelihood = likelihood_of(name)
    x = ring(16) * (0.5 + torch.rand(3, 1, 16, 16, generator=generator, dtype=torch.float64))
    per_row = torch.func.vmap(torch.func.grad(lambda z: likelihood.log_prob(z[None])[0]))(x)
    score = likelihood.score(x)
    torch.testing.assert_close(per_row, score, rtol=1e-9, atol=1e-9)
    single = likelihood.score(x.float())
    assert single.dtype == torch.float32
    assert (single - score).norm() < 1e-3 * score.norm()


@pytest.mark.parametrize("name", list(TERMS))
def test_an_empty_image_has_finite_gradients(name):
    likelihood = likelihood_of(name)
    empty = torch.zeros(1, 1, 16, 16)
    assert torch.isfinite(likelihood.log_prob(empty)).all() and torch.isfinite(likelihood.score(empty)).all()


@pytest.mark.parametrize("name", list(TERMS))
def test_chi_square_at_the_truth_is_one(name):
    likelihood, truth = likelihood_of(name), ring(16)
    generator = torch.Generator().manual_seed(5)
    (term,) = likelihood.terms
    chi2 = torch.cat([likelihood.simulate(truth, generator).chi2(truth)[term.name] for _ in range(40)])
    if "gain prior" in name:
        # no gains were applied: the prior's share of the variance is missing
        assert chi2.mean() < 1
        return
    assert abs(chi2.mean() - 1) < 3 * chi2.std() / math.sqrt(40)


@pytest.mark.parametrize("day", ["101_lo", "096_lo"])
def test_chi_square_at_the_truth_on_real_coverage(eht_dir, day):
    """Where the true signal-to-noise is above 8: the Gaussian law of closures fails in the nulls of this ring."""
    obs = Observation.from_uvfits(next(eht_dir.glob(f"*{day}*.uvfits"))).scan_average().rescale_zero_baselines(FLUX)
    truth, generator = ring(32), torch.Generator().manual_seed(1)
    whole = InterferometryLikelihood.from_observation(obs, npix=32, fov=FOV)
    bright = whole.visibilities(truth)[0].abs() > 8 * whole.observation.sigma
    likelihood = InterferometryLikelihood.from_observation(obs.select(bright, "bright"), npix=32, fov=FOV)
    draws = [likelihood.simulate(truth, generator).chi2(truth) for _ in range(40)]
    for name in ("closure_phase", "log_closure_amplitude"):
        chi2 = torch.cat([draw[name] for draw in draws])
        assert abs(chi2.mean() - 1) < 3 * chi2.std() / math.sqrt(40)


def test_real_file_counts_after_the_standard_preparation(eht_dir):
    for day, phases, amplitudes, amplitudes_long in (("101_lo", 107, 113, 91), ("096_lo", 141, 149, 117)):
        obs = Observation.from_uvfits(next(eht_dir.glob(f"*{day}*.uvfits")))
        likelihood = InterferometryLikelihood.from_observation(obs)
        assert likelihood.counts == {"closure_phase": phases, "log_closure_amplitude": amplitudes, "flux": 1}
        long = InterferometryLikelihood.from_observation(obs, terms="logcamp", uv_min_amplitude=1e8)
        assert long.counts == {"log_closure_amplitude": amplitudes_long}
        assert "0.02" in likelihood.noise_budget["closure_phase"]


def test_units_mean_one_is_the_compact_flux():
    likelihood = likelihood_of("flux")
    assert float(likelihood.to_jy(ring(16)).sum()) == pytest.approx(FLUX)
    torch.testing.assert_close(likelihood.from_jy(likelihood.to_jy(ring(16))), ring(16))


@pytest.mark.parametrize("name", ["closure phase", "log closure amplitude", "projected amplitude"])
def test_closures_do_not_see_flux_or_position(name):
    likelihood, x = likelihood_of(name, npix=32), ring(32)
    padded = torch.zeros_like(x)
    padded[..., 6:26, 6:26] = x[..., 6:26, 6:26]
    expected = likelihood.log_prob(padded)
    torch.testing.assert_close(likelihood.log_prob(7 * padded), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(likelihood.log_prob(padded.roll((3, -4), (2, 3))), expected, rtol=1e-9, atol=0)


def test_a_half_turn_changes_the_closure_phases():
    likelihood, x = likelihood_of("closure phase"), ring(16)
    assert likelihood.log_prob(x.flip((2, 3))) < likelihood.log_prob(x) - 1000


def test_rice_is_the_rice_law():
    likelihood, other = likelihood_of("rice", snr=2.0), likelihood_of("rice", snr=2.0).observation
    images = torch.cat([ring(16), 1.5 * ring(16)])
    a, sigma = other.vis.abs().numpy(), other.sigma.numpy()
    logs = [rice.logpdf(a, v.abs().numpy() / sigma, scale=sigma).sum() for v in likelihood.visibilities(images)]
    got = likelihood.log_prob(images)
    assert float(got[1] - got[0]) == pytest.approx(logs[1] - logs[0], rel=1e-9)


def test_diagonal_closure_phase_is_von_mises():
    obs, operator = observe()
    term = ClosurePhaseTerm(obs, "diag")
    vis = operator(torch.rand(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    closures = term.closures
    error = closures.combine(vis.angle() - obs.vis.angle())[0]
    variance = closures.covariance((obs.sigma / obs.vis.abs()).square()).diagonal(dim1=1, dim2=2)
    expected = ((1 - torch.cos(error)) / variance)[closures.valid].sum()
    got = term.neg_log_prob(vis, torch.ones(1, 1, 2, 2, dtype=torch.float64))[0]
    assert float(got) == pytest.approx(float(expected), rel=1e-10)


def test_phase_errors_are_wrapped_before_they_are_combined():
    obs, operator = observe(snr=1e4)
    term = ClosurePhaseTerm(obs)
    turned = obs.vis * torch.exp(2j * math.pi * torch.linspace(0.0, 0.99, len(obs), dtype=torch.float64))
    errors = term.errors(turned[None], torch.ones(1, 1, 2, 2, dtype=torch.float64))
    assert errors.abs().max() <= math.pi + 1e-12
    plain = term.closures.combine(turned.angle() - obs.vis.angle())
    torch.testing.assert_close(torch.exp(1j * errors[..., 0]), torch.exp(1j * plain), rtol=0, atol=1e-9)


def test_centroid_of_a_point():
    term = CentroidTerm(FOV, 5.0, (1.0, 2.0))
    x = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    x[0, 0, 2, 3] = 0.4  # row 2 of 12 is 3.5 pixels North, column 3 is 2.5 pixels East; pixels of 10 uas
    torch.testing.assert_close(term.centroid(x), torch.tensor([[25.0, 35.0]], dtype=torch.float64))
    torch.testing.assert_close(term.residuals(x[:, 0, 0], x), -torch.tensor([[24.0, 33.0]], dtype=torch.float64) / 5)


def test_simulation_is_reproducible_and_covers_every_term():
    obs, operator = observe()
    terms = [TERMS[n](obs) for n in ("closure phase", "log closure amplitude", "flux", "centroid")]
    likelihood = InterferometryLikelihood(operator, obs, terms, FLUX)
    one, same, other = (likelihood.simulate(ring(16), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    x = ring(16)
    assert torch.equal(one.residuals(x), same.residuals(x))
    assert (one.residuals(x) != other.residuals(x)).all()
    assert one.counts == likelihood.counts and one.observation.history[-1] == "visibilities simulated"


def test_simulated_noise_has_the_stated_sigma():
    likelihood = likelihood_of("visibility", scans=20)
    simulated = likelihood.simulate(ring(16), torch.Generator().manual_seed(0)).observation
    z = (simulated.vis - likelihood.visibilities(ring(16))[0]) / simulated.sigma
    for part in (z.real, z.imag):
        assert abs(part.square().mean() - 1) < 4 * math.sqrt(2 / len(part))


@pytest.mark.parametrize(
    "terms, names",
    [
        ("closures", ["closure_phase", "log_closure_amplitude"]),
        ("cphase+projected+flux", ["closure_phase", "projected_amplitude", "flux"]),
        ("cphase_diag+logcamp_diag", ["closure_phase", "log_closure_amplitude"]),
        ("vis", ["visibility"]),
        ("amp+centroid", ["amplitude", "centroid"]),
        ("rice", ["rice_amplitude"]),
    ],
)
def test_terms_by_name(terms, names):
    obs, _ = observe()
    assert list(InterferometryLikelihood.from_observation(obs, terms=terms).counts) == names


def test_bad_arguments_are_named():
    obs, operator = observe()
    with pytest.raises(ValueError, match="terms must join"):
        InterferometryLikelihood.from_observation(obs, terms="closures+magic")
    with pytest.raises(ValueError, match="different names"):
        InterferometryLikelihood(operator, obs, [FluxTerm(1, 1), FluxTerm(2, 1)])
    with pytest.raises(ValueError, match="same u, v"):
        InterferometryLikelihood(operator, obs.select(obs.scan == 0, "part"), [FluxTerm(1, 1)])
    with pytest.raises(ValueError, match="flux_sigma"):
        InterferometryLikelihood.from_observation(obs, flux_sigma=0.0)
    likelihood = InterferometryLikelihood.from_observation(obs, npix=16)
    with pytest.raises(ValueError, match="image must have shape"):
        likelihood.log_prob(torch.ones(1, 1, 32, 32))
    with pytest.raises(ValueError, match="one image"):
        likelihood.simulate(torch.ones(2, 1, 16, 16))
