"""Annealed Langevin where its law is known: one step, the stationary law with its discretisation bias, the limit."""

import pytest
import torch

from sciinstruct.core import SolverError
from sciinstruct.inference.baselines.curvature import data_curvature
from sciinstruct.inference.baselines.langevin import AnnealedLangevin, langevin_step
from sciinstruct.priors.problems import fields_16


def preconditioner(case, sigma):
    """(I/sigma^2 + A^T A/noise^2)^-1."""
    return torch.linalg.inv(torch.eye(2) / sigma**2 + case.matrix.T @ case.matrix / case.noise**2)


def discrete_law(case, sigma, step):
    """Stationary mean and covariance of the chain at one level: S = M S M^T + 2 step P, M = I - step P H."""
    mean, covariance = case.posterior(level=sigma)
    p = preconditioner(case, sigma)
    m = torch.eye(2, dtype=torch.float64) - step * p @ torch.linalg.inv(covariance)
    kron = torch.kron(m, m)
    spread = torch.linalg.solve(torch.eye(4) - kron, (2 * step * p).reshape(4)).reshape(2, 2)
    return mean, spread


def test_one_step_has_the_moments_it_should(linear_gaussian, generator):
    case, n, sigma, step = linear_gaussian, 40_000, 0.8, 0.3
    data = data_curvature(case.problem, case.prior.sample_exact(8, generator=generator, dtype=torch.float64))
    x = torch.tensor([2.0, 0.3], dtype=torch.float64)
    moved, log_likelihood = langevin_step(case.problem, data, x.expand(n, 2), sigma, step, generator)
    mean, covariance = case.posterior(level=sigma)
    p = preconditioner(case, sigma)
    case.check(moved, x + step * p @ torch.linalg.solve(covariance, mean - x), 2 * step * p)
    assert log_likelihood == pytest.approx(float(case.problem.log_likelihood(x[None])))


def test_blurred_data_are_those_of_a_noisy_image(linear_gaussian, generator):
    """The step's mean is at rest where p(x; sigma) N(y; A x, noise^2 I + blur^2 A A^T) has its peak."""
    case, n, sigma, blur = linear_gaussian, 40_000, 0.8, 0.6
    data = data_curvature(case.problem, case.prior.sample_exact(8, generator=generator, dtype=torch.float64))
    peak, _ = case.posterior(coupling=blur, level=sigma)
    moved, _ = langevin_step(case.problem, data, peak.expand(n, 2), sigma, 0.3, generator, blur)
    assert ((moved.mean(0) - peak).abs() < 4 * moved.std(0) / n**0.5).all()
    assert ((case.posterior(level=sigma)[0] - peak).abs() > 20 * moved.std(0) / n**0.5).any()  # the test can fail


@pytest.mark.parametrize("step", [0.1, 1.0])
def test_stationary_law_at_one_level(linear_gaussian, generator, step):
    """The exact law of the discretised chain, whatever the step: nothing to allow for."""
    case, levels = linear_gaussian, []
    solver = AnnealedLangevin(top=1.02, bottom=1.0, levels=2, inner=1, final=round(20 / step), final_step=step)
    x = solver.run(
        case.problem,
        20_000,
        generator=generator,
        dtype=torch.float64,
        callback=lambda i, info: levels.append(info["level"]),
    ).samples
    case.check(x, *discrete_law(case, levels[-1], step))


def test_the_law_tends_to_the_posterior(linear_gaussian):
    """Algebra, no draws: the error of the chain's law is of first order in the step, and vanishes with the level."""
    case = linear_gaussian
    _, exact = case.posterior(level=0.3)
    errors = [float((discrete_law(case, 0.3, step)[1] - exact).norm()) for step in (0.1, 0.05, 0.025)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1) and errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    blurs = [float((case.posterior(level=level)[1] - case.posterior()[1]).norm()) for level in (0.1, 0.05)]
    assert blurs[0] / blurs[1] == pytest.approx(4, rel=0.1)


def test_annealed_it_samples_the_posterior(linear_gaussian, generator):
    """As it comes. Bias allowed: 10 % of the variance, half the final step and what the ladder leaves."""
    case = linear_gaussian
    x = AnnealedLangevin().run(case.problem, 10_000, generator=generator, dtype=torch.float64).samples
    case.check(x, *case.posterior(), bias=0.1)


def test_a_field_is_fitted_to_its_noise(generator):
    """The posterior's mean chi-square is about 1; final steps of 0.1 widen the residuals by up to 1/(1 - 0.05)."""
    problem, _, _ = fields_16("blur", 0)
    samples = AnnealedLangevin().run(problem, 16, generator=generator).samples
    assert 0.7 < float(problem.likelihood.chi2(samples)["data"].mean()) < 1.5


def test_non_linear_data_are_fitted(squares, squares_sizes, generator):
    """Sizes by quadrature. Bias allowed: 5 % of a standard deviation in the mean, 10 % of the width."""
    mean, sd = squares_sizes
    n = 1000
    x = AnnealedLangevin().run(squares, n, generator=generator, dtype=torch.float64).samples
    assert ((x.abs().mean(0) - mean).abs() < sd * (4 / n**0.5 + 0.05)).all()
    assert ((x.abs().std(0) / sd - 1).abs() < 4 * (0.5 / n) ** 0.5 + 0.1).all()


def test_physical_units_shape_and_provenance(other_units, generator):
    steps = []
    solver = AnnealedLangevin(levels=5, inner=10, final=20, final_step=0.5)
    result = solver.run(other_units, 6, generator=generator, callback=lambda i, info: steps.append((i, info["level"])))
    assert result.samples.shape == (6, 2) and result.samples.dtype == torch.float32
    assert (result.samples - torch.tensor([12.0, 8.0])).abs().max() < 0.1
    assert result.attributes["solver"] == "annealed Langevin" and result.attributes["settings"]["inner"] == 10
    assert [i for i, _ in steps] == list(range(70)) and len({level for _, level in steps}) == 5
    assert result.diagnostics == {}


def test_network_calls_are_counted(linear_gaussian):
    """All calls of the denoiser, but for the draws of the prior that measure its scale."""
    case = linear_gaussian
    result = AnnealedLangevin(levels=3, inner=4, final=5).run(case.problem, 3, generator=0)
    assert case.prior.calls - 16 == result.attributes["network_calls"] == 17


def test_recorded_chains_are_diagnosed(linear_gaussian, generator):
    """Long after the last level is reached the chains agree; a level too small for the steps left tells on itself."""
    wide = AnnealedLangevin(top=2.0, bottom=1.0, levels=3, final=400, final_step=0.5, record=300)
    good = wide.run(linear_gaussian.problem, 8, generator=generator, dtype=torch.float64).diagnostics
    assert (good["chains"], good["draws"]) == (8, 300)
    assert good["r_hat"] < 1.05 and good["ess_bulk"] > 100
    short = AnnealedLangevin(final=100, record=100)
    bad = short.run(linear_gaussian.problem, 8, generator=generator, dtype=torch.float64).diagnostics
    assert bad["r_hat"] > 1.05 and bad["warnings"]


def test_same_seed_same_result(linear_gaussian):
    solver = AnnealedLangevin(levels=3, inner=2, final=0)
    first, again, other = (solver.run(linear_gaussian.problem, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bottom": 0.0}, "bottom"),
        ({"top": 0.01}, "bottom < top"),
        ({"levels": 1}, "levels"),
        ({"inner": 0}, "inner"),
        ({"final": -1}, "final"),
        ({"step": 0.0}, "step"),
        ({"step": 2.0}, "unstable"),
        ({"final_step": 2.0}, "final_step"),
        ({"record": 3}, "record"),
        ({"record": 500}, "record"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        AnnealedLangevin(**settings)


@pytest.mark.parametrize(("record", "n"), [(0, 0), (5, 1)])
def test_bad_number_of_samples(linear_gaussian, record, n):
    with pytest.raises(ValueError, match="n_samples"):
        AnnealedLangevin(record=record).run(linear_gaussian.problem, n)


def test_a_likelihood_without_residuals_is_refused(unwhitened):
    with pytest.raises(NotImplementedError, match="UnwhitenedLikelihood"):
        AnnealedLangevin().run(unwhitened, 2, generator=0)


def test_a_denoiser_that_breaks_is_reported_with_its_step(linear_gaussian):
    linear_gaussian.prior.good_for = 16 + 7
    with pytest.raises(SolverError, match="at step 7"):
        AnnealedLangevin().run(linear_gaussian.problem, 4, generator=0)
