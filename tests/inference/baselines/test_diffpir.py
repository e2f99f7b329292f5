"""DiffPIR: its data step is exact, its samples are not the posterior."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError
from sciinstruct.inference.baselines.diffpir import DiffPIR, moved_to_data
from sciinstruct.inference.baselines.linearised import DataPull
from sciinstruct.priors import GaussianPrior, exact_posterior
from sciinstruct.priors.problems import MatrixOperator, fields_16

F64 = torch.float64
MEAN = torch.tensor([1.0, -0.5], dtype=F64)


def isotropic(noise):
    """Two uncorrelated numbers of variance 1, whose difference is measured."""
    prior = GaussianPrior(MEAN, torch.eye(2, dtype=F64))
    return InverseProblem(prior, Likelihood(MatrixOperator(torch.tensor([[1.0, -1.0]])), noise, torch.tensor([3.0])))


def pull_of(problem, generator):
    return DataPull(problem, problem.prior.sample_exact(8, generator=generator, dtype=F64))


def test_moved_image_minimises_its_cost(linear_gaussian, generator):
    """The gradient of |r(z)|^2 + |z - D|^2 / v vanishes at it."""
    problem, sigma, variance = linear_gaussian.problem, 0.8, 0.3
    x = torch.randn(5, 2, generator=generator, dtype=F64)
    z = moved_to_data(problem, pull_of(problem, generator), x, sigma, variance).requires_grad_()
    centre = problem.prior.denoise(x, sigma)
    cost = problem.likelihood.residuals(z).square().sum() + (z - centre).square().sum() / variance
    (slope,) = torch.autograd.grad(cost, z)
    assert slope.abs().max() < 1e-9


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_moved_image_is_the_posteriors_denoiser_where_the_variance_is_right(sigma, generator):
    """Uncorrelated Gaussian prior of variance 1: its denoiser's errors have variance sigma^2 / (1 + sigma^2)."""
    problem = isotropic(0.5)
    x = MEAN + (1 + sigma) * torch.randn(6, 2, generator=generator, dtype=F64)
    moved = moved_to_data(problem, pull_of(problem, generator), x, sigma, sigma**2 / (1 + sigma**2))
    exact = exact_posterior(problem.prior, problem.likelihood).law.denoise(x, sigma)
    torch.testing.assert_close(moved, exact, rtol=1e-9, atol=1e-9)


def test_exact_data_fix_the_image(other_units, generator):
    """Noise of 0.01 around (12, 8); the answer comes back in the data's units."""
    result = DiffPIR().run(other_units, 8, generator=generator)
    assert (result.samples - torch.tensor([12.0, 8.0])).abs().max() < 0.06
    assert result.samples.dtype == torch.float32


@pytest.mark.parametrize(("zeta", "variance"), [(0.0, 1.0), (1.0, 0.5)])
def test_without_data_the_old_noise_keeps_the_prior_and_fresh_noise_halves_its_variance(zeta, variance, generator):
    """Fresh noise alone: v = k^2 (v + sigma^2) with k = 1/(1 + sigma^2), so 1/2 as sigma falls. Bias of steps: 3 %."""
    n = 8000
    x = DiffPIR(zeta=zeta, steps=400).run(isotropic(1e6), n, generator=generator, dtype=F64).samples
    assert ((x.mean(0) - MEAN).abs() < 4 * (variance / n) ** 0.5 + 0.03).all()
    assert ((x.var(0) / variance - 1).abs() < 4 * (2 / n) ** 0.5 + 0.03).all()


def test_measured_numbers_have_too_small_a_spread(generator):
    """At any share of fresh noise the measured direction gets less than 0.8 of its posterior variance."""
    problem, across = isotropic(0.5), torch.tensor([0.5, -0.5], dtype=F64).mul(2**0.5)
    exact = float(across @ exact_posterior(problem.prior, problem.likelihood).law.dense_covariance(0) @ across)
    for zeta in (0.0, 0.3, 1.0):
        x = DiffPIR(zeta=zeta).run(problem, 2000, generator=generator, dtype=F64).samples
        assert float((x @ across).var()) < 0.8 * exact


def test_non_linear_data_are_fitted(squares, generator):
    samples = DiffPIR().run(squares, 64, generator=generator).samples
    assert (samples.square() - torch.tensor([1.0, 2.25])).abs().median() < 0.2


def test_a_field_is_fitted_to_its_noise(generator):
    problem, _, _ = fields_16("blur", 0)
    samples = DiffPIR().run(problem, 16, generator=generator).samples
    assert 0.5 < float(problem.likelihood.chi2(samples)["data"].median()) < 1.5


def test_callback_provenance_and_network_calls(linear_gaussian, generator):
    seen = []
    solver = DiffPIR(steps=30)
    result = solver.run(linear_gaussian.problem, 3, generator=generator, callback=lambda i, info: seen.append(info))
    assert result.attributes["solver"] == "DiffPIR"
    assert result.attributes["settings"] == {"weight": solver.weight, "zeta": solver.zeta, "steps": 30}
    assert linear_gaussian.prior.calls - 16 == result.attributes["network_calls"] == 30  # 16 measure the prior's width
    levels = [info["level"] for info in seen]
    assert len(seen) == 30 and all(a > b for a, b in zip(levels, levels[1:]))


def test_same_seed_same_result(linear_gaussian):
    solver = DiffPIR(steps=10)
    first, again, other = (solver.run(linear_gaussian.problem, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "text"), [({"steps": 1}, "steps"), ({"weight": 0.0}, "weight"), ({"zeta": 1.5}, "zeta")]
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        DiffPIR(**settings)


def test_bad_number_of_samples(linear_gaussian):
    with pytest.raises(ValueError, match="n_samples"):
        DiffPIR().run(linear_gaussian.problem, 0)


def test_a_likelihood_without_residuals_is_refused(unwhitened):
    with pytest.raises(NotImplementedError, match="UnwhitenedLikelihood"):
        DiffPIR(steps=5).run(unwhitened, 2, generator=0)


def test_a_denoiser_that_fails_is_reported_with_its_step(linear_gaussian):
    linear_gaussian.prior.good_for = 16 + 7
    with pytest.raises(SolverError, match="at step 7"):
        DiffPIR(steps=20).run(linear_gaussian.problem, 4, generator=0)
