"""FlowDiff learns what it should: laws known in closed form, in minutes."""

import math

import pytest
import torch

from sciinstruct.core import GaussianNoise
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.simulator import OperatorSimulator
from sciinstruct.priors import GaussianMixture, GaussianPrior
from sciinstruct.priors.problems.base import MatrixOperator

F64 = torch.float64
A = torch.tensor([[1.0, 0.3], [0.0, 0.8]])


def law(sigma=0.5):
    return OperatorSimulator(MatrixOperator(A), GaussianNoise(sigma))


def clusters():
    means = torch.tensor([[-1.8, 0.0], [1.8, 1.2], [1.2, -1.8]], dtype=F64)
    weights = torch.tensor([0.4, 0.35, 0.25], dtype=F64)
    return GaussianMixture(means, 0.45**2 * torch.eye(2, dtype=F64)[None], weights)


def observed(prior, n=20000):
    g = torch.Generator().manual_seed(0)
    return law().simulate(prior.sample(n, generator=g), g)


def draws(result, n=20000):
    return result.prior.to_physical(result.prior.sample(n, generator=torch.Generator().manual_seed(2)))


def distance(x):
    g = torch.Generator().manual_seed(3)
    return float(sliced_w2(x, clusters().sample(20000, generator=g), generator=g))


@pytest.mark.slow
def test_a_gaussian_law_and_its_posteriors_come_out_exact():
    """20000 observations leave the covariance uncertain by 1 to 2 %; training adds a bias of a few per cent."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
    prior = GaussianPrior(torch.tensor([1.0, -0.5], dtype=F64), covariance)
    found = FlowDiff(steps=1000, batch=256).train(observed(prior), law(), generator=1)
    x = draws(found).double()
    assert (torch.cov(x.T) - covariance).abs().max() < 0.1
    assert (x.mean(0) - prior.means[0]).abs().max() < 0.06
    y = torch.tensor([[0.5, 0.2]])
    gain = torch.linalg.solve(
        A.double() @ covariance @ A.double().T + 0.25 * torch.eye(2, dtype=F64), A.double() @ covariance
    ).T
    exact = covariance - gain @ A.double() @ covariance
    posterior = found.reconstructor.sample(y[0], 20000, generator=4).double()
    assert (torch.cov(posterior.T) - exact).abs().max() < 0.1 * float(exact.diagonal().mean())
    mean = prior.means[0] + gain @ (y[0].double() - A.double() @ prior.means[0])
    assert (posterior.mean(0) - mean).abs().max() < 0.1 * float(exact.diagonal().mean().sqrt())


@pytest.mark.slow
def test_a_mixture_is_learned_and_each_ablation_breaks_it():
    """2000 steps: flow and diffusion within 0.17 in sliced W2 (data times the inverse matrix: 0.23), spread right."""
    y, settings = observed(clusters()), {"steps": 2000, "batch": 256}
    found = FlowDiff(**settings).train(y, law(), generator=1)
    whole = distance(found.reconstructor.sample(y, 1, generator=5)[:, 0])
    assert whole < 0.17 and distance(draws(found)) < 0.17
    chi2 = found.report(y[:4000], generator=6)["chi2"]
    assert abs(chi2 - 1) < 0.15 and not found.warnings
    for wrong in ({"entropy_weight": 0.0}, {"prior_weight": 0.5}):
        broken = FlowDiff(**(settings | wrong)).train(y, law(), generator=1)
        assert distance(broken.reconstructor.sample(y, 1, generator=5)[:, 0]) > 1.5 * whole


@pytest.mark.slow
def test_noise_claimed_too_large_shrinks_the_law_and_is_flagged_and_too_small_widens_it():
    y, settings = observed(clusters()), FlowDiff(steps=1000, batch=256)
    spread = {}
    for factor in (0.5, 1.0, 2.0):
        found = settings.train(y, law(0.5 * factor), generator=1)
        spread[factor] = float(draws(found).var(0).sum())
        if factor == 2.0:
            assert any("smaller than claimed" in said for said in found.warnings)
    assert spread[2.0] < spread[1.0] < spread[0.5]
    assert math.isclose(
        spread[1.0],
        float(clusters().sample(20000, generator=torch.Generator().manual_seed(7)).var(0).sum()),
        rel_tol=0.1,
    )
