"""Classical reconstructions: the acceptance numbers on real data, and the pieces they are made of."""

import time

import pytest
import torch

from sciinstruct.core.errors import SolverError
from sciinstruct.operators.interferometry.likelihood import InterferometryLikelihood
from sciinstruct.operators.interferometry.metrics import nxcorr
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.ring import extract_ring
from sciinstruct.operators.interferometry.rml import (
    Entropy,
    GaussianField,
    gaussian_image,
    minimise,
    total_variation,
)
from sciinstruct.operators.interferometry.sources import MRing


@pytest.fixture(scope="module")
def m87(eht_dir):
    return Observation.from_uvfits(next(eht_dir.glob("*101_lo*.uvfits")))


def long_baseline_chi2(obs, image, npix):
    """Closure chi-squares at the 2 % noise budget, baselines above 0.1 Glambda in both terms."""
    likelihood = InterferometryLikelihood.from_observation(obs, npix=npix, terms="closures", uv_min_amplitude=1e8)
    assert likelihood.counts == {"closure_phase": 107, "log_closure_amplitude": 91}
    return {name: float(value) for name, value in likelihood.chi2(image).items()}


@pytest.mark.parametrize("recipe", [Entropy(), pytest.param(GaussianField(), marks=pytest.mark.slow)])
def test_m87_of_11_april(m87, recipe):
    start = time.perf_counter()
    likelihood = InterferometryLikelihood.from_observation(m87, npix=64, terms="closures")
    image = recipe.run(likelihood).image
    assert time.perf_counter() - start < 60
    chi2, ring = long_baseline_chi2(m87, image, 64), extract_ring(image, 128.0)
    assert chi2["closure_phase"] < 0.9 and chi2["log_closure_amplitude"] < 0.75
    assert 38 < float(ring.diameter) < 46 and 150 < float(ring.position_angle) < 190
    assert bool(ring.is_ring)
    assert float(image.mean()) == pytest.approx(1) and image.min() > 0


def test_simulated_ring_is_recovered(m87, generator):
    truth = MRing(1.0, 44.0, 14.0, beta=(0.3j,)).render(32, 128.0, 4).double().reshape(1, 1, 32, 32)
    likelihood = InterferometryLikelihood.from_observation(m87, npix=32, snr_min=3.0)
    image = GaussianField(iterations=60).run(likelihood.simulate(truth / truth.mean(), generator)).image
    assert float(nxcorr(image, truth[0])) > 0.9


def test_randomised_fits_differ_and_repeat(m87):
    likelihood = InterferometryLikelihood.from_observation(m87, npix=16)
    recipe = GaussianField(data_weights=(0.1,), iterations=20)
    draw = lambda seed: recipe.run(likelihood, generator=torch.Generator().manual_seed(seed), perturb=True).image
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_gaussian_field_has_the_stated_covariance(generator):
    npix, fov, length = 32, 128.0, 10.0
    recipe = GaussianField(correlation_uas=length)
    to_image = recipe._field(npix, fov)
    base = to_image(torch.zeros(1, 1, npix, npix, dtype=torch.float64)).log()
    z = torch.zeros(1, 1, npix, npix, dtype=torch.float64)
    z[..., 5, 7] = 1
    row = to_image(z).log() - base
    row = (row - row.mean()).flatten()  # the normalisation adds a constant; so does the field's mean mode
    k = torch.fft.fftfreq(npix, d=fov / npix, dtype=torch.float64)
    power = (1 + (2 * torch.pi * length) ** 2 * (k[:, None] ** 2 + k**2)) ** -2
    expected = power / power.mean()
    expected[0, 0] = 0
    got = torch.fft.fft2(row.reshape(npix, npix)).abs() ** 2
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_total_variation_of_a_ramp():
    ramp = (3.0 * torch.arange(6, dtype=torch.float64)[:, None] + torch.zeros(4)).reshape(1, 1, 6, 4)
    tv, tsv = total_variation(ramp)
    assert float(tv) == pytest.approx(5 * 4 * 3, abs=1e-4) and float(tsv) == pytest.approx(5 * 4 * 9)


def test_gaussian_image_has_its_width():
    image = gaussian_image(64, 128.0, 40.0)[0, 0]
    profile = image[31] / image[31].max()
    assert float(image.sum()) == pytest.approx(1)
    assert float(profile[21] / profile[31]) == pytest.approx(2 ** (-(21**2) / 20**2 + 1 / 20**2), rel=1e-6)


def test_minimise_solves_a_quadratic(generator):
    a = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    a, b = a @ a.T + torch.eye(8), torch.randn(8, generator=generator, dtype=torch.float64)
    x, value, _ = minimise(lambda x: 0.5 * x @ a @ x - b @ x, torch.zeros(8, dtype=torch.float64), 100)
    # it stops where the objective changes by less than 1e-10, and no eigenvalue is below 1: sqrt(2e-10) at most
    torch.testing.assert_close(x, torch.linalg.solve(a, b), rtol=0, atol=1.5e-5)
    assert value == pytest.approx(float(-0.5 * b @ torch.linalg.solve(a, b)))


def test_a_broken_objective_is_reported():
    with pytest.raises(SolverError, match="nan"):
        minimise(lambda x: (x * float("nan")).sum(), torch.zeros(2), 3)


@pytest.mark.parametrize(
    "make", [lambda: Entropy(blurs_uas=(20.0,)), lambda: Entropy(iterations=0), lambda: GaussianField(fwhm_uas=0.0)]
)
def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match="blurs_uas|iterations|fwhm_uas"):
        make()
