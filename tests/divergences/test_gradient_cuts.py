"""Which terms of the gradient may be cut, by Monte Carlo on a two-mode target (acceptance T2)."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.divergences import (
    Divergence,
    Karras,
    LogNormal,
    LogUniform,
    summarise,
)
from sciinstruct.priors import GaussianMixture, GaussianPrior

F64 = torch.float64


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


def _nodes(n, dimensions):
    """Tensor Gauss-Hermite rule for the standard normal: nodes (n^d, d), weights (n^d,)."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    z, w = torch.as_tensor(z), torch.as_tensor(w / w.sum())
    grid = torch.cartesian_prod(*[z] * dimensions).reshape(-1, dimensions)
    return grid, torch.cartesian_prod(*[w] * dimensions).reshape(-1, dimensions).prod(1)


T2_TARGET = GaussianMixture(
    torch.tensor([[-1.5, 0], [1.5, 0.5]], dtype=F64),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]]], dtype=F64),
)
T2_MEAN = torch.tensor([0.4, -0.3], dtype=F64)
T2_ROOT = torch.tensor([[0.9, 0.2], [0.3, 0.5]], dtype=F64)
T2_STUDENT = GaussianPrior(T2_MEAN, T2_ROOT @ T2_ROOT.T)


def _t2_level(sigma):
    """KL of the diffused laws at one level and its gradient in (m, L), 200 x 200 Gauss-Hermite nodes."""
    nodes, weights = _nodes(200, 2)
    mean, root = T2_MEAN.clone().requires_grad_(), T2_ROOT.clone().requires_grad_()
    factor = torch.linalg.cholesky(root @ root.T + sigma**2 * torch.eye(2, dtype=F64))
    x = mean + nodes @ factor.T
    kl = (weights * -T2_TARGET.log_prob(x, sigma)).sum() - 1 - math.log(2 * math.pi) - factor.logdet()
    gradient = torch.autograd.grad(kl, (mean, root))
    return float(kl.detach()), torch.cat([g.flatten() for g in gradient])


@pytest.fixture(scope="module")
def t2_exact():
    """What the integral from 0.02 to 60 is: a difference of two KLs."""
    (a, ga), (b, gb) = _t2_level(0.02), _t2_level(60.0)
    return a - b, ga - gb


def _t2_samples(divergence, n=60_000, seed=0, student=T2_STUDENT):
    """Per-sample gradients (n, 6) and the terms."""
    z = torch.randn(n, 2, generator=_rng(seed), dtype=F64)
    x0 = (T2_MEAN + z @ T2_ROOT.T).requires_grad_()
    out = divergence.generator_loss(x0, T2_TARGET.denoise, student.denoise, 0.02, 60.0, generator=_rng(seed + 1))
    slope = torch.autograd.grad(out.terms.loss.sum(), x0)[0]
    return torch.cat([slope, (slope[:, :, None] * z[:, None, :]).flatten(1)], 1), out.terms


def _z_scores(samples, exact):
    return (samples.mean(0) - exact) / (samples.std(0) / len(samples) ** 0.5)


@pytest.mark.parametrize(
    "levels", [LogUniform(), LogNormal(0.0, 2.0), Karras()], ids=["log-uniform", "lognormal", "karras"]
)
def test_t2_the_pair_is_unbiased_whatever_the_density_of_levels(levels, t2_exact):
    kl, exact = t2_exact
    samples, terms = _t2_samples(Divergence(levels=levels))
    assert _z_scores(samples, exact).abs().max() < 3.5  # largest of six
    found = summarise(terms)
    assert abs(found.kl - kl) < 3.5 * found.kl_error
    assert not found.student_lags


def test_t2_score_estimator_is_unbiased_and_quieter(t2_exact):
    exact = t2_exact[1]
    score, _ = _t2_samples(Divergence(estimator="score"))
    pair, _ = _t2_samples(Divergence())
    assert _z_scores(score, exact).abs().max() < 3.5
    assert score.square().sum(1).mean() < 0.25 * pair.square().sum(1).mean()  # rms 10 against 33


def test_t2_cut_terms_are_wrong(t2_exact):
    exact = t2_exact[1]
    for divergence, least in ((Divergence("sim"), 0.2), (Divergence("sid"), 0.3)):
        samples, _ = _t2_samples(divergence)
        assert (samples.mean(0) - exact).norm() > least * exact.norm()
        assert _z_scores(samples, exact).abs().max() > 10


def test_t2_a_denoiser_that_detaches_its_input_is_refused():
    """In noise form such a gradient is exactly zero; here it is an error, with or without trainable parameters."""
    x0 = torch.zeros(4, 2, dtype=F64, requires_grad=True)
    scale = torch.ones((), dtype=F64, requires_grad=True)
    cut = lambda x, s: scale * T2_TARGET.denoise(x.detach(), s)

    def no_grad(x, s):
        with torch.no_grad():
            return T2_TARGET.denoise(x, s)

    for broken in (cut, no_grad):
        with pytest.raises(ValueError, match="teacher cuts the graph"):
            Divergence().generator_loss(x0, broken, T2_STUDENT.denoise, 0.1, 1.0, generator=_rng())
        with pytest.raises(ValueError, match="student cuts the graph"):
            Divergence().generator_loss(x0, T2_TARGET.denoise, broken, 0.1, 1.0, generator=_rng())
        loss = Divergence(estimator="score").generator_loss(x0, broken, broken, 0.1, 1.0, generator=_rng()).loss
        loss.backward()  # needs no derivative of the networks
