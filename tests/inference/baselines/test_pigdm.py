"""Pseudo-inverse guided diffusion: exact where its Gaussian is, and nowhere said to be so else."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, Operator, SolverError
from sciinstruct.inference.baselines.linearised import DataPull
from sciinstruct.inference.baselines.pigdm import PiGDM, guided_denoise
from sciinstruct.priors import GaussianPrior, exact_posterior
from sciinstruct.priors.problems import MatrixOperator, fields_16

F64 = torch.float64


class Cubes(Operator):
    """A non-linear instrument: entries plus their cubes, which have one inverse."""

    domain_shape = range_shape = (4,)

    def apply(self, x):
        return x + x**3


def isotropic(sd=1.5, size=24):
    """24 uncorrelated entries of one variance, six combinations measured."""
    g = torch.Generator().manual_seed(5)
    mean, matrix = torch.randn(size, generator=g, dtype=F64), torch.randn(6, size, generator=g, dtype=F64)
    prior = GaussianPrior(mean, sd**2 * torch.eye(size))
    truth = prior.sample_exact(1, generator=g, dtype=F64)
    likelihood = Likelihood(MatrixOperator(matrix), 0.7, torch.zeros(6, dtype=F64)).simulate(truth, g)
    return InverseProblem(prior, likelihood)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_guided_denoiser_of_an_isotropic_gaussian_is_the_posteriors(sigma, generator):
    """The diffused posterior is a Gaussian whose denoiser is known: the guidance is that, to rounding."""
    problem = isotropic()
    exact = exact_posterior(problem.prior, problem.likelihood).law
    x = problem.prior.sample_exact(16, generator=generator, sigma=sigma, dtype=F64)
    pull = DataPull(problem, problem.prior.sample_exact(4, generator=generator, dtype=F64))
    variance = 1 / (1 / sigma**2 + 1 / 1.5**2)
    guided = guided_denoise(problem.prior, pull, x, sigma, variance)
    torch.testing.assert_close(guided, exact.denoise(x, sigma), rtol=1e-9, atol=1e-9)


def test_samples_of_an_isotropic_gaussian_follow_the_posterior(generator):
    """Mean and covariance, of the posterior with the last level's noise. Bias allowed: 2 % of the standard deviation,
    4 % of the variance, from 250 steps and from a standard deviation of the prior measured to 1 %."""
    problem, n = isotropic(), 2500
    law = exact_posterior(problem.prior, problem.likelihood).law
    covariance = law.dense_covariance(0) + problem.prior.sigma_range[0] ** 2 * torch.eye(24)
    x = PiGDM(spread=1.0).run(problem, n, generator=generator, dtype=F64).samples
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - law.means[0]).T, upper=False).T
    assert (white.mean(0).abs() < 4.5 / n**0.5 + 0.02).all()
    found = white.T @ white / n
    assert (found - torch.eye(24)).abs().max() < 4.5 * (2 / n) ** 0.5 + 0.04


def test_pull_of_non_linear_data_is_that_of_their_tangent(generator):
    """J^T (I + v J J^T)^-1 r for J = -(1 + 3 x^2)/0.1 on the diagonal."""
    prior = GaussianPrior(torch.zeros(4), torch.eye(4))
    problem = InverseProblem(prior, Likelihood(Cubes(), 0.1, torch.ones(4)))
    x = 2 * torch.rand(6, 4, generator=generator, dtype=F64) - 1
    pull = DataPull(problem, prior.sample_exact(8, generator=generator, dtype=F64))
    slope, residual = -(1 + 3 * x.square()) / 0.1, (1 - x - x**3) / 0.1
    expected = slope * residual / (1 + 0.3 * slope.square())
    torch.testing.assert_close(pull(x, 0.3), expected, rtol=1e-4, atol=1e-4)  # the solve lifts its matrix by 1e-6


def test_non_linear_data_are_fitted(generator):
    prior = GaussianPrior(torch.zeros(4), torch.eye(4), sigma_range=(0.003, 30.0))
    problem = InverseProblem(prior, Likelihood(Cubes(), 0.1, torch.tensor([1.0, -2.0, 0.0, 5.0])))
    samples = PiGDM(steps=100).run(problem, 32, generator=generator).samples
    assert 0.3 < float(problem.likelihood.chi2(samples)["data"].median()) < 2.0


@pytest.mark.parametrize("spread", [0.125, 1.0])
def test_a_correlated_field_is_fitted_to_its_noise_and_stays_finite(spread, generator):
    """Its largest eigenvalue is far above the pixel variance: without its bound the step overshoots."""
    problem, _, _ = fields_16("blur", 0)
    samples = PiGDM(spread=spread).run(problem, 16, generator=generator).samples
    assert 0.5 < float(problem.likelihood.chi2(samples)["data"].median()) < 1.5


def test_network_calls_are_those_made(linear_gaussian, generator):
    result = PiGDM(steps=10).run(linear_gaussian.problem, 3, generator=generator)
    assert linear_gaussian.prior.calls - 16 == 10  # 16 measure the prior's width
    assert result.attributes["network_calls"] == 20  # and as many gradients


def test_physical_units_shape_and_callback(other_units, generator):
    """Noise of 0.01, and the last level's: 0.1 in the prior's units, 0.3 in the data's."""
    seen = []
    solver = PiGDM(spread=1.0, steps=80)
    result = solver.run(other_units, 64, generator=generator, callback=lambda i, info: seen.append(info))
    assert result.samples.shape == (64, 2) and result.samples.dtype == torch.float32
    assert (result.samples.mean(0) - torch.tensor([12.0, 8.0])).abs().max() < 4 * 0.3 / 8 + 0.03
    assert result.attributes["solver"] == "PiGDM" and result.attributes["settings"] == {"spread": 1.0, "steps": 80}
    assert len(seen) == 80 and seen[-1]["residual"] < seen[0]["residual"] and seen[-1]["level"] < seen[0]["level"]


def test_same_seed_same_result():
    problem, solver = isotropic(), PiGDM(steps=10)
    first, again, other = (solver.run(problem, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "text"), [({"steps": 0}, "steps"), ({"spread": 0.0}, "spread"), ({"spread": float("nan")}, "spread")]
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        PiGDM(**settings)


def test_bad_number_of_samples():
    with pytest.raises(ValueError, match="n_samples"):
        PiGDM().run(isotropic(), 0)


def test_a_likelihood_without_residuals_is_refused(unwhitened):
    with pytest.raises(NotImplementedError, match="UnwhitenedLikelihood"):
        PiGDM(steps=5).run(unwhitened, 2, generator=0)


def test_a_denoiser_that_fails_is_reported_with_its_step(linear_gaussian):
    linear_gaussian.prior.good_for = 16 + 7
    with pytest.raises(SolverError, match="at step 7"):
        PiGDM(steps=20).run(linear_gaussian.problem, 4, generator=0)
