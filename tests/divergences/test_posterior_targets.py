"""Where likelihood plus divergence, and guided teachers, lead on conjugate Gaussians."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.core import GaussianNoise, Likelihood, LinearOperator
from sciinstruct.divergences import (
    Divergence,
    Levels,
)
from sciinstruct.priors import GaussianPrior, exact_posterior

F64 = torch.float64


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


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


PRIOR = GaussianPrior(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))


class Identity(LinearOperator):
    domain_shape = range_shape = (1,)

    def apply(self, x):
        return x

    def apply_adjoint(self, y):
        return y


LIKELIHOOD = Likelihood(Identity(), GaussianNoise(0.5), torch.ones(1, dtype=F64))
POSTERIOR = exact_posterior(PRIOR, LIKELIHOOD)


def _stationary(divergence, teacher, likelihood=None, n_nodes=3, n_levels=120, lo=0.03, hi=20.0):
    """Mean and variance at which the loss of a Gaussian generator m + s z is stationary; quadrature, exact student."""
    from scipy.optimize import root

    sigmas, w_level = _legendre(n_levels, lo, hi)
    nodes, w_node = _nodes(n_nodes, 2)  # 3 are exact for quadratic integrands
    pairs, weights = nodes.repeat(len(sigmas), 1), w_node.repeat(len(sigmas))
    levels = Levels(sigmas.repeat_interleave(len(nodes)), w_level.repeat_interleave(len(nodes)))

    def gradient(theta):
        t = torch.tensor([theta[0], math.exp(theta[1])], dtype=F64, requires_grad=True)
        student = GaussianPrior(t.detach()[:1], t.detach()[1:, None] ** 2)
        x0 = t[0] + t[1] * pairs[:, :1]
        total = (weights * divergence.evaluate(x0, pairs[:, 1:], levels, teacher, student.denoise).loss).sum()
        if likelihood is not None:
            total = total - (w_node * likelihood.log_prob(t[0] + t[1] * nodes[:, :1])).sum()
        g = torch.autograd.grad(total, t)[0].numpy()
        return [g[0], g[1] * math.exp(theta[1])]

    found = root(gradient, [0.6, -0.7], tol=1e-12)
    assert found.success
    return found.x[0], math.exp(2 * found.x[1])


def _plugin(x, sigma):
    """Denoiser guided by the likelihood of the denoised image, as in DPS."""
    with torch.enable_grad():
        leaf = x if x.requires_grad else x.detach().requires_grad_()
        d = PRIOR.denoise(leaf, sigma)
        slope = torch.autograd.grad(LIKELIHOOD.log_prob(d).sum(), leaf, create_graph=True)[0]
        return d + sigma[:, None] ** 2 * slope


SPAN = math.log(20.0 / 0.03)


def LOGNORMAL(s):
    """Training density of Karras et al. times sigma^2."""
    return s**2 * torch.exp(-0.5 * ((s.log() + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    "divergence, mean, variance",
    [
        (Divergence("exact_kl"), 0.8005, 0.1991),
        (Divergence("sim"), 0.688, 0.261),
        (Divergence("sid"), 0.659, 0.280),
        (Divergence("ikl"), 0.533, 0.408),
        (Divergence("ikl", weight=lambda s: torch.full_like(s, 1 / SPAN)), 0.881, 0.075),
    ],
    ids=["exact", "sim", "sid", "ikl", "ikl averaged"],
)
def test_divergence_plus_likelihood(divergence, mean, variance):
    """Route A: only the exact KL reaches the posterior N(0.8, 0.2); the others go elsewhere."""
    m, v = _stationary(divergence, PRIOR.denoise, LIKELIHOOD)
    assert m == pytest.approx(mean, abs=1e-3) and v == pytest.approx(variance, abs=1e-3)
    close = abs(m - 0.8) < 0.005 and abs(v - 0.2) < 0.005
    assert close == divergence.preserves_bayes


@pytest.mark.parametrize(
    "divergence",
    [
        Divergence("exact_kl"),
        Divergence("sim"),
        Divergence("sid"),
        Divergence("huber", c=0.5),
        Divergence("ikl"),
        Divergence("fgm"),
        Divergence("ikl", weight=LOGNORMAL),
    ],
    ids=["exact", "sim", "sid", "huber", "ikl", "fgm", "ikl lognormal"],
)
def test_matching_the_diffused_posterior(divergence):
    """Route B: with the exact posterior denoiser as teacher, every member of the family reaches N(0.8, 0.2)."""
    m, v = _stationary(divergence, POSTERIOR.law.denoise)
    assert m == pytest.approx(0.8, abs=1e-4) and v == pytest.approx(0.2, abs=1e-4)


def test_gaussian_guidance_matches_the_posterior():
    """Guidance with the covariance sigma^2 v/(v + sigma^2) of the denoised image: exact for a Gaussian prior."""

    def guided(x, sigma):
        d, s2 = PRIOR.denoise(x, sigma), sigma[:, None] ** 2
        return d + s2 / (1 + s2) * (1 - d) / (0.25 + s2 / (1 + s2))

    x, sigma = torch.randn(20, 1, generator=_rng(), dtype=F64), torch.linspace(0.03, 20, 20, dtype=F64)
    torch.testing.assert_close(guided(x, sigma), POSTERIOR.law.denoise(x, sigma), rtol=1e-10, atol=1e-10)
    m, v = _stationary(Divergence("ikl"), guided)
    assert m == pytest.approx(0.8, abs=1e-4) and v == pytest.approx(0.2, abs=1e-4)


@pytest.mark.parametrize("c, mean_ratio, variance_ratio", [(1.0, 1.14, 0.41)])
def test_pseudo_huber_posteriors_are_generalised_ones(c, mean_ratio, variance_ratio):
    """Prior N(0, 1), y = 1.5, noise variance 1/4: mean and variance over the exact ones."""
    likelihood = Likelihood(Identity(), GaussianNoise(0.5), torch.full((1,), 1.5, dtype=F64))
    divergence = Divergence("huber", c=c)
    m, v = _stationary(divergence, PRIOR.denoise, likelihood, n_nodes=20, n_levels=60, lo=1e-3, hi=100)
    assert m / 1.2 == pytest.approx(mean_ratio, abs=0.01) and v / 0.2 == pytest.approx(variance_ratio, abs=0.01)


def test_plugin_guidance_is_detected_as_biased():
    for divergence, mean, variance in (
        (Divergence("ikl"), 0.903, 0.169),
        (Divergence("ikl", weight=LOGNORMAL), 1.408, 0.045),
    ):
        m, v = _stationary(divergence, _plugin)
        assert m == pytest.approx(mean, abs=1e-3) and v == pytest.approx(variance, abs=1e-3)
        assert v < 0.18 and m > 0.85
