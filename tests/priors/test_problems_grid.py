"""Posteriors by quadrature: against closed forms, under refinement, and by their symmetries."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood
from sciinstruct.priors.gaussian import GaussianPrior
from sciinstruct.priors.problems import (
    BinaryClosurePhases,
    GridPosterior,
    Magnitudes,
    closure_phases,
    gaussian_field,
    mixture_2d,
    phase_retrieval,
)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_grid_equals_the_closed_form_of_a_linear_problem(seed):
    problem, _, closed = mixture_2d(seed)
    grid = GridPosterior(problem, 500)
    assert grid.log_evidence == pytest.approx(closed.log_evidence, abs=1e-8)
    torch.testing.assert_close(grid.mean, closed.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(grid.std, closed.std, rtol=0, atol=1e-8 + 1e-4)  # cells add h^2/12 to variances
    x = closed.sample(50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grid.log_prob(x), closed.log_prob(x), rtol=0, atol=1e-7)


@pytest.mark.parametrize("make", [phase_retrieval, closure_phases])
@pytest.mark.parametrize("seed", [2, 5])
def test_refinement_changes_nothing_that_matters(make, seed):
    fine = make(seed).posterior
    coarse = GridPosterior(fine.problem, fine.cells // 2)
    assert coarse.log_evidence == pytest.approx(fine.log_evidence, abs=1e-5)
    torch.testing.assert_close(coarse.mean, fine.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(coarse.std, fine.std, rtol=0, atol=1e-3)
    # lines between modes move by up to half a cell, and less than one unit of mass lies along a unit of their normal
    torch.testing.assert_close(coarse.weights, fine.weights, rtol=0, atol=float(coarse.cell.max()) / 2)


@pytest.mark.parametrize("make", [phase_retrieval, closure_phases])
def test_draws_follow_the_density(make):
    """Means within standard errors; importance weights density/density of a wide normal integrate to one."""
    exact = make(2).posterior
    n = 20000
    g = torch.Generator().manual_seed(3)
    x = exact.sample(n, generator=g)
    assert ((x.mean(0) - exact.mean).abs() < 4 * exact.std / n**0.5).all()
    assert (
        (x.var(0) / exact.std.square() - 1).abs() < 4 * (x.sub(exact.mean) / exact.std).pow(4).var(0).sqrt() / n**0.5
    ).all()
    shares = torch.bincount(exact.labels(x), minlength=len(exact.weights)) / n
    assert ((shares - exact.weights).abs() < 4 * (exact.weights / n).sqrt() + 1e-3).all()
    wide = GaussianPrior(exact.mean, torch.diag((1.5 * exact.std).square()))
    proposal = wide.sample_exact(4 * n, generator=g, dtype=torch.float64)
    ratio = (exact.log_prob(proposal) - wide.log_prob(proposal)).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / (4 * n) ** 0.5


def test_magnitudes_cannot_tell_a_sign():
    """With a centred prior the posterior is even: opposite modes weigh alike."""
    prior = GaussianPrior(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    operator = Magnitudes(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    y = operator(torch.tensor([[0.7, 0.9]], dtype=torch.float64))
    exact = GridPosterior(InverseProblem(prior, Likelihood(operator, 0.1, y)), 400)
    assert len(exact.weights) == 4
    assert exact.mean.abs().max() < 1e-8
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(exact.log_prob(x), exact.log_prob(-x), rtol=0, atol=1e-10)
    opposite = exact.labels(-exact.means)
    torch.testing.assert_close(exact.weights, exact.weights[opposite], rtol=0, atol=1e-2)
    assert (opposite != torch.arange(4)).all()


def test_closure_phases_are_those_of_visibilities_with_wrong_station_phases():
    g = torch.Generator().manual_seed(0)
    stations = torch.rand(1, 4, 2, generator=g, dtype=torch.float64)
    x = torch.randn(5, 2, generator=g, dtype=torch.float64)
    gains = torch.polar(torch.ones(4, dtype=torch.float64), 6 * torch.rand(4, generator=g, dtype=torch.float64))

    def visibility(i, j):
        angle = 2 * torch.pi * x @ (stations[0, j] - stations[0, i])
        return gains[i] * gains[j].conj() * (1 + 0.6 * torch.exp(1j * angle))

    phasors = BinaryClosurePhases(stations, 0.6)(x)
    for column, (i, j) in enumerate([(1, 2), (1, 3), (2, 3)]):
        product = visibility(0, i) * visibility(i, j) * visibility(j, 0)
        torch.testing.assert_close(phasors[:, column], product / product.abs(), rtol=0, atol=1e-12)


def test_seeds_give_several_modes():
    """Two modes or more of weight above 0.1 in at least half of the draws."""
    for make in (phase_retrieval, closure_phases):
        several = [int((make(seed).posterior.weights > 0.1).sum()) > 1 for seed in (2, 3, 4, 5)]
        assert sum(several) >= 2


def test_bad_input():
    problem, _, _ = mixture_2d(0)
    with pytest.raises(ValueError, match="cells must be positive"):
        GridPosterior(problem, 0)
    with pytest.raises(ValueError, match="x must have shape"):
        GridPosterior(problem, 50).log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match="ratio must lie between"):
        BinaryClosurePhases(torch.zeros(1, 3, 2), 1.0)
    with pytest.raises(ValueError, match="stations must have shape"):
        BinaryClosurePhases(torch.zeros(3, 2), 0.5)
    with pytest.raises(ValueError, match="matrix must have shape"):
        Magnitudes(torch.zeros(3))
    field = gaussian_field(16)
    from sciinstruct.operators.blur import GaussianBlur

    blurred = Likelihood(GaussianBlur(1.0, (16, 16)), 0.1, torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match="two parameters"):
        GridPosterior(InverseProblem(field, blurred))
