"""The exactly solvable problems really are: their answers against other ways to get them."""

import pytest
import torch

from sciinstruct.core import dot_test
from sciinstruct.priors.problems import INSTRUMENTS, MatrixOperator, bump_fields, fields_16, mixture_2d


@pytest.mark.parametrize("seed", [0, 4, 8])
def test_plane_posterior_against_quadrature(seed):
    """Prior times likelihood on a grid, normalised: density, evidence and mode weights."""
    problem, _, exact = mixture_2d(seed)
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    area = float(axis[1] - axis[0]) ** 2
    joint = problem.prior.log_prob(grid) + problem.log_likelihood(grid)
    evidence = float(joint.logsumexp(0)) + torch.tensor(area).log().item()
    assert exact.log_evidence == pytest.approx(evidence, abs=1e-6)
    inside = joint > joint.max() - 30
    torch.testing.assert_close(exact.log_prob(grid[inside]), joint[inside] - evidence, rtol=0, atol=1e-6)
    density = (joint - evidence).exp() * area
    torch.testing.assert_close(exact.mean, density @ grid, rtol=0, atol=1e-6)
    shares = density @ problem.prior.responsibilities(grid)  # P(class | y) by total probability
    torch.testing.assert_close(exact.weights, shares, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", INSTRUMENTS)
def test_field_posterior_against_textbook_algebra(kind):
    """Normal equations with the dense matrix, and marginal likelihoods from torch.distributions."""
    problem, _, exact = fields_16(kind, 1)
    prior, likelihood = problem.prior, problem.likelihood
    a, y = likelihood.operator.to_dense(), likelihood.y.flatten()
    if a.is_complex():
        a, y = torch.cat([a.real, a.imag]), torch.cat([y.real, y.imag])
    noise = float(likelihood.noise.sigma) ** 2 * torch.eye(len(y), dtype=torch.float64)
    c = prior.dense_covariance(0)  # one spectrum for all classes
    data_covariance = a @ c @ a.T + noise
    law = torch.distributions.MultivariateNormal(torch.zeros_like(y), data_covariance)
    means, logs = [], []
    for mu in prior.means.flatten(1):
        means.append(mu + c @ a.T @ torch.linalg.solve(data_covariance, y - a @ mu))
        logs.append(law.log_prob(y - a @ mu))
    weights = (prior.log_weights + torch.stack(logs)).softmax(0)
    torch.testing.assert_close(exact.weights, weights, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(exact.means.flatten(1), torch.stack(means), rtol=0, atol=1e-6)
    spread = c - c @ a.T @ torch.linalg.solve(data_covariance, a @ c)
    between = weights @ (torch.stack(means) - weights @ torch.stack(means)).square()
    torch.testing.assert_close(exact.std.flatten(), (spread.diagonal() + between).sqrt(), rtol=0, atol=1e-6)


def test_truths_are_draws_of_their_posteriors():
    """Over seeds, ranks of the truth's entries among posterior draws are uniform: mean 1/2, variance 1/12."""
    ranks = []
    for seed in range(150):
        _, truth, exact = mixture_2d(seed)
        draws = exact.sample(400, generator=torch.Generator().manual_seed(seed))
        ranks.append((draws < truth).double().mean(0))
    u = torch.stack(ranks)
    assert ((u.mean(0) - 0.5).abs() < 4 * (1 / 12 / len(u)) ** 0.5).all()
    assert ((u.var(0) * 12 - 1).abs() < 4 * (0.8 / len(u)) ** 0.5).all()  # kurtosis of a uniform: 1.8


def test_some_problems_are_ambiguous_and_some_are_not():
    """Two or more modes of weight above 0.1 in at least a fifth of the draws of each family."""
    makers = [mixture_2d, *(lambda seed, kind=kind: fields_16(kind, seed) for kind in INSTRUMENTS)]
    for make in makers:
        several = [int((make(seed).posterior.weights > 0.1).sum()) > 1 for seed in range(20)]
        assert 0.2 <= sum(several) / 20 < 1


def test_the_mask_hides_the_bumps():
    """Data of the four classes differ by less than a quarter of a bump anywhere, while the bumps are 2 high."""
    problem, _, _ = fields_16("mask", 0)
    means = bump_fields().means
    assert float(means.max()) > 1.9
    seen = problem.likelihood.operator(means)
    assert seen.shape == (4, 256 - 81) and float((seen[:, None] - seen).abs().max()) < 0.5


def test_seeds_repeat_and_differ():
    for make in (mixture_2d, lambda seed: fields_16("visibilities", seed)):
        first, again, other = make(3), make(3), make(4)
        assert torch.equal(first.truth, again.truth)
        assert torch.equal(first.problem.likelihood.y, again.problem.likelihood.y)
        assert not torch.equal(first.truth, other.truth)


def test_matrix_operator(generator):
    operator = MatrixOperator(torch.randn(3, 5, generator=generator))
    assert dot_test(operator, generator) < 1e-12
    torch.testing.assert_close(operator.to_dense(), operator.matrix)


def test_bad_input():
    with pytest.raises(ValueError, match="kind must be one of"):
        fields_16("fog", 0)
    with pytest.raises(ValueError, match="matrix must have shape"):
        MatrixOperator(torch.ones(3))
    with pytest.raises(ValueError, match="matrix must be finite"):
        MatrixOperator(torch.tensor([[float("nan")]]))
