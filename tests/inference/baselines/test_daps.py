"""Decoupled annealing: exact where its local law is, off by a known amount where not."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError
from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.inference.baselines.daps import DAPS, Chains, flow
from sciinstruct.priors import GaussianPrior, exact_posterior
from sciinstruct.priors.problems import MatrixOperator, fields_16

F64 = torch.float64
MEAN = torch.tensor([1.0, -0.5], dtype=F64)


class Laplace(BaseLikelihood):
    """Two numbers known to about 0.3 with heavy tails: no residuals, no Gaussian."""

    domain_shape = (2,)

    def log_prob(self, image):
        return -image.abs().sum(1) / 0.3

    def chi2(self, image):
        return {}

    def simulate(self, image, generator=None):
        return self


class Nowhere(Laplace):
    """A likelihood without a value."""

    def log_prob(self, image):
        return image.sum(1) * float("nan")


def isotropic(noise):
    """Two uncorrelated numbers of variance 1, whose difference is measured."""
    prior = GaussianPrior(MEAN, torch.eye(2, dtype=F64))
    return InverseProblem(prior, Likelihood(MatrixOperator(torch.tensor([[1.0, -1.0]])), noise, torch.tensor([3.0])))


def test_flow_of_one_call_is_the_denoiser_and_of_many_the_probability_flow(linear_gaussian, generator):
    """A Gaussian's flow ends at m + sqrt(C / (C + sigma^2)) (x - m) along each eigenvector."""
    problem, x = linear_gaussian.problem, torch.randn(5, 2, generator=generator, dtype=F64)
    torch.testing.assert_close(flow(problem, x, [2.0]), problem.prior.denoise(x, 2.0))
    values, vectors = torch.linalg.eigh(problem.prior.covariance)
    mean = problem.prior.means[0]
    exact = mean + ((x - mean) @ vectors * (values / (values + 4.0)).sqrt()) @ vectors.T
    errors = []
    for n in (200, 400):
        levels = torch.logspace(0, -4, n, dtype=F64) * 2.0
        errors.append(float((flow(problem, x, levels.tolist()) - exact).abs().max()))
    assert errors[1] < 0.02 and 1.7 < errors[0] / errors[1] < 2.3  # order 1


def test_chains_draw_the_local_law(linear_gaussian, generator):
    """N(c, r^2 I) times a linear Gaussian likelihood is a Gaussian; the first draws set the size of the steps."""
    radius, centre = 0.6, torch.tensor([0.2, 0.9], dtype=F64)
    matrix, noise = linear_gaussian.matrix, linear_gaussian.noise
    covariance = torch.linalg.inv(torch.eye(2) / radius**2 + matrix.T @ matrix / noise**2)
    mean = covariance @ (centre / radius**2 + matrix.T @ linear_gaussian.data / noise**2)
    chains = Chains(linear_gaussian.problem, moves=20, leapfrogs=3, generator=generator)
    for _ in range(3):
        x, data = chains.draw(centre.expand(8000, 2), radius)
    linear_gaussian.check(x, mean, covariance)
    torch.testing.assert_close(data, -linear_gaussian.problem.log_likelihood(x))


def test_isotropic_gaussian_is_exact(linear_gaussian, generator):
    """One call per level: mean and covariance of the posterior; bias allowed 3 % for a prior's width known to 4 %."""
    problem, n = isotropic(0.5), 4000
    law = exact_posterior(problem.prior, problem.likelihood).law
    result = DAPS(spread=1.0, levels=40, ode_steps=1).run(problem, n, generator=generator, dtype=F64)
    linear_gaussian.check(result.samples, law.means[0], law.dense_covariance(0), bias=0.03)
    assert 0.5 < result.diagnostics["acceptance"] < 0.9 and result.diagnostics["warnings"] == []


def test_isotropic_gaussian_with_heavy_tailed_noise_is_exact(linear_gaussian, generator):
    """Posterior of each number by quadrature; the likelihood has no residuals and need not."""
    problem, n = InverseProblem(GaussianPrior(MEAN, torch.eye(2, dtype=F64)), Laplace()), 4000
    z = torch.linspace(-8, 8, 20001, dtype=F64)[:, None]
    weights = (-0.5 * (z - MEAN).square() - z.abs() / 0.3).softmax(0)
    mean = (weights * z).sum(0)
    variance = (weights * (z - mean).square()).sum(0)
    x = DAPS(spread=1.0, levels=40, ode_steps=1).run(problem, n, generator=generator, dtype=F64).samples
    assert ((x.mean(0) - mean).abs() < variance.sqrt() * (4 / n**0.5 + 0.03)).all()
    kurtosis = ((x - mean).square().var(0) / variance.square()).sqrt()  # of the squares, for the variance's error
    assert ((x.var(0) / variance - 1).abs() < 4 * kurtosis / n**0.5 + 0.03).all()


def test_the_flows_end_doubles_the_variance_where_data_are_silent(generator):
    """v = k (v + sigma^2) + r^2 with k = 1/(1 + sigma^2), r^2 = k sigma^2 has fixed point 2; the denoiser: 1."""
    spread = []
    for ode_steps in (1, 30):
        solver = DAPS(spread=1.0, levels=60, ode_steps=ode_steps, moves=1)
        x = solver.run(isotropic(1e6), 4000, generator=generator, dtype=F64).samples
        spread.append(float(x.var(0).mean()))
    assert abs(spread[0] - 1) < 4 / 4000**0.5 + 0.05
    assert spread[1] > 1.6


def test_a_field_is_fitted_to_its_noise(generator):
    problem, _, _ = fields_16("blur", 0)
    samples = DAPS(levels=30).run(problem, 8, generator=generator).samples
    assert 0.5 < float(problem.likelihood.chi2(samples)["data"].median()) < 1.5


def test_non_linear_data_are_fitted(squares, generator):
    samples = DAPS(levels=60).run(squares, 64, generator=generator).samples
    assert (samples.square() - torch.tensor([1.0, 2.25])).abs().median() < 0.3


def test_physical_units(other_units, generator):
    samples = DAPS(levels=40).run(other_units, 8, generator=generator).samples
    assert (samples - torch.tensor([12.0, 8.0])).abs().max() < 0.1 and samples.dtype == torch.float32


def test_callback_provenance_and_network_calls(linear_gaussian, generator):
    seen = []
    solver = DAPS(levels=6, ode_steps=3)
    result = solver.run(linear_gaussian.problem, 3, generator=generator, callback=lambda i, info: seen.append(info))
    assert result.attributes["solver"] == "DAPS" and result.attributes["settings"]["levels"] == 6
    assert linear_gaussian.prior.calls - 16 == result.attributes["network_calls"] == 5 * 3 + 1
    assert len(seen) == 6 and seen[-1]["level"] < seen[0]["level"] and 0 <= seen[-1]["acceptance"] <= 1


def test_chains_that_do_not_move_are_reported(linear_gaussian):
    """Data so sharp that few levels cannot find the size of the steps."""
    problem = InverseProblem(
        linear_gaussian.prior, Likelihood(MatrixOperator(torch.eye(2)), 1e-7, torch.zeros(2, dtype=F64))
    )
    result = DAPS(levels=3, moves=2).run(problem, 8, generator=0, dtype=F64)
    assert any("proposals" in text for text in result.diagnostics["warnings"])


def test_same_seed_same_result(linear_gaussian):
    solver = DAPS(levels=6)
    first, again, other = (solver.run(linear_gaussian.problem, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"levels": 1}, "levels"),
        ({"ode_steps": 0}, "ode_steps"),
        ({"moves": 0}, "moves"),
        ({"leapfrogs": 0}, "leapfrogs"),
        ({"spread": 0.0}, "spread"),
        ({"spread": float("nan")}, "spread"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        DAPS(**settings)


def test_bad_number_of_samples(linear_gaussian):
    with pytest.raises(ValueError, match="n_samples"):
        DAPS().run(linear_gaussian.problem, 0)


def test_a_denoiser_that_fails_is_reported_with_its_step(linear_gaussian):
    linear_gaussian.prior.good_for = 16 + 7
    with pytest.raises(SolverError, match="at step 3"):  # the eighth call is the second of the fourth level
        DAPS(levels=6, ode_steps=2).run(linear_gaussian.problem, 4, generator=0)


def test_a_likelihood_without_a_value_is_reported_with_its_step(linear_gaussian):
    with pytest.raises(SolverError, match="at step 0"):
        DAPS(levels=6).run(InverseProblem(linear_gaussian.prior, Nowhere()), 4, generator=0)
