"""Exact posteriors: dense algebra, Fourier modes, Matheron draws and importance sampling agree."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from sciinstruct.core import GaussianNoise, Likelihood, LinearOperator, Operator
from sciinstruct.operators import GaussianBlur, PixelMask
from sciinstruct.priors import GaussianField, GaussianMixture, GaussianPrior, MixtureOfFields, matern
from sciinstruct.priors.exact import (
    circulant_posterior,
    dense_posterior,
    exact_posterior,
    matheron_posterior,
)
from sciinstruct.priors.matheron import ConjugateGradients, MatheronPosterior
from sciinstruct.priors.network import NetworkPrior
from sciinstruct.priors.whitened import Whitened

F64 = torch.float64


def _rng(seed):
    return torch.Generator().manual_seed(seed)


class Matrix(LinearOperator):
    """A dense real or complex matrix on flattened events."""

    def __init__(self, matrix, domain_shape):
        super().__init__()
        self.matrix, self.domain_shape, self.range_shape = matrix, tuple(domain_shape), (len(matrix),)

    def apply(self, x):
        return x.flatten(1).to(self.matrix.dtype) @ self.matrix.T

    def apply_adjoint(self, y):
        out = y @ self.matrix.conj()
        return out.real.reshape(-1, *self.domain_shape)


def _observe(prior, operator, sigma, seed=0):
    """A likelihood of data simulated from the prior."""
    x = prior.to_physical(prior.sample_exact(1, generator=_rng(seed), dtype=F64))
    noise = GaussianNoise(sigma)
    return Likelihood(operator, noise, noise.sample(operator(x), _rng(seed + 1)))


def _matrix(m, shape, seed=3, dtype=F64):
    a = torch.randn(m, math.prod(shape), generator=_rng(seed), dtype=dtype)
    return Matrix(a / math.prod(shape) ** 0.5, shape)


def _mask(n, keep, seed=4):
    return PixelMask(torch.rand(n, n, generator=_rng(seed)) < keep)


def _bayes(prior, likelihood):
    """Weights, means, covariances and evidence by the textbook formulas in data space, data real and imaginary."""
    a = likelihood.operator.to_dense()
    y = likelihood.y.flatten()
    sigma = likelihood.noise.sigma.expand(likelihood.operator.range_shape).flatten()
    if a.is_complex():
        a, y, sigma = torch.cat([a.real, a.imag]), torch.cat([y.real, y.imag]), torch.cat([sigma, sigma])
    logs, means, covariances = [], [], []
    for k in range(prior.n_components):
        c, mu = prior.dense_covariance(k), prior.means[k].flatten()
        mu, c = prior.scale * mu + prior.shift, prior.scale**2 * c
        s = a @ c @ a.T + torch.diag(sigma**2)
        logs.append(prior.log_weights[k] + MultivariateNormal(a @ mu, s).log_prob(y))
        gain = c @ a.T @ torch.linalg.inv(s)
        means.append((mu + gain @ (y - a @ mu) - prior.shift) / prior.scale)
        covariances.append((c - gain @ a @ c) / prior.scale**2)
    logs = torch.stack(logs)
    return logs.softmax(0), torch.stack(means), torch.stack(covariances), float(torch.logsumexp(logs, 0))


def _fields(n=8):
    means = torch.randn(3, 1, n, n, generator=_rng(9), dtype=F64)
    return MixtureOfFields(0.3 * means, matern((n, n), 2.0), torch.tensor([0.5, 0.2, 0.3]))


def _own_spectra(n=8):
    means = torch.randn(2, 1, n, n, generator=_rng(9), dtype=F64)
    return MixtureOfFields(0.3 * means, torch.stack([matern((n, n), 2.0), matern((n, n), 1.0, 0.5)])[:, None])


def _mixture2():
    means = torch.tensor([[-2.0, -1], [2, -1], [0, 2]], dtype=F64)
    variances = torch.tensor([[0.15, 0.25], [0.25, 0.15], [0.2, 0.2]], dtype=F64)
    return GaussianMixture(means, torch.diag_embed(variances), torch.tensor([0.4, 0.35, 0.25]))


CASES = {
    "2-D mixture, one datum": lambda: (_mixture2(), Matrix(torch.tensor([[0.3, 1.0]], dtype=F64), (2,)), 0.5),
    "field, mask": lambda: (GaussianField(matern((8, 8), 2.0)), _mask(8, 0.3), 0.1),
    "fields, mask": lambda: (_fields(), _mask(8, 0.3), 0.1),
    "fields, blur": lambda: (_fields(), GaussianBlur(1.0, (8, 8)), 0.1),
    "fields, more data than pixels": lambda: (_fields(), _matrix(90, (1, 8, 8)), 0.3),
    "own spectra, uneven noise": lambda: (_own_spectra(), _matrix(20, (1, 8, 8)), torch.linspace(0.1, 1, 20)),
    "complex data": lambda: (_own_spectra(), _matrix(15, (1, 8, 8), dtype=torch.complex128), 0.2),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (2.5, -0.7)])
def test_dense_and_matheron_match_the_textbook(name, scale, shift):
    prior, operator, sigma = CASES[name]()
    prior.scale, prior.shift = scale, shift
    likelihood = _observe(prior, operator, sigma)
    weights, means, covariances, evidence = _bayes(prior, likelihood)
    posterior = dense_posterior(prior, likelihood)
    torch.testing.assert_close(posterior.weights, weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(posterior.means.flatten(1), means, rtol=1e-8, atol=1e-8)
    for k, covariance in enumerate(covariances):
        torch.testing.assert_close(posterior.law.dense_covariance(k), covariance, rtol=1e-8, atol=1e-9)
    assert posterior.log_evidence == pytest.approx(evidence, abs=1e-7)
    matheron = matheron_posterior(prior, likelihood)
    torch.testing.assert_close(matheron.weights, weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(matheron.means.flatten(1), means, rtol=1e-8, atol=1e-8)
    assert matheron.log_evidence == pytest.approx(evidence, abs=1e-7)


@pytest.mark.parametrize("prior", [_fields(), _own_spectra(), GaussianField(matern((8, 8), 2.0))])
@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (2.5, -0.7)])
def test_fourier_modes_match_dense_algebra(prior, scale, shift):
    prior.scale, prior.shift = scale, shift
    likelihood = _observe(prior, GaussianBlur(1.2, (8, 8)), 0.2)
    fourier, dense = circulant_posterior(prior, likelihood), dense_posterior(prior, likelihood)
    torch.testing.assert_close(fourier.weights, dense.weights, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fourier.means, dense.means, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fourier.std, dense.std, rtol=1e-9, atol=1e-9)
    assert fourier.log_evidence == pytest.approx(dense.log_evidence, abs=1e-8)
    x = dense.sample(4, generator=_rng(0))
    torch.testing.assert_close(fourier.log_prob(x), dense.log_prob(x), rtol=1e-9, atol=1e-7)
    assert isinstance(exact_posterior(prior, likelihood).law, MixtureOfFields)


def test_posterior_density_is_prior_times_likelihood_over_evidence():
    prior, operator, sigma = CASES["complex data"]()
    likelihood = _observe(prior, operator, sigma)
    posterior = exact_posterior(prior, likelihood)
    x = prior.sample_exact(5, generator=_rng(7), dtype=F64)
    bayes = prior.log_prob(x) + likelihood.log_prob(x) - posterior.log_evidence
    torch.testing.assert_close(posterior.log_prob(x), bayes, rtol=1e-9, atol=1e-6)


def test_mixture_posterior_matches_importance_sampling():
    prior, operator, sigma = CASES["2-D mixture, one datum"]()
    likelihood = Likelihood(operator, sigma, torch.tensor([-0.9], dtype=F64))
    posterior = exact_posterior(prior, likelihood)
    n = 400_000
    x = prior.sample_exact(n, generator=_rng(8), dtype=F64)
    log_w = likelihood.log_prob(x)
    w = log_w.softmax(0)
    mean = w @ x
    error = ((w[:, None] * (x - mean)).square().sum(0)).sqrt()
    assert ((mean - posterior.mean).abs() / error).max() < 4
    centred = x - mean
    products = centred[:, :, None] * centred[:, None, :]
    second = torch.einsum("n,nij->ij", w, products)
    inner = torch.stack([posterior.law.dense_covariance(k) for k in range(3)])
    shift = posterior.means - posterior.mean
    exact = torch.einsum("k,kij->ij", posterior.weights, inner + shift[:, :, None] * shift[:, None, :])
    error = (w[:, None, None] * (products - second)).square().sum(0).sqrt()
    assert ((second - exact).abs() / error).max() < 4
    evidence = log_w.exp()
    assert abs(math.exp(posterior.log_evidence) - evidence.mean()) < 4 * evidence.std() / n**0.5
    # the page's weights of this problem: 0.464 / 0.536 / about 0
    assert posterior.weights[0].item() == pytest.approx(0.464, abs=5e-4)
    assert posterior.weights[2] < 1e-3


def test_diffused_posterior_denoiser_is_bayes_at_every_level():
    """The law's denoiser equals D + sigma^2 grad log E[p(y | x0) | x], the guidance that is exact."""
    prior, operator, _ = CASES["2-D mixture, one datum"]()
    likelihood = Likelihood(operator, 0.5, torch.tensor([-0.9], dtype=F64))
    posterior = exact_posterior(prior, likelihood)
    x, sigma = torch.randn(6, 2, generator=_rng(1), dtype=F64), 0.8
    leaf = x.clone().requires_grad_()
    a = operator.matrix[0]
    terms = []
    for k in range(3):
        c = prior.dense_covariance(k)
        gain = c @ torch.linalg.inv(c + sigma**2 * torch.eye(2, dtype=F64))
        m = prior.means[k] + (leaf - prior.means[k]) @ gain.T
        v = a @ (c - gain @ c) @ a + 0.25
        terms.append(-0.5 * ((-0.9 - m @ a) ** 2 / v + v.log()))
    mixed = torch.logsumexp(prior.responsibilities(leaf, sigma).log() + torch.stack(terms, 1), 1)
    guidance = torch.autograd.grad(mixed.sum(), leaf)[0]
    expected = prior.denoise(x, sigma) + sigma**2 * guidance
    torch.testing.assert_close(posterior.law.denoise(x, sigma), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["cholesky", "conjugate gradients"])
def test_matheron_draws_have_the_posterior_moments(solver):
    prior = GaussianField(matern((12, 12), 2.5))
    likelihood = _observe(prior, _mask(12, 0.3), 0.1)
    system = Whitened(prior, likelihood)
    dense = dense_posterior(prior, likelihood)
    if solver == "cholesky":
        posterior = matheron_posterior(prior, likelihood)
    else:
        posterior = MatheronPosterior(prior, system, ConjugateGradients(prior, system))
        matrix = system.matrix()
        condition = torch.linalg.cond(torch.eye(len(matrix)) + matrix @ prior.dense_covariance(0) @ matrix.T).sqrt()
        assert posterior.solver.iterations < 0.5 * condition * math.log(2 * condition / 1e-10)  # Chebyshev bound
    torch.testing.assert_close(posterior.mean, dense.mean, rtol=0, atol=1e-8)
    n = 8000
    x = posterior.sample(n, generator=_rng(2))
    z = (x - dense.mean) / dense.std
    assert z.mean(0).abs().max() < 4.5 / n**0.5  # 144 pixels
    assert (z.var(0) - 1).abs().max() < 4.5 * (2 / n) ** 0.5
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(dense.law.dense_covariance(0)), (x - dense.mean).flatten(1).T, upper=False
    )
    chi2 = whitened.square().sum(0)  # chi-square with 144 degrees of freedom if the covariance is right
    assert abs(chi2.mean() - 144) < 4 * (288 / n) ** 0.5
    assert abs(chi2.var() / 288 - 1) < 4 * (2 / n) ** 0.5 * 1.1 + 0.01


def test_mixture_draws_have_the_weights_and_density():
    prior, operator, sigma = CASES["fields, mask"]()
    likelihood = _observe(prior, operator, sigma)
    dense, matheron = dense_posterior(prior, likelihood), matheron_posterior(prior, likelihood)
    n = 5000
    for posterior in (dense, matheron):
        x = posterior.sample(n, generator=_rng(3))
        share = dense.law.responsibilities(x).mean(0)
        error = (dense.weights * (1 - dense.weights) / n).sqrt()
        assert ((share - dense.weights).abs() < 4 * error + 1e-12).all()
        z = (x.mean(0) - dense.mean) / dense.std
        assert z.abs().max() < 4.5 / n**0.5
        # log-density of draws: both ways of drawing see the same law
        assert abs(dense.log_prob(x).mean() - dense.log_prob(dense.sample(n, generator=_rng(4))).mean()) < 4 * (
            dense.log_prob(x).std() * (2 / n) ** 0.5
        )


def test_matheron_works_where_nothing_dense_fits():
    prior = GaussianField(matern((64, 64), 6.0))
    likelihood = _observe(prior, _mask(64, 0.05), 0.1)
    posterior = exact_posterior(prior, likelihood)
    assert isinstance(posterior, MatheronPosterior)
    x = posterior.sample(200, generator=_rng(5))
    chi2 = likelihood.chi2(x)["data"].mean()
    # E chi2 of posterior draws from the data-space algebra: residual of the mean plus trace of the posterior part
    s = posterior.solver._factor(0)
    inverse = torch.cholesky_inverse(s)
    expected = likelihood.chi2(posterior.mean[None])["data"][0] + (1 - inverse.diagonal()).mean()
    sd = likelihood.chi2(x)["data"].std() / 200**0.5
    assert abs(chi2 - expected) < 4 * sd


def test_precise_data_keep_a_valid_law():
    """Noise a million times below the prior: variances stay positive and right."""
    prior = GaussianPrior(torch.zeros(2), torch.eye(2))
    likelihood = Likelihood(Matrix(torch.tensor([[1.0, 0.0]], dtype=F64), (2,)), 1e-6, torch.tensor([0.3], dtype=F64))
    law = exact_posterior(prior, likelihood).law
    torch.testing.assert_close(
        law.dense_covariance(0).diagonal(), torch.tensor([1e-12, 1.0], dtype=F64), rtol=1e-6, atol=0
    )
    assert law.mean[0].item() == pytest.approx(0.3, abs=1e-11)


def test_impossible_components_get_no_weight_but_no_nan():
    prior = GaussianMixture(torch.tensor([[-1e3], [0.0]]), torch.full((2, 1, 1), 0.01))
    likelihood = Likelihood(Matrix(torch.ones(1, 1, dtype=F64), (1,)), 0.1, torch.tensor([0.0], dtype=F64))
    posterior = exact_posterior(prior, likelihood)
    assert posterior.weights[0] < 1e-200 and torch.isfinite(posterior.law.denoise(torch.zeros(1, 1), 1.0)).all()


class Square(Operator):
    domain_shape = range_shape = (2,)

    def apply(self, x):
        return x**2


def test_bad_input_is_named():
    prior, operator, sigma = CASES["2-D mixture, one datum"]()
    likelihood = Likelihood(operator, sigma, torch.zeros(1))
    with pytest.raises(TypeError, match="LinearOperator"):
        exact_posterior(prior, Likelihood(Square(), 0.1, torch.zeros(2)))
    with pytest.raises(TypeError, match="AnalyticPrior"):
        exact_posterior(NetworkPrior.__new__(NetworkPrior), likelihood)
    with pytest.raises(TypeError, match="Likelihood"):
        exact_posterior(prior, operator)
    with pytest.raises(ValueError, match="images of the prior's shape"):
        exact_posterior(_fields(), likelihood)
    with pytest.raises(TypeError, match="field prior"):
        circulant_posterior(prior, likelihood)


def test_an_operator_that_only_claims_to_be_a_convolution_is_treated_densely():
    prior = _fields()

    class Cropped(GaussianBlur):
        def apply(self, x):
            inner = torch.zeros_like(x)
            inner[..., 2:6, 2:6] = 1
            return super().apply(x) * inner

        def apply_adjoint(self, y):
            inner = torch.zeros_like(y)
            inner[..., 2:6, 2:6] = 1
            return super().apply(y * inner)

    likelihood = _observe(prior, Cropped(1.0, (8, 8)), 0.2)
    posterior = exact_posterior(prior, likelihood)
    weights, means, _, evidence = _bayes(prior, likelihood)
    torch.testing.assert_close(posterior.weights, weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(posterior.means.flatten(1), means, rtol=1e-8, atol=1e-8)
    assert posterior.log_evidence == pytest.approx(evidence, abs=1e-7)
    with pytest.raises(TypeError, match="true transfer function"):
        circulant_posterior(prior, likelihood)


def test_conjugate_gradients_refuse_what_they_cannot_do():
    prior = _fields()
    system = Whitened(prior, _observe(prior, _mask(8, 0.5), 0.01))
    with pytest.raises(ValueError, match="CholeskySolver"):
        MatheronPosterior(prior, system, ConjugateGradients(prior, system))
    from sciinstruct.core import SolverError

    with pytest.raises(SolverError, match="after 2 iterations"):
        ConjugateGradients(prior, system, max_iterations=2).solve(0, system.data[None])
