"""Gradients of score divergences against autograd through exact laws and closed forms."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.divergences import (
    F_DIVERGENCES,
    Divergence,
    Levels,
    RatioRule,
)
from sciinstruct.priors import GaussianPrior

F64 = torch.float64


EXACT_RATIO = RatioRule(clamp=math.inf, normalise=False)


def _nodes(n, dimensions):
    """Tensor Gauss-Hermite rule for the standard normal: nodes (n^d, d), weights (n^d,)."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    z, w = torch.as_tensor(z), torch.as_tensor(w / w.sum())
    grid = torch.cartesian_prod(*[z] * dimensions).reshape(-1, dimensions)
    return grid, torch.cartesian_prod(*[w] * dimensions).reshape(-1, dimensions).prod(1)


def _legendre(n, lo, hi):
    """Gauss-Legendre rule over log sigma: levels and weights."""
    t, w = np.polynomial.legendre.leggauss(n)
    span = math.log(hi / lo)
    return torch.as_tensor(lo * np.exp(span * (t + 1) / 2)), torch.as_tensor(w * span / 2)


TARGET = GaussianPrior(torch.tensor([0.3, -0.2], dtype=F64), torch.tensor([[0.6, 0.15], [0.15, 0.4]], dtype=F64))
MEAN = torch.tensor([0.5, 0.1], dtype=F64)
ROOT = torch.tensor([[1.1, 0.2], [-0.1, 0.9]], dtype=F64)  # wider than the target


def _theta():
    return MEAN.clone().requires_grad_(), ROOT.clone().requires_grad_()


def _law(mean, root, sigma):
    """Mean and covariance of the generator's diffused law, differentiable in its parameters."""
    return mean, root @ root.T + sigma**2 * torch.eye(len(mean), dtype=F64)


def _log_density(x, mean, covariance):
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def _score(x, mean, covariance):
    return -torch.linalg.solve(covariance, (x - mean).T).T


def _student():
    return GaussianPrior(MEAN, ROOT @ ROOT.T)


def _log_ratio(x, sigma):
    student = _student()
    return TARGET.log_prob(x, sigma) - student.log_prob(x, sigma)


def _surrogate_gradient(divergence, sigma, n):
    """Gradient in (m, L) of the per-sample losses integrated over z and noise at one level."""
    nodes, weights = _nodes(n, 4)
    mean, root = _theta()
    x0 = mean + nodes[:, :2] @ root.T
    levels = Levels(torch.full((len(nodes),), sigma, dtype=F64), torch.ones(len(nodes), dtype=F64))
    terms = divergence.evaluate(x0, nodes[:, 2:], levels, TARGET.denoise, _student().denoise, _log_ratio)
    return torch.cat([g.flatten() for g in torch.autograd.grad((weights * terms.loss).sum(), (mean, root))])


def _exact_gradient(value, sigma, n=60):
    """Gradient in (m, L) of E_p value(x, log q/p, e-difference) with the law's own dependence on its parameters."""
    nodes, weights = _nodes(n, 2)
    mean, root = _theta()
    m, c = _law(mean, root, sigma)
    x = m + nodes @ torch.linalg.cholesky(c).T
    tm, tc = TARGET.mean, TARGET.covariance + sigma**2 * torch.eye(2, dtype=F64)
    log_r = _log_density(x, tm, tc) - _log_density(x, m, c)
    delta = sigma * (_score(x, tm, tc) - _score(x, m, c))
    total = (weights * value(log_r, delta)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, (mean, root))])


def _relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize(
    "f, bound", [("rkl", 1e-8), ("js", 1e-8), ("fkl", 1e-6), ("jeffreys", 1e-6), ("hellinger", 1e-6)]
)
def test_pair_has_the_gradient_of_the_weighted_fisher_term(f, bound, sigma):
    divergence = Divergence("f", f=f, ratio_rule=EXACT_RATIO)
    h = F_DIVERGENCES[f].h
    exact = _exact_gradient(lambda log_r, d: h(log_r.exp()) * d.square().sum(1), sigma)
    assert _relative(_surrogate_gradient(divergence, sigma, 22), exact) < bound


def test_exact_kl_is_the_reverse_kl_member_of_the_family():
    a = _surrogate_gradient(Divergence("exact_kl"), 1.3, 3)
    b = _surrogate_gradient(Divergence("f", f="rkl"), 1.3, 3)
    c = _surrogate_gradient(Divergence("sid", alpha=0.5), 1.3, 3)
    assert torch.equal(a, b) and torch.equal(a, c)


def test_a_detached_ratio_is_wrong():
    """What the path derivative of the ratio is for: without it the forward-KL gradient is off."""
    divergence = Divergence("f", f="fkl", ratio_rule=EXACT_RATIO)
    exact = _exact_gradient(lambda log_r, d: log_r.exp() * d.square().sum(1), 1.0)

    nodes, weights = _nodes(14, 4)
    mean, root = _theta()
    x0 = mean + nodes[:, :2] @ root.T
    levels = Levels(torch.ones(len(nodes), dtype=F64), torch.ones(len(nodes), dtype=F64))
    sim = Divergence("sim").evaluate(x0, nodes[:, 2:], levels, TARGET.denoise, _student().denoise)
    r = _log_ratio((x0 + nodes[:, 2:]).detach(), 1.0).exp()
    gradient = torch.autograd.grad((weights * r * sim.loss).sum(), (mean, root))
    assert _relative(torch.cat([g.flatten() for g in gradient]), exact) > 0.1
    assert _relative(_surrogate_gradient(divergence, 1.0, 14), exact) < 1e-3


@pytest.mark.parametrize("f", list(F_DIVERGENCES))
def test_score_estimator_has_the_gradient_of_the_divergence_at_that_level(f):
    values = {
        "rkl": lambda r: -r.log(),
        "fkl": lambda r: r * r.log(),
        "jeffreys": lambda r: (r - 1) * r.log(),
        "js": lambda r: r * r.log() - (1 + r) * ((1 + r) / 2).log(),
        "chi2": lambda r: (r - 1).square(),
        "hellinger": lambda r: (r.sqrt() - 1).square(),
    }
    divergence = Divergence("f", f=f, estimator="score", ratio_rule=EXACT_RATIO)
    exact = _exact_gradient(lambda log_r, _: values[f](log_r.exp()), 1.0)
    assert _relative(_surrogate_gradient(divergence, 1.0, 22), exact) < 1e-6
    if f == "rkl":
        assert torch.equal(
            _surrogate_gradient(Divergence(estimator="score"), 1.0, 3), _surrogate_gradient(divergence, 1.0, 3)
        )
        assert torch.equal(_surrogate_gradient(Divergence("ikl"), 1.0, 3), _surrogate_gradient(divergence, 1.0, 3))


@pytest.mark.parametrize("f", list(F_DIVERGENCES))
def test_residue_is_h_minus_r_h_prime(f):
    r = torch.linspace(0.05, 4, 30, dtype=F64).requires_grad_()
    h = F_DIVERGENCES[f].h(r)
    slope = torch.autograd.grad((h + 0 * r).sum(), r)[0]
    torch.testing.assert_close(F_DIVERGENCES[f].residue(r), h - r * slope)


def _line_gradients(divergence, distance, sigma, frozen):
    """Surrogate and exact gradient in (m, s) of E d(delta) for a 1-D generator m + s z; trapezoid rule."""
    grid = torch.linspace(-9, 9, 361, dtype=F64)
    w = torch.exp(-0.5 * grid**2)
    w = w / w.sum()
    pairs, weights = torch.cartesian_prod(grid, grid), torch.cartesian_prod(w, w).prod(1)
    theta = torch.tensor([0.5, 1.2], dtype=F64, requires_grad=True)
    target = GaussianPrior(torch.zeros(1, dtype=F64), 0.5 * torch.eye(1, dtype=F64))
    student = GaussianPrior(theta.detach()[:1], theta.detach()[1:, None] ** 2)
    x0 = theta[0] + theta[1] * pairs[:, :1]
    levels = Levels(torch.full((len(pairs),), sigma, dtype=F64), torch.ones(len(pairs), dtype=F64))
    terms = divergence.evaluate(x0, pairs[:, 1:], levels, target.denoise, student.denoise)
    ours = torch.autograd.grad((weights * terms.loss).sum(), theta)[0]
    v = theta[1] ** 2 + sigma**2
    x = theta[0] + v.sqrt() * grid
    x = x.detach() if frozen else x
    delta = sigma * ((x - theta[0]) / v - x / (0.5 + sigma**2))
    return ours, torch.autograd.grad((w * distance(delta)).sum(), theta)[0]


@pytest.mark.parametrize("c", [0.01, 0.5])
def test_sim_identity_for_pseudo_huber(c):
    huber = lambda d: (d**2 + c**2).sqrt()
    ours, exact = _line_gradients(Divergence("sim", distance="huber", c=c), huber, 1.0, frozen=True)
    assert _relative(ours, exact) < (1e-10 if c == 0.5 else 1e-3)  # the grid resolves the kink of width c, or nearly
    ours, exact = _line_gradients(Divergence("huber", c=c), huber, 1.0, frozen=False)
    assert _relative(ours, exact) < (1e-10 if c == 0.5 else 1e-3)


def test_sim_identity_for_squares():
    ours, exact = _line_gradients(Divergence("sim"), torch.square, 1.0, frozen=True)
    assert _relative(ours, exact) < 1e-12
    ours, exact = _line_gradients(Divergence("exact_kl"), torch.square, 1.0, frozen=False)
    assert _relative(ours, exact) < 1e-12


def _integrated(divergence, lo, hi, n_levels, n_nodes):
    sigmas, weights = _legendre(n_levels, lo, hi)
    return sum(w * _surrogate_gradient(divergence, float(s), n_nodes) for s, w in zip(sigmas, weights))


def _closed_kl_gradient(forward=False):
    mean, root = _theta()
    p = torch.distributions.MultivariateNormal(mean, root @ root.T)
    q = torch.distributions.MultivariateNormal(TARGET.mean, TARGET.covariance)
    kl = torch.distributions.kl_divergence(q, p) if forward else torch.distributions.kl_divergence(p, q)
    return torch.cat([g.flatten() for g in torch.autograd.grad(kl, (mean, root))])


def test_integrated_gradient_is_that_of_the_kl():
    exact = _closed_kl_gradient()
    assert _relative(_integrated(Divergence("exact_kl"), 0.01, 50, 60, 3), exact) < 2e-3
    assert _relative(_integrated(Divergence("sim"), 0.01, 50, 60, 3), exact) > 0.2
    score = Divergence("exact_kl", estimator="score")
    assert _relative(_surrogate_gradient(score, 0.01, 3), exact) < 2e-3


def test_integrated_gradient_is_that_of_the_forward_kl():
    divergence = Divergence("f", f="fkl", ratio_rule=EXACT_RATIO)
    assert _relative(_integrated(divergence, 0.01, 50, 24, 12), _closed_kl_gradient(forward=True)) < 2e-3
