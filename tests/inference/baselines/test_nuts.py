"""NUTS against exact posteriors, by its own Monte Carlo errors."""

import sys

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError
from sciinstruct.inference.baselines.nuts import NUTS, _Energy
from sciinstruct.priors import DenoiserPrior, GaussianMixture, GaussianPrior
from sciinstruct.priors.problems import MatrixOperator

SHORT = NUTS(chains=2, warmup=50)


def test_a_gaussian_posterior_within_its_own_errors(linear_gaussian, generator):
    """Moments within 4 standard errors of as many independent draws as arviz counts."""
    case = linear_gaussian
    result = NUTS(chains=4, warmup=200).run(case.problem, 1000, generator=generator, dtype=torch.float64)
    found, (mean, covariance) = result.diagnostics, case.posterior()
    assert found["r_hat"] < 1.02 and found["ess_bulk"] > 400 and found["divergences"] == 0
    worth = min(found["ess_bulk"], found["ess_tail"])
    error = covariance.diagonal().sqrt() / worth**0.5
    assert ((result.samples.mean(0) - mean).abs() < 4 * error).all()
    size = covariance.diagonal()[:, None] * covariance.diagonal()
    assert ((result.samples.T.cov() - covariance).abs() < 4 * ((size + covariance.square()) / worth).sqrt()).all()


def test_the_coordinates_whiten_a_gaussian_posterior(linear_gaussian):
    """The density's curvature is the inverse covariance, wherever a chain starts; no more to adapt."""
    energy = _Energy(linear_gaussian.problem, None)
    start = torch.tensor([3.0, -2.0], dtype=torch.float64)
    energy.begin(start)
    torch.testing.assert_close(energy.root @ energy.root.T, linear_gaussian.posterior()[1], rtol=1e-6, atol=0)
    assert torch.equal(energy.image(torch.zeros(1, 2, dtype=torch.float64))[0], start)
    assert energy.calls == 4


def test_a_bent_posterior_agrees_with_a_grid(generator):
    """The square of one number measured, and faintly: p(x | y) integrated on a grid."""
    prior = GaussianPrior(torch.tensor([1.0]), torch.tensor([[0.5]]))
    likelihood = Likelihood(MatrixOperator(torch.ones(1, 1)), 0.5, torch.tensor([1.0]))
    likelihood.operator.apply = lambda x: x.square()
    problem = InverseProblem(prior, likelihood)
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None]
    density = (prior.log_prob(grid) + problem.log_likelihood(grid)).softmax(0)
    mean = float((density * grid[:, 0]).sum())
    sd = float((density * (grid[:, 0] - mean).square()).sum()) ** 0.5
    result = NUTS(chains=4, warmup=100).run(problem, 600, generator=generator, dtype=torch.float64)
    assert abs(float(result.samples.mean()) - mean) < 4 * sd / result.diagnostics["ess_bulk"] ** 0.5


def test_chains_in_separate_modes_are_warned_of(generator):
    """Modes 40 standard deviations apart: no chain crosses, and R-hat says that they disagree."""
    prior = GaussianMixture(torch.tensor([[-10.0], [10.0]]), torch.full((2, 1, 1), 0.25))
    likelihood = Likelihood(MatrixOperator(torch.ones(1, 1)), 100.0, torch.tensor([0.0]))
    found = NUTS(chains=6, warmup=50).run(InverseProblem(prior, likelihood), 120, generator=generator).diagnostics
    assert found["r_hat"] > 1.1 and any("R-hat" in text for text in found["warnings"])


def test_physical_units_shape_and_provenance(other_units, generator):
    result = NUTS(chains=3, warmup=100).run(other_units, 20, generator=generator)
    assert result.samples.shape == (20, 2) and result.samples.dtype == torch.float32
    assert (result.samples - torch.tensor([12.0, 8.0])).abs().max() < 0.1
    assert result.attributes["solver"] == "NUTS" and result.attributes["settings"]["chains"] == 3
    assert (result.diagnostics["chains"], result.diagnostics["draws"]) == (3, 7)


def test_callback_and_network_calls(linear_gaussian):
    """Every step of every chain is told; a density and its gradient are two calls each, shared out over the samples."""
    calls, steps = 0, []
    density = linear_gaussian.prior.log_prob

    def counted(x, sigma=0.0):
        nonlocal calls
        calls += len(x)
        return density(x, sigma)

    linear_gaussian.prior.log_prob = counted
    result = SHORT.run(linear_gaussian.problem, 10, generator=0, callback=lambda i, info: steps.append((i, info)))
    assert [i for i, _ in steps] == list(range(2 * 55))
    assert sum(info["warmup"] for _, info in steps) == 100 and {info["chain"] for _, info in steps} == {0.0, 1.0}
    assert 10 * (result.attributes["network_calls"] - 1) < 2 * calls <= 10 * result.attributes["network_calls"]


def test_same_seed_same_result_and_no_global_randomness(linear_gaussian):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (SHORT.run(linear_gaussian.problem, 8, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"chains": 1}, "chains"),
        ({"warmup": 5}, "warmup"),
        ({"target_accept": 1.0}, "accept"),
        ({"max_depth": 0}, "depth"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        NUTS(**settings)


def test_bad_number_of_samples(linear_gaussian):
    with pytest.raises(ValueError, match="n_samples"):
        NUTS().run(linear_gaussian.problem, 0)


def test_a_prior_without_density_is_refused(linear_gaussian):
    prior = DenoiserPrior(lambda x, sigma: x, (2,), (0.1, 10.0))
    with pytest.raises(TypeError, match="DenoiserPrior has none"):
        NUTS().run(InverseProblem(prior, linear_gaussian.problem.likelihood), 4)


def test_a_singular_prior_is_refused(linear_gaussian):
    prior = GaussianPrior(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0])))
    with pytest.raises(ValueError, match="singular"):
        NUTS().run(InverseProblem(prior, linear_gaussian.problem.likelihood), 4, generator=0)


def test_without_arviz_nothing_is_run(linear_gaussian, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match="pip install"):
        NUTS().run(linear_gaussian.problem, 4)


def test_a_density_that_breaks_is_reported_with_its_step(linear_gaussian):
    """From the third step of the second chain on the likelihood is NaN."""
    seen = []
    problem = linear_gaussian.problem
    honest = problem.likelihood.log_prob
    problem.likelihood.log_prob = lambda image: honest(image) * (float("nan") if len(seen) >= 58 else 1.0)
    with pytest.raises(SolverError, match="likelihood's log-density is NaN at step 58, in chain 1"):
        SHORT.run(problem, 10, generator=0, callback=lambda i, info: seen.append(i))
