"""Particles with repulsion: the force is the gradient it should be, and its flow's width is known in a plane."""

import math

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError
from sciinstruct.inference.baselines.red_diff import RedDiff
from sciinstruct.inference.baselines.rlsd import RLSD, log_kernel_slope
from sciinstruct.priors import GaussianPrior
from sciinstruct.priors.problems import MatrixOperator

FLOW = {"weight": 1.0, "level_power": -1.0, "repulsion": 1.0}


@pytest.mark.parametrize("shape", [(7, 2), (30, 1, 4, 3)])
def test_the_force_is_the_gradient_of_the_log_kernel_sum(shape, generator):
    """By autograd, with the width of the kernel held fixed."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    flat = x.flatten(1)
    apart = torch.pdist(flat).square()
    lower = apart.sort().values[(len(apart) - 1) // 2]  # torch's median: the lower of the middle two
    width = float(lower) / math.log(len(x))
    leaf = flat.clone().requires_grad_()
    squares = (leaf[:, None] - flat).square().sum(-1)
    (expected,) = torch.autograd.grad((-squares / width).exp().sum(1).log().sum(), leaf)
    torch.testing.assert_close(log_kernel_slope(x).flatten(1), expected)


def test_in_a_gaussian_cloud_the_force_is_linear(generator):
    """Population limit: -(x - m)/(v + h/2), h = 2 v 2 ln 2 / ln n. Bias allowed: 10 %, the kernel's own peak."""
    n, v = 4000, 0.49
    x = 3.0 + v**0.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    near = (x - 3.0).norm(dim=1) < v**0.5
    slope = (log_kernel_slope(x)[near] * (x - 3.0)[near]).sum() / (x - 3.0)[near].square().sum()
    assert float(slope) * -v * (1 + 2 * math.log(2) / math.log(n)) == pytest.approx(1.0, abs=0.1)


def test_a_single_particle_is_left_alone():
    assert torch.equal(log_kernel_slope(torch.ones(1, 3)), torch.zeros(1, 3))


def test_without_repulsion_it_is_red_diff(linear_gaussian):
    first = RLSD(repulsion=0.0, steps=50).run(linear_gaussian.problem, 8, generator=3).samples
    assert torch.equal(first, RedDiff(steps=50).run(linear_gaussian.problem, 8, generator=3).samples)


def test_width_of_the_flow_in_a_plane(generator):
    """Isotropic posterior of variance V, the prior's score: the particles stop at V/(1 + 2 ln 2 / ln n).

    Bias allowed: 5 %, what Adam's last steps leave and the finite number of particles.
    """
    n = 400
    prior = GaussianPrior(torch.zeros(2), torch.eye(2))
    problem = InverseProblem(prior, Likelihood(MatrixOperator(torch.eye(2)), 0.5, torch.tensor([1.0, -0.5])))
    x = RLSD(**FLOW, learning_rate=0.005, steps=1000).run(problem, n, generator=generator, dtype=torch.float64).samples
    assert ((x.mean(0) - torch.tensor([0.8, -0.4])).abs() < 4 * (0.2 / n) ** 0.5).all()
    assert float(x.var(0).mean()) * (1 + 2 * math.log(2) / math.log(n)) / 0.2 == pytest.approx(1.0, abs=0.05)


def test_more_repulsion_more_spread(linear_gaussian):
    spreads = [
        float(
            RLSD(**{**FLOW, "repulsion": r}, learning_rate=0.05)
            .run(linear_gaussian.problem, 100, generator=0)
            .std.mean()
        )
        for r in (0.0, 0.3, 1.0)
    ]
    assert spreads[0] < spreads[1] < spreads[2]


def test_non_linear_data_are_fitted_at_several_roots(squares, generator):
    x = RLSD(steps=300).run(squares, 64, generator=generator).samples
    assert (x.square() - torch.tensor([1.0, 2.25])).abs().median() < 0.5
    assert len({(bool(a > 0), bool(b > 0)) for a, b in x}) >= 2


def test_physical_units_shape_and_provenance(other_units, generator):
    steps = []
    result = RLSD(steps=300).run(other_units, 5, generator=generator, callback=lambda i, info: steps.append((i, info)))
    assert result.samples.shape == (5, 2) and result.samples.dtype == torch.float32
    assert (result.samples - torch.tensor([12.0, 8.0])).abs().max() < 0.5
    assert result.attributes["solver"] == "RLSD" and "repulsion" in result.attributes["settings"]
    assert [i for i, _ in steps] == list(range(300))


def test_network_calls_are_counted(linear_gaussian):
    """All calls of the denoiser, but for the draws of the prior that the particles start from."""
    case = linear_gaussian
    result = RLSD(steps=30).run(case.problem, 3, generator=0)
    assert case.prior.calls - 16 == result.attributes["network_calls"] == 30


def test_same_seed_same_result(linear_gaussian):
    solver = RLSD(steps=20)
    first, again, other = (solver.run(linear_gaussian.problem, 4, generator=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("settings", "text"), [({"steps": 1}, "steps"), ({"repulsion": -1.0}, "repulsion")])
def test_bad_settings(settings, text):
    with pytest.raises(ValueError, match=text):
        RLSD(**settings)


def test_bad_number_of_samples(linear_gaussian):
    with pytest.raises(ValueError, match="n_samples"):
        RLSD().run(linear_gaussian.problem, 0)


def test_divergence_is_reported_with_its_step(linear_gaussian):
    with pytest.raises(SolverError, match="RLSD became NaN or infinite at step"):
        RLSD(learning_rate=1e36).run(linear_gaussian.problem, 4, generator=0)
