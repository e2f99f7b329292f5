"""Analytic priors: denoiser, density and draws agree with each other and with dense algebra."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from sciinstruct.priors import (
    AnalyticPrior,
    GaussianField,
    GaussianMixture,
    GaussianPrior,
    IsotropicMixture,
    MixtureOfFields,
    from_images,
    matern,
    power_law,
)

F64 = torch.float64


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def _covariances(k, d):
    a = _randn(k, d, d, seed=1)
    return a @ a.mT + 0.1 * torch.eye(d, dtype=F64)


def _spectra(shape=(8, 7)):
    return torch.stack([matern(shape, 2.0), power_law(shape, 3.0), power_law(shape, 0.0)])[:, None]


PRIORS = {
    "gaussian": lambda: GaussianPrior(_randn(3), _covariances(1, 3)[0]),
    "mixture": lambda: GaussianMixture(2 * _randn(4, 3), _covariances(4, 3), torch.tensor([1.0, 2, 3, 4])),
    "mixture of images": lambda: GaussianMixture(2 * _randn(4, 1, 2, 3), _covariances(4, 6)),
    "mixture, one covariance": lambda: GaussianMixture(2 * _randn(4, 3), _covariances(1, 3)),
    "isotropic": lambda: IsotropicMixture(3 * _randn(5, 6), torch.linspace(0.1, 1, 5)),
    "field": lambda: GaussianField(matern((8, 7), 2.0), _randn(1, 8, 7)),
    "fields, one spectrum": lambda: MixtureOfFields(2 * _randn(3, 1, 8, 8), power_law((8, 8), 2.0)),
    "fields, own spectra": lambda: MixtureOfFields(2 * _randn(3, 1, 8, 7), _spectra(), torch.tensor([0.2, 0.3, 0.5])),
    "fields, two channels": lambda: MixtureOfFields(2 * _randn(3, 2, 4, 5), torch.stack([matern((4, 5), 1.0)] * 2)),
}


@pytest.fixture(params=list(PRIORS))
def prior(request):
    return PRIORS[request.param]()


def _noisy(prior, sigma, n=5):
    generator = torch.Generator().manual_seed(2)
    return prior.sample_exact(n, generator=generator, sigma=sigma, dtype=F64)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 2.0, 80.0])
def test_denoiser_is_tweedie_of_the_density(prior, sigma):
    x = _noisy(prior, sigma).requires_grad_()
    score = torch.autograd.grad(prior.log_prob(x, sigma).sum(), x)[0]
    exact = x + sigma**2 * score
    assert (prior.denoise(x, sigma) - exact).abs().max() < 1e-8 * exact.abs().max()


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_density_is_the_dense_one(prior, sigma):
    x = _noisy(prior, sigma)
    d = x[0].numel()
    terms = []
    for k in range(prior.n_components):
        covariance = prior.dense_covariance(k) + sigma**2 * torch.eye(d, dtype=F64)
        normal = MultivariateNormal(prior.means[k].flatten(), covariance)
        terms.append(prior.log_weights[k] + normal.log_prob(x.flatten(1)))
    torch.testing.assert_close(prior.log_prob(x, sigma), torch.logsumexp(torch.stack(terms), 0), rtol=1e-10, atol=1e-9)


def test_a_batch_of_levels_equals_single_calls(prior):
    sigma = torch.tensor([0.03, 0.2, 1.0, 5.0, 40.0], dtype=F64)
    x = _noisy(prior, sigma)
    one_by_one = torch.cat([prior.denoise(x[i : i + 1], float(s)) for i, s in enumerate(sigma)])
    torch.testing.assert_close(prior.denoise(x, sigma), one_by_one, rtol=1e-11, atol=1e-11)
    density = torch.cat([prior.log_prob(x[i : i + 1], float(s)) for i, s in enumerate(sigma)])
    torch.testing.assert_close(prior.log_prob(x, sigma), density, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_single_precision(prior, sigma):
    x = _noisy(prior, sigma)
    single = prior.denoise(x.float(), sigma)
    assert single.dtype == torch.float32
    exact = prior.denoise(x.float().double(), sigma)
    assert (single - exact).abs().max() < 1e-4 * max(1.0, float(exact.abs().max()))


def test_denoiser_differentiates_twice_and_its_jacobian_is_symmetric(prior):
    x = _noisy(prior, 0.7, n=1)
    jacobian = torch.autograd.functional.jacobian(lambda v: prior.denoise(v, 0.7), x)
    d = x.numel()
    jacobian = jacobian.reshape(d, d)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-10)
    assert torch.linalg.eigvalsh(jacobian).min() > 0  # it is the posterior covariance over sigma^2


def test_draws_have_the_laws_moments(prior):
    n, sigma = 20_000, 0.5
    x = prior.sample_exact(n, generator=torch.Generator().manual_seed(3), sigma=sigma, dtype=F64)
    sd = (prior.std**2 + sigma**2).sqrt()
    assert ((x.mean(0) - prior.mean).abs() / sd).max() < 4.5 / n**0.5
    centred = (x - prior.mean).flatten(1)
    means = (prior.means - prior.mean).flatten(1)
    exact = sum(
        w * (prior.dense_covariance(k) + torch.outer(m, m)) for k, (w, m) in enumerate(zip(prior.weights, means))
    )
    exact = exact + sigma**2 * torch.eye(len(exact), dtype=F64)
    products = centred[:, :, None] * centred[:, None, :6]
    error = products.std(0) / n**0.5
    assert ((products.mean(0) - exact[:, :6]).abs() / error).max() < 5  # largest of up to 336 entries


def test_diffusion_sampler_reaches_the_law():
    prior = PRIORS["mixture"]()
    from sciinstruct.diffusion import default_solver

    n = 4000
    x = prior.sample(n, solver=default_solver(prior.sigma_range), generator=torch.Generator().manual_seed(4), dtype=F64)
    assert ((x.mean(0) - prior.mean).abs() / prior.std).max() < 4 / n**0.5 + 0.01
    assert (x.std(0) / prior.std - 1).abs().max() < 0.05
    exact = prior.sample(16, generator=torch.Generator().manual_seed(4))
    assert torch.equal(exact, prior.sample_exact(16, generator=torch.Generator().manual_seed(4)))


def test_responsibilities_find_the_component():
    prior = GaussianMixture(torch.tensor([[-50.0], [50.0]]), torch.ones(2, 1, 1), torch.tensor([0.999, 0.001]))
    gamma = prior.responsibilities(torch.tensor([[-50.0], [50.0]]), 1.0)
    assert torch.equal(gamma.argmax(1), torch.tensor([0, 1]))
    assert gamma.min() >= 0 and torch.isfinite(prior.log_prob(torch.tensor([[1e6]]), 0.1)).all()


def test_memorising_mixture_returns_its_images():
    images = _randn(6, 1, 4, 4)
    prior = IsotropicMixture(images, 0.0, sigma_range=(1e-3, 50.0))
    assert (prior.denoise(images + 1e-3, 1e-3) - images).abs().max() < 1e-12
    with pytest.raises(ValueError, match="singular"):
        prior.log_prob(images)


def test_matern_field_has_its_variance_and_correlation():
    n, length = 128, 6.0
    spectrum = matern((n, n), length, nu=0.5, variance=2.0)
    correlation = torch.fft.ifft2(spectrum).real / spectrum.mean()
    assert spectrum.mean().item() == pytest.approx(2.0)
    lags = torch.arange(6, 20)
    # nu = 1/2 is exp(-r/length); the grid cuts the spectrum at k = 1/2 and the torus wraps exp(-64/6)
    assert (correlation[0, lags] - torch.exp(-lags / length)).abs().max() < 0.02


def test_power_law_slope():
    spectrum = power_law((64, 64), 3.0)
    assert math.log(spectrum[0, 2] / spectrum[0, 8]) / math.log(4) == pytest.approx(3.0)
    assert torch.equal(power_law((8, 8), 0.0), torch.ones(8, 8, dtype=F64))


def test_spectrum_from_images_recovers_the_fields():
    truth = GaussianField(matern((16, 16), 2.5, variance=0.7), 3 * _randn(1, 16, 16))
    n = 3000
    estimate = from_images(truth.sample_exact(n, generator=torch.Generator().manual_seed(5)), floor=1e-9)
    assert estimate.shape == (1, 16, 16)
    mirrored = estimate.flip(-2, -1).roll((1, 1), (-2, -1))
    torch.testing.assert_close(estimate, mirrored)
    assert estimate.mean().item() == pytest.approx(0.7, rel=0.02)
    exact = truth.full_spectra(truth.spectra)[0, 0]
    assert estimate[0, 0, 0] / exact[0, 0] == pytest.approx(1, abs=4 * (2 / n) ** 0.5)  # one real mode in this ring
    GaussianField(estimate)


def test_full_spectra_undo_the_half_layout():
    for shape in ((4, 5), (5, 4), (6, 6)):
        a = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(6), dtype=F64)
        full = a + a.flip(-2, -1).roll((1, 1), (-2, -1))
        prior = MixtureOfFields(torch.zeros(2, 1, *shape), full)
        torch.testing.assert_close(prior.full_spectra(prior.spectra), full)


def test_default_levels_span_the_law():
    prior = GaussianField(power_law((16, 16), 3.0))
    low, high = prior.eigenvalue_range()
    assert prior.sigma_range[0] <= 0.1 * low**0.5 * (1 + 1e-12)
    assert prior.sigma_range[1] >= 20 * high**0.5 * (1 - 1e-12)
    assert GaussianField(power_law((16, 16), 3.0), sigma_range=(0.1, 5.0)).sigma_range == (0.1, 5.0)


EYE = torch.eye(2).expand(3, 2, 2)
BAD = [
    (lambda: GaussianMixture(torch.zeros(3, 2), EYE[:2]), "covariances must have shape"),
    (lambda: GaussianMixture(torch.zeros(3, 2), -EYE), "positive semi-definite"),
    (lambda: GaussianMixture(torch.zeros(3, 2), EYE + torch.tensor([[0.0, 1], [0, 0]])), "symmetric"),
    (lambda: GaussianMixture(torch.zeros(3, 2), EYE, torch.tensor([1.0, 0, 1])), "weights must be 3 positive"),
    (lambda: GaussianMixture(torch.full((3, 2), float("nan")), EYE), "means must be finite"),
    (lambda: IsotropicMixture(torch.zeros(3, 2), -1.0), "variances must be one or 3 non-negative"),
    (lambda: GaussianField(torch.ones(2, 2, 4, 4)), "spectrum must have shape"),
    (lambda: GaussianField(torch.rand(4, 4, generator=torch.Generator().manual_seed(0))), "symmetric"),
    (lambda: GaussianField(-torch.ones(4, 4)), "non-negative"),
    (lambda: MixtureOfFields(torch.zeros(2, 4, 4), torch.ones(4, 4)), r"means must have shape \(K, C, H, W\)"),
    (lambda: MixtureOfFields(torch.zeros(2, 1, 4, 4), torch.ones(5, 5)), "spectra must have one of the shapes"),
    (lambda: matern((8, 8), -1.0), "length must be positive"),
    (lambda: from_images(torch.zeros(1, 1, 4, 4)), "images must have shape"),
    (lambda: PRIORS["mixture"]().denoise(torch.zeros(2, 5), 1.0), "x must have shape"),
    (lambda: PRIORS["mixture"]().denoise(torch.zeros(2, 3), torch.ones(3)), "sigma must be a number"),
    (lambda: PRIORS["mixture"]().denoise(torch.zeros(2, 3), -1.0), "sigma must be zero or positive"),
]


@pytest.mark.parametrize("make, text", BAD)
def test_bad_input_is_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_every_prior_is_analytic(prior):
    assert isinstance(prior, AnalyticPrior) and prior.weights.sum().item() == pytest.approx(1)
