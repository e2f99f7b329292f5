"""RED-diff where its answer is known."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, Operator, SolverError
from sciinstruct.inference.baselines.red_diff import RedDiff
from sciinstruct.priors import GaussianPrior
from sciinstruct.priors.problems import MatrixOperator, fields_16

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.6]], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, 0.2], [-0.3, 0.8]], dtype=torch.float64)
DATA = torch.tensor([1.2, 0.4], dtype=torch.float64)


class Squares(Operator):
    """A non-linear instrument: squared entries."""

    domain_shape = range_shape = (2,)

    def apply(self, x):
        return x.square()


@pytest.fixture
def gaussian():
    prior = GaussianPrior(MEAN, COVARIANCE)
    return InverseProblem(prior, Likelihood(MatrixOperator(MATRIX), 0.5, DATA))


def test_pull_at_power_minus_one_is_the_score_of_prior_and_data(gaussian, generator):
    """Gaussian prior: the denoising residual over sigma averages to (C + sigma^2)^-1 (mu - m), exactly."""
    sigma, n = 0.7, 200_000
    point = torch.tensor([1.5, 0.2], dtype=torch.float64)
    solver = RedDiff(weight=1.0, level_power=-1.0)
    pull, _ = solver._pull(gaussian, point.expand(n, 2), sigma, 1.0, generator)
    prior = torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(2), point - MEAN)
    data = MATRIX.T @ (MATRIX @ point - DATA) / 0.25
    error = pull.std(0) / n**0.5
    assert ((pull.mean(0) - prior - data).abs() < 4 * error).all()


def test_mean_of_a_gaussian_posterior(gaussian, generator):
    """With the score's weight the runs gather around the posterior mean, which is the density's peak.

    Bias allowed: a tenth of the prior's standard deviation, one Adam step.
    """
    solver = RedDiff(steps=600, weight=1.0, level_power=-1.0, learning_rate=0.05)
    runs = solver.run(gaussian, 400, generator=generator, dtype=torch.float64).samples
    precision = torch.linalg.inv(COVARIANCE) + MATRIX.T @ MATRIX / 0.25
    mean = torch.linalg.solve(precision, torch.linalg.solve(COVARIANCE, MEAN) + MATRIX.T @ DATA / 0.25)
    assert ((runs.mean(0) - mean).abs() < 4 * runs.std(0) / 20 + 0.1).all()


def test_without_prior_it_solves_the_equations(gaussian, generator):
    """A vanishing weight leaves the data alone: all runs end within an Adam step of the solution of A x = y."""
    solver = RedDiff(weight=1e-12, learning_rate=0.02, steps=1500)
    runs = solver.run(gaussian, 8, generator=generator, dtype=torch.float64).samples
    torch.testing.assert_close(runs, torch.linalg.solve(MATRIX, DATA).expand(8, 2), rtol=0, atol=0.02)


def test_a_strong_prior_gathers_the_runs_at_its_mean(gaussian, generator):
    """A huge inverse-SNR weight: the data no longer count, and the prior's pull vanishes only at its mean."""
    solver = RedDiff(weight=1e4, level_power=1.0, learning_rate=0.05)
    runs = solver.run(gaussian, 400, generator=generator, dtype=torch.float64).samples
    assert ((runs.mean(0) - MEAN).abs() < 4 * runs.std(0) / 20 + 0.05).all()


def test_published_form_collapses_on_a_field(generator):
    """No entropy: within the prior's classes the spread stays below half of the posterior's."""
    problem, _, exact = fields_16("visibilities", 4)  # one class has all the weight
    runs = RedDiff(weight=0.25, level_power=1.0).run(problem, 64, generator=generator).samples.double()
    assert float((runs.std(0) / exact.std).mean()) < 0.5


def test_non_linear_data_are_fitted(generator):
    problem = InverseProblem(GaussianPrior(MEAN, COVARIANCE), Likelihood(Squares(), 0.05, torch.tensor([1.0, 2.25])))
    runs = RedDiff().run(problem, 32, generator=generator).samples
    assert (runs.square() - torch.tensor([1.0, 2.25])).abs().median() < 0.3


def test_physical_units_shape_and_provenance(generator):
    """A prior that works in other units than the data: answers come back in the data's."""
    prior = GaussianPrior(torch.zeros(2), torch.eye(2))
    prior.scale, prior.shift = 3.0, 10.0
    problem = InverseProblem(prior, Likelihood(MatrixOperator(torch.eye(2)), 0.01, torch.tensor([12.0, 8.0])))
    steps = []
    result = RedDiff(steps=300).run(problem, 5, generator=generator, callback=lambda i, info: steps.append((i, info)))
    assert result.samples.shape == (5, 2) and result.samples.dtype == torch.float32
    assert (result.samples - torch.tensor([12.0, 8.0])).abs().max() < 0.5
    assert result.attributes["solver"] == "RED-diff" and result.attributes["settings"]["steps"] == 300
    assert [i for i, _ in steps] == list(range(300))
    levels = [info["level"] for _, info in steps]
    assert all(a > b for a, b in zip(levels, levels[1:]))


def test_network_calls_are_those_made(linear_gaussian, generator):
    result = RedDiff(steps=10).run(linear_gaussian.problem, 3, generator=generator)
    assert linear_gaussian.prior.calls - 16 == result.attributes["network_calls"] == 10  # 16 draw the starts


def test_same_seed_same_result(gaussian):
    solver = RedDiff(steps=20)
    first, again, other = (solver.run(gaussian, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"steps": 1}, "steps"), ({"learning_rate": 0.0}, "learning_rate"), ({"weight": -1.0}, "weight")],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        RedDiff(**settings)


def test_bad_number_of_samples(gaussian):
    with pytest.raises(ValueError, match="n_samples"):
        RedDiff().run(gaussian, 0)


def test_divergence_is_reported_with_its_step(gaussian):
    with pytest.raises(SolverError, match="at step"):
        RedDiff(learning_rate=1e36).run(gaussian, 4, generator=0)
