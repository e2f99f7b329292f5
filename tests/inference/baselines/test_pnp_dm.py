"""PnP-DM where its law is known: both draws, the stationary law at a fixed coupling, the posterior as it vanishes."""

from dataclasses import replace

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError
from sciinstruct.inference.baselines.curvature import data_curvature
from sciinstruct.inference.baselines.pnp_dm import PnPDM, data_step, prior_step, reverse_diffusion
from sciinstruct.priors import exact_posterior
from sciinstruct.priors.problems import MatrixOperator, fields_16, reference_mixture


@pytest.mark.parametrize("route", ["exact", "Gauss-Newton"])
@pytest.mark.parametrize("rho", [0.05, 0.7, 20.0])
def test_the_draw_given_the_data_is_exact_for_linear_data(linear_gaussian, generator, rho, route):
    """Covariance (A^T A / noise^2 + 1/rho^2)^-1, by the closed form and by randomise-then-optimise."""
    case, n = linear_gaussian, 4000
    data = data_curvature(case.problem, case.prior.sample_exact(8, generator=generator, dtype=torch.float64))
    assert data.slope is not None
    x = torch.tensor([2.0, 0.3], dtype=torch.float64)
    known = data if route == "exact" else replace(data, slope=None)
    z = data_step(case.problem, known, x.expand(n, 2), rho, generator)
    precision = case.matrix.T @ case.matrix / case.noise**2 + torch.eye(2) / rho**2
    mean = torch.linalg.solve(precision, case.matrix.T @ case.data / case.noise**2 + x / rho**2)
    case.check(z, mean, torch.linalg.inv(precision))


def test_the_draw_given_the_data_is_exact_behind_an_instrument(generator):
    """Fewer complex data than pixels: mean by a dense solve, one pixel's variance; the rest of the space keeps rho."""
    problem, _, _ = fields_16("visibilities", 3)
    draws = problem.prior.sample_exact(8, generator=generator, dtype=torch.float64)
    data = data_curvature(problem, draws)
    assert data.slope is not None and len(data.values) == 64
    n, rho = 4000, 0.4
    z = data_step(problem, data, draws[:1].expand(n, 1, 16, 16), rho, generator).flatten(1)
    residual, jacobian = problem.likelihood.linearise(draws[:1])
    covariance = torch.linalg.inv(jacobian[0].T @ jacobian[0] + torch.eye(256) / rho**2)
    mean = draws[0].flatten() - covariance @ jacobian[0].T @ residual[0]
    score = (z.mean(0) - mean) / (covariance.diagonal() / n).sqrt()
    assert abs(float(score.square().mean()) - 1) < 4 * (2 / 256) ** 0.5
    assert ((z.var(0) / covariance.diagonal() - 1).abs() < 5 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("rho", [0.0665, 0.4, 5.0])
def test_the_draw_given_the_prior_is_the_denoising_posterior(linear_gaussian, generator, rho):
    """N(D(z), C rho^2 (C + rho^2)^-1) for a Gaussian. Bias allowed: 3 %, the diffusion's 10 steps per factor e.

    The first level is the lowest but for rounding: a single denoising, with noise that is too wide by rho^2/C.
    """
    case, n = linear_gaussian, 20_000
    z = torch.tensor([2.0, 0.3], dtype=torch.float64).expand(n, 2)
    solver = reverse_diffusion(rho, case.prior.sigma_range[0], 10.0)
    assert (solver is None) == (rho < 0.07)
    x = prior_step(case.problem, z, rho, solver, generator)
    wide = case.prior.covariance + rho**2 * torch.eye(2)
    case.check(x, case.prior.denoise(z[:1], rho)[0], rho**2 * torch.linalg.solve(wide, case.prior.covariance), 0.03)


def test_stationary_law_at_a_fixed_coupling(linear_gaussian, generator):
    """The posterior with rho^2 A A^T added to the noise; the diffusion's steps may cost 3 %."""
    case, n = linear_gaussian, 10_000
    solver = PnPDM(top=0.71, bottom=0.7, decay=0.999, steps_per_fold=10.0)
    seen = []
    result = solver.run(
        case.problem, n, generator=generator, dtype=torch.float64, callback=lambda i, info: seen.append(info["level"])
    )
    assert len(seen) >= 15
    case.check(result.samples, *case.posterior(coupling=seen[-1]), bias=0.03)
    assert not torch.allclose(case.posterior(coupling=seen[-1])[1], case.posterior()[1], rtol=0.2)  # the test can fail


def test_stationary_law_of_a_mixture(generator):
    """One unit row measured: again an exact posterior, with noise (0.5^2 + rho^2)^(1/2), mode weights and all.

    At a coupling near the distance of the modes the chain crosses between them within a few iterations. Bias allowed:
    0.01 of a weight, 3 % of a standard deviation.
    """
    prior, row = reference_mixture(), torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    problem = InverseProblem(prior, Likelihood(MatrixOperator(row), 0.5, torch.tensor([0.4])))
    solver = PnPDM(top=1.02, bottom=1.0, decay=0.999, steps_per_fold=6.0)
    seen, n = [], 4000
    x = solver.run(
        problem, n, generator=generator, dtype=torch.float64, callback=lambda i, info: seen.append(info["level"])
    ).samples
    exact = exact_posterior(prior, Likelihood(MatrixOperator(row), (0.25 + seen[-1] ** 2) ** 0.5, torch.tensor([0.4])))
    truth = exact.sample(100_000, generator=generator)
    expected, shares = (exact.law.responsibilities(some).mean(0) for some in (truth, x))
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt() + 0.01).all()
    assert ((x.mean(0) - exact.mean).abs() < exact.std * (4 / n**0.5 + 0.03)).all()


def test_it_is_the_posterior_as_the_coupling_vanishes(linear_gaussian, generator):
    """A Gaussian, annealed slowly. Bias allowed: 5 %, as 2 ln(1/decay) and rho^2 add 4 % to the noise's variance."""
    case = linear_gaussian
    solver = PnPDM(decay=0.99, steps_per_fold=8.0)
    x = solver.run(case.problem, 3000, generator=generator, dtype=torch.float64).samples
    case.check(x, *case.posterior(), bias=0.05)


def test_non_linear_data_are_fitted_in_several_modes(squares, squares_sizes, generator):
    """The squares have four roots, of which the prior favours some; sizes by quadrature.

    Bias allowed: a quarter of a standard deviation, the Gauss-Newton draws; a quarter of the width, which 2 ln(1/decay)
    and the coupling raise by 15 %.
    """
    mean, sd = squares_sizes
    n = 100
    x = PnPDM().run(squares, n, generator=generator, dtype=torch.float64).samples
    assert ((x.abs().mean(0) - mean).abs() < sd * (4 / n**0.5 + 0.25)).all()
    assert ((x.abs().std(0) / sd - 1).abs() < 4 * (0.5 / n) ** 0.5 + 0.25).all()
    assert 0.05 < float((x[:, 0] > 0).double().mean()) < 0.98


def test_physical_units_shape_and_provenance(other_units, generator):
    levels = []
    result = PnPDM(decay=0.8).run(
        other_units, 6, generator=generator, callback=lambda i, info: levels.append((i, info["level"]))
    )
    assert result.samples.shape == (6, 2) and result.samples.dtype == torch.float32
    assert (result.samples - torch.tensor([12.0, 8.0])).abs().max() < 1.5
    assert result.attributes["solver"] == "PnP-DM" and result.attributes["settings"]["decay"] == 0.8
    assert [i for i, _ in levels] == list(range(len(levels)))
    assert all(a > b for (_, a), (_, b) in zip(levels, levels[1:]))
    assert result.diagnostics == {}


def test_network_calls_are_counted(linear_gaussian):
    """All calls of the denoiser, but for the draws of the prior that measure its scale."""
    case = linear_gaussian
    result = PnPDM(decay=0.5).run(case.problem, 3, generator=0)
    assert case.prior.calls - 16 == result.attributes["network_calls"]


def test_recorded_chains_are_diagnosed(linear_gaussian, generator):
    """At a wide coupling iterations are nearly independent: R-hat is 1 and many draws count."""
    solver = PnPDM(top=2.0, bottom=1.9, record=50)
    found = solver.run(linear_gaussian.problem, 8, generator=generator, dtype=torch.float64).diagnostics
    assert (found["chains"], found["draws"]) == (8, 50)
    assert found["r_hat"] < 1.1 and found["ess_bulk"] > 100


def test_same_seed_same_result(linear_gaussian):
    solver = PnPDM(decay=0.5)
    first, again, other = (solver.run(linear_gaussian.problem, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"bottom": 0.0}, "bottom"),
        ({"top": 0.01}, "bottom < top"),
        ({"decay": 1.0}, "decay"),
        ({"steps_per_fold": 0.0}, "steps_per_fold"),
        ({"record": 3}, "record"),
    ],
)
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        PnPDM(**settings)


@pytest.mark.parametrize(("record", "n"), [(0, 0), (5, 1)])
def test_bad_number_of_samples(linear_gaussian, record, n):
    with pytest.raises(ValueError, match="n_samples"):
        PnPDM(record=record).run(linear_gaussian.problem, n)


def test_a_likelihood_without_residuals_is_refused(unwhitened):
    with pytest.raises(NotImplementedError, match="UnwhitenedLikelihood"):
        PnPDM().run(unwhitened, 2, generator=0)


def test_a_denoiser_that_breaks_is_reported_with_its_step(linear_gaussian):
    """Sound until the third step has ended."""
    case, calls = linear_gaussian, []
    PnPDM().run(case.problem, 4, generator=0, callback=lambda i, info: calls.append(case.prior.calls))
    case.prior.calls, case.prior.good_for = 0, calls[3]
    with pytest.raises(SolverError, match="at step 4, in the draw given the prior"):
        PnPDM().run(case.problem, 4, generator=0)
