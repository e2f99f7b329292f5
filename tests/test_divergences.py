"""Score divergences: gradients against autograd through exact laws, quadrature and closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sciinstruct.core import GaussianNoise, Likelihood, LinearOperator
from sciinstruct.divergences import (
    F_DIVERGENCES,
    Divergence,
    Karras,
    Levels,
    LogNormal,
    LogUniform,
    RatioRule,
    summarise,
)
from sciinstruct.priors import GaussianMixture, GaussianPrior, exact_posterior

F64 = torch.float64
EXACT_RATIO = RatioRule(clamp=math.inf, normalise=False)


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


# ---------------------------------------------------------------- two-dimensional Gaussians, generator m + L z

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


# ---------------------------------------------------------------- SIM and pseudo-Huber, one dimension, fine quadrature


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


# ---------------------------------------------------------------- integrals over noise levels


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


# ---------------------------------------------------------------- acceptance T2: which terms may be cut

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
        assert _relative(samples.mean(0), exact) > least
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


# ---------------------------------------------------------------- posterior targets: the table of conjugate Gaussians

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


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("law", [LogUniform(), LogNormal(), LogNormal(2.0, 1.0), Karras(), Karras(1.0)])
def test_every_law_of_levels_gives_the_same_integral(law):
    u = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    sigma, weight = law.quantile(u, 0.05, 20.0)
    assert sigma.min() >= 0.05 * (1 - 1e-9) and sigma.max() <= 20 * (1 + 1e-9) and (sigma.diff() > 0).all()
    exact = 0.5 * math.log((1 + 20**2) / (1 + 0.05**2))  # integral of s^2/(1+s^2) over log s
    value = (weight * sigma**2 / (1 + sigma**2)).mean()
    assert value.item() == pytest.approx(exact, rel=2e-3)  # midpoint rule; lognormal weights peak at the ends


def test_levels_are_stratified_in_random_order_and_follow_a_moving_range():
    law, like = LogUniform(), torch.zeros((), dtype=F64)
    for lo in (1.0, 0.1):
        sigma, weight = law.sample(64, lo, 50.0, generator=_rng(), like=like)
        place = (sigma / lo).log() / math.log(50 / lo) * 64
        assert torch.equal(place.floor().sort().values, torch.arange(64, dtype=F64))
        assert not torch.equal(place.floor(), torch.arange(64, dtype=F64))
        assert torch.equal(weight, torch.full_like(weight, math.log(50 / lo))) and sigma.dtype == F64
    for lo, hi in ((0.0, 1.0), (2.0, 1.0), (0.1, math.inf)):
        with pytest.raises(ValueError, match="0 < lo < hi"):
            law.sample(4, lo, hi)


# ---------------------------------------------------------------- the loss as a training object


class Linear(nn.Module):
    """A small trainable denoiser, exact for N(0, v)."""

    def __init__(self, v=1.0):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(v, dtype=F64))

    def forward(self, x, sigma):
        return self.v / (self.v + sigma[:, None] ** 2) * x


@pytest.mark.parametrize(
    "divergence",
    [
        Divergence(),
        Divergence("sim"),
        Divergence("sid"),
        Divergence("huber", c=0.3),
        Divergence("sim", distance="huber", c=0.3),
        Divergence("fgm"),
    ],
    ids=["exact", "sim", "sid", "huber", "sim huber", "fgm"],
)
def test_slope_is_the_finite_difference_of_the_frozen_integrand(divergence):
    x0 = torch.randn(5, 2, generator=_rng(), dtype=F64)
    noise = torch.randn(5, 2, generator=_rng(1), dtype=F64)
    levels = LogUniform().sample(5, 0.3, 3.0, generator=_rng(2), like=x0)
    loss = lambda x: divergence.evaluate(x, noise, levels, T2_TARGET.denoise, T2_STUDENT.denoise).loss
    leaf = x0.clone().requires_grad_()
    slope = torch.autograd.grad(loss(leaf).sum(), leaf)[0]
    step = 1e-5
    for j in range(2):
        e = step * torch.eye(2, dtype=F64)[j]
        difference = (loss(x0 + e) - loss(x0 - e)) / (2 * step)
        torch.testing.assert_close(slope[:, j], difference, rtol=1e-6, atol=1e-6)


def test_the_generator_alone_receives_gradients():
    teacher, student, generator = Linear(0.5), Linear(1.0), nn.Linear(3, 2, dtype=F64)
    for divergence in (Divergence(), Divergence(estimator="score"), Divergence("ikl"), Divergence("fgm")):
        x0 = generator(torch.randn(16, 3, generator=_rng(), dtype=F64))
        divergence.generator_loss(x0, teacher, student, 0.1, 10.0, generator=_rng()).loss.backward()
        assert teacher.v.grad is None and student.v.grad is None
        assert generator.weight.grad.abs().sum() > 0
        generator.zero_grad()


def test_the_student_alone_receives_the_students_loss_and_it_is_least_at_the_truth():
    x0 = (2**0.5 * torch.randn(40_000, 2, generator=_rng(), dtype=F64)).requires_grad_()
    slopes = []
    for v in (1.8, 2.0, 2.2):
        student = Linear(v)
        loss = Divergence().student_loss(x0, student, 0.1, 10.0, sigma_data=2**0.5, generator=_rng(1))
        loss.backward()
        slopes.append(float(student.v.grad))
    assert x0.grad is None and slopes[0] < -2 * abs(slopes[1]) and slopes[2] > 2 * abs(slopes[1])


def test_same_generator_same_loss_and_several_levels_per_image():
    x0 = torch.randn(6, 2, generator=_rng(), dtype=F64).requires_grad_()
    run = lambda n: Divergence().generator_loss(
        x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng(3), n=n
    )
    assert torch.equal(run(1).terms.loss, run(1).terms.loss)
    many = run(4)
    assert many.terms.loss.shape == (24,) and many.terms.delta.shape == (24, 2)
    rows = torch.autograd.grad(many.terms.loss[4:8].sum(), x0)[0]
    assert rows[1].abs().sum() > 0 and rows[[0, 2, 3, 4, 5]].abs().sum() == 0


def test_single_precision_is_kept():
    x0 = torch.randn(8, 2, generator=_rng()).requires_grad_()
    out = Divergence().generator_loss(x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng())
    assert {t.dtype for t in out.terms if t is not None} == {torch.float32}
    out.loss.backward()
    assert x0.grad.dtype == torch.float32


def test_images_without_a_graph_give_values():
    out = Divergence().generator_loss(
        torch.zeros(4, 2, dtype=F64), T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng()
    )
    assert not out.loss.requires_grad and torch.isfinite(out.loss)


def test_estimated_ratios_are_clamped_and_normalised():
    x0 = torch.randn(50, 2, generator=_rng(), dtype=F64).requires_grad_()
    wild = lambda x, s: 1e4 * x[:, 0]
    out = Divergence("f", f="js").generator_loss(
        x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng(), ratio=wild
    )
    out.loss.backward()
    assert torch.isfinite(x0.grad).all()
    assert summarise(out.terms).ratio_ess == pytest.approx(1 / 50)  # told as it is: one row has all the weight


# ---------------------------------------------------------------- diagnostics


def test_diagnostics_measure_the_kl_and_a_lagging_student():
    x0 = MEAN + torch.randn(20_000, 2, generator=_rng(), dtype=F64) @ ROOT.T
    kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(MEAN, ROOT @ ROOT.T),
        torch.distributions.MultivariateNormal(TARGET.mean, TARGET.covariance),
    )
    run = lambda student, seed: Divergence().generator_loss(
        x0, TARGET.denoise, student.denoise, 0.01, 50.0, generator=_rng(seed)
    )
    good = [run(_student(), seed).terms for seed in (1, 2)]
    pooled = summarise(good, bands=5)
    assert abs(pooled.kl - kl) < 4 * pooled.kl_error and not pooled.student_lags
    assert sum(b.n for b in pooled.bands) == 40_000
    assert sum(b.kl for b in pooled.bands) == pytest.approx(pooled.kl)
    assert all(abs(b.projection) < 4 * b.projection_error for b in pooled.bands)
    assert math.isnan(pooled.ratio_ess)
    late = GaussianPrior(MEAN, 1.3 * ROOT @ ROOT.T)
    assert summarise(run(late, 3).terms).student_lags


BAD = [
    (dict(kind="kl"), "kind must be one of"),
    (dict(alpha=0.7), "alpha belongs to kind 'sid'"),
    (dict(kind="sim", distance="l1"), "distance must be"),
    (dict(kind="sim", distance="huber"), "needs c > 0"),
    (dict(kind="huber", c=-1.0), "needs c > 0"),
    (dict(c=1.0), "c belongs to the pseudo-Huber"),
    (dict(kind="sid", distance="huber", c=1.0), "belongs to kind 'sim'"),
    (dict(kind="f"), "f must be one of"),
    (dict(kind="f", f="tv"), "f must be one of"),
    (dict(f="js"), "f belongs to kind 'f'"),
    (dict(kind="sim", estimator="score"), "estimator='score' is for"),
    (dict(estimator="both"), "estimator must be"),
    (dict(weight=torch.ones_like), "fixes its level weight"),
]


@pytest.mark.parametrize("settings, text", BAD)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        Divergence(**settings)


def test_bad_calls_are_named():
    x0 = torch.zeros(4, 2, dtype=F64, requires_grad=True)
    call = lambda d, **more: d.generator_loss(x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 1.0, **more)
    with pytest.raises(ValueError, match="needs ratio"):
        call(Divergence("f", f="fkl"))
    with pytest.raises(ValueError, match="n must be at least 1"):
        call(Divergence(), n=0)
    with pytest.raises(ValueError, match="teacher must return images of shape"):
        Divergence().generator_loss(x0, lambda x, s: x[:2], T2_STUDENT.denoise, 0.1, 1.0)
    with pytest.raises(ValueError, match="at least one batch"):
        summarise([])


def test_only_the_exact_kl_preserves_bayes():
    others = [
        Divergence("sim"),
        Divergence("sid", alpha=0.5),
        Divergence("ikl"),
        Divergence("fgm"),
        Divergence("f", f="rkl"),
    ]
    assert Divergence().preserves_bayes and Divergence(levels=Karras()).preserves_bayes
    assert not any(d.preserves_bayes for d in others)
