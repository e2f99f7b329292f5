"""Divergences are integrals over noise levels: one-dimensional mixtures by quadrature (acceptance T1)."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.divergences import (
    F_DIVERGENCES,
)
from sciinstruct.priors import GaussianMixture

F64 = torch.float64


def _legendre(n, lo, hi):
    """Gauss-Legendre rule over log sigma: levels and weights."""
    t, w = np.polynomial.legendre.leggauss(n)
    span = math.log(hi / lo)
    return torch.as_tensor(lo * np.exp(span * (t + 1) / 2)), torch.as_tensor(w * span / 2)


def _mixture_1d(weights, means, variances):
    covariances = torch.tensor(variances, dtype=F64)[:, None, None]
    return GaussianMixture(torch.tensor(means, dtype=F64)[:, None], covariances, torch.tensor(weights, dtype=F64))


def _two_mixtures():
    """Acceptance T1: target p and generator q on the line."""
    p = _mixture_1d([0.5, 0.3, 0.2], [-2.0, 1.0, 3.0], [0.3, 0.2, 0.5])
    q = _mixture_1d([0.7, 0.3], [-1.0, 2.0], [0.6, 0.4])
    return p, q


def _expectation(p, q, sigma, value):
    """E_q value(log p/q, |e_q - e_p|^2) at one level, x by the trapezoid rule."""
    reach = 12 + 9 * sigma
    x = torch.linspace(-reach, reach, 4001, dtype=F64)[:, None]
    lq, lp = q.log_prob(x, sigma), p.log_prob(x, sigma)
    gap = torch.zeros(1, dtype=F64) if sigma == 0 else (q.eps(x, sigma) - p.eps(x, sigma)).square().sum(1)
    return float(torch.trapezoid(lq.exp() * value(lp - lq, gap), x[:, 0]))


@pytest.mark.parametrize(
    "f, direct, known",
    [
        ("rkl", lambda t: -t, 0.886919),
        ("fkl", lambda t: t.exp() * t, 0.713181),
        (
            "js",
            lambda t: t.exp() * t - (1 + t.exp()) * (torch.logaddexp(t, torch.zeros(())) - math.log(2)),
            2 * 0.164880,
        ),
    ],
)
def test_divergences_are_integrals_over_noise_levels(f, direct, known):
    """Acceptance T1, variance-exploding form; the target is p, the generator q."""
    p, q = _two_mixtures()
    value = _expectation(p, q, 0.0, lambda t, _: direct(t))
    assert value == pytest.approx(known, abs=2e-6)
    sigmas, weights = _legendre(160, 1e-3, 100)
    h = F_DIVERGENCES[f].h
    integral = sum(
        float(w) * _expectation(p, q, float(s), lambda t, gap: h(t.exp()) * gap) for s, w in zip(sigmas, weights)
    )
    assert abs(integral / value - 1) < 1e-4


def test_chi_square_is_an_integral_over_noise_levels():
    """Heavy tails: generator p, target q, the direction in which the integral exists."""
    p, q = _two_mixtures()
    value = _expectation(q, p, 0.0, lambda t, _: (t.exp() - 1).square())
    sigmas, weights = _legendre(160, 1e-3, 100)
    h = F_DIVERGENCES["chi2"].h
    integral = sum(
        float(w) * _expectation(q, p, float(s), lambda t, gap: h(t.exp()) * gap) for s, w in zip(sigmas, weights)
    )
    assert abs(integral / value - 1) < 1e-4
    assert value == pytest.approx(5.66709, abs=2e-5)


def test_kl_integral_in_variance_preserving_time():
    """Acceptance T1, VP: t uniform with weight beta/(2 c_t^2) on the noise prediction is the same integral."""
    p, q = _two_mixtures()
    t, w = np.polynomial.legendre.leggauss(400)
    u, w = (t + 1) / 2, w / 2
    t, w = u**3, 3 * u**2 * w  # small times resolved
    integral = 0.0
    for time, weight in zip(t, w):
        growth = 0.1 * time + 0.5 * 19.9 * time**2
        sigma, noise2 = math.sqrt(math.expm1(growth)), -math.expm1(-growth)
        beta = 0.1 + 19.9 * time
        integral += weight * beta / (2 * noise2) * _expectation(p, q, sigma, lambda _, gap: gap)
    assert abs(integral / 0.886919 - 1) < 3e-4
