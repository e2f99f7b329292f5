"""The parts of posterior matching where each has an exact answer: laws, gradients, Laplace frames, weights, modes."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, Operator, randn_like
from sciinstruct.core.noise import GaussianNoise
from sciinstruct.inference.families.base import Draw
from sciinstruct.inference.families.mixture import FullGaussianMixture, LowRankGaussianMixture
from sciinstruct.inference.families.particles import ParticleFamily
from sciinstruct.inference.frames import Frames, LocalGaussians, isotropic_frames, laplace_frames, local_gaussians
from sciinstruct.inference.levels import Levels
from sciinstruct.inference.matching import match, match_score
from sciinstruct.inference.modes import cluster_images, merge_components, pool
from sciinstruct.inference.weights import estimate_weights, make_reference
from sciinstruct.priors import GaussianMixture, GaussianPrior
from sciinstruct.priors.exact import dense_posterior
from sciinstruct.priors.problems import MatrixOperator

F64 = torch.float64


def spd(k, d, generator, least=0.3):
    """K symmetric positive definite matrices."""
    a = torch.randn(k, d, d, generator=generator, dtype=F64)
    return a @ a.mT / d + least * torch.eye(d, dtype=F64)


def frames_of(means, covariances):
    value, vector = torch.linalg.eigh(covariances)
    return Frames(means.clone(), vector, value.sqrt())


def shaken(kind, generator, k=3, d=5):
    """A mixture with random frames and random parameters."""
    family = kind(frames_of(torch.randn(k, d, generator=generator, dtype=F64), spd(k, d, generator)), (d,))
    with torch.no_grad():
        for p in family.parameters():
            p += 0.3 * randn_like(p, generator)
        family.logits.copy_(torch.randn(k, generator=generator, dtype=F64))
    return family


def low_rank(frames, event):
    return LowRankGaussianMixture(frames, event, 2)


def linear_gaussian(generator, d=4, n=3, noise=0.4):
    """A problem whose posterior is one Gaussian."""
    prior = GaussianPrior(torch.randn(d, generator=generator, dtype=F64), spd(1, d, generator)[0])
    a = torch.randn(n, d, generator=generator, dtype=F64)
    return InverseProblem(prior, Likelihood(MatrixOperator(a), noise, torch.randn(n, generator=generator, dtype=F64)))


def conditioned(problem, smoothing=0.0):
    """Mean and covariance of the posterior under the prior with `smoothing` added."""
    d = problem.prior.event_shape[0]
    a, noise = problem.likelihood.operator.matrix, problem.likelihood.noise.sigma
    precision = torch.linalg.inv(problem.prior.covariance + smoothing**2 * torch.eye(d, dtype=F64))
    covariance = torch.linalg.inv(precision + a.T @ a / noise**2)
    pull = precision @ problem.prior.means[0] + a.T @ problem.likelihood.y[0] / noise**2
    return covariance @ pull, covariance


@pytest.mark.parametrize("kind", [FullGaussianMixture, low_rank])
def test_noise_prediction_is_the_gradient_of_the_dense_log_density(kind, generator):
    """eps = -sigma grad log q_sigma, q_sigma written out with dense covariances; Woodbury against dense algebra."""
    family = shaken(kind, generator)
    sigma = torch.tensor([0.05, 0.7, 20.0], dtype=F64)
    x = 2 * torch.randn(3, 7, 5, generator=generator, dtype=F64)
    for i, s in enumerate(sigma):
        law = torch.distributions.MultivariateNormal(
            family.means.detach(), family.covariances() + s**2 * torch.eye(5, dtype=F64)
        )
        leaf = x[i].clone().requires_grad_()
        density = (law.log_prob(leaf[:, None]) + family.weights.log()).logsumexp(1)
        expected = -s * torch.autograd.grad(density.sum(), leaf)[0]
        got = family.eps(x, sigma)[i].detach()
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [FullGaussianMixture, low_rank])
def test_draws_have_the_means_and_covariances_stated(kind, generator):
    family, n = shaken(kind, generator), 20_000
    draw = family.draw(1, 3 * n, generator)
    x = draw.x0[0].detach()
    assert abs(float(draw.weight.sum().detach()) - 1) < 1e-12
    for k in range(3):
        own, c = x[draw.component == k], family.covariances()[k]
        assert len(own) == n
        assert ((own.mean(0) - family.means[k].detach()).abs() < 4.5 * (c.diagonal() / n).sqrt()).all()
        error = ((c.diagonal()[:, None] * c.diagonal() + c**2) / n).sqrt()  # of a sample covariance
        assert ((own.T.cov() - c).abs() < 4.5 * error).all()
    torch.testing.assert_close(family.variances().sum(1), family.covariances().diagonal(dim1=1, dim2=2).sum(1))


def test_sample_counts_follow_the_weights_to_one(generator):
    """Systematic resampling, seen on components that do not touch."""
    family = shaken(FullGaussianMixture, generator)
    family.start.copy_(1e4 * torch.eye(3, 5, dtype=F64))
    x = family.sample(1000, generator)
    counts = torch.bincount(torch.cdist(x, family.means.detach()).argmin(1), minlength=3)
    assert ((counts - 1000 * family.weights).abs() < 1 + 1e-9).all()


def test_particles_are_drawn_without_repeats(generator):
    family = ParticleFamily(torch.arange(10.0, dtype=F64)[:, None], 1.0, 0.0)
    assert (
        family.draw(4, 10, generator)
        .x0.detach()
        .squeeze(-1)
        .sort(1)
        .values.equal(torch.arange(10.0).expand(4, 10).double())
    )
    assert torch.bincount(family.sample(25, generator).long().flatten()).tolist().count(3) == 5


def smoothed_objective(family, problem, sigma):
    """KL(q_sigma || p_sigma) + E_{q_sigma}[-log p(y | x)] of one Gaussian, closed form, differentiable."""
    eye = torch.eye(family.dim, dtype=F64)
    root = (family.basis * family.scale[:, None]) @ family.factor
    q = torch.distributions.MultivariateNormal(family.means[0], (root @ root.mT)[0] + sigma**2 * eye)
    p = torch.distributions.MultivariateNormal(problem.prior.means[0], problem.prior.covariance + sigma**2 * eye)
    a, noise = problem.likelihood.operator.matrix, problem.likelihood.noise.sigma
    misfit = (problem.likelihood.y[0] - a @ q.mean).square().sum() + (a @ q.covariance_matrix @ a.T).trace()
    return torch.distributions.kl_divergence(q, p) + 0.5 * misfit / noise**2


def averaged_gradient(loss, family, repeats=40):
    """Mean over `repeats` of the gradient of ``loss()`` and its standard error."""
    runs = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss(), tuple(family.parameters()))])
        for _ in range(repeats)
    ]
    stack = torch.stack(runs)
    return stack.mean(0), stack.std(0) / repeats**0.5


def test_score_step_has_the_gradient_of_the_divergence_from_the_posterior(generator):
    """Against autograd of the closed form, within 4.5 standard errors, which are under a tenth of the gradient."""
    problem = linear_gaussian(generator)
    family, sigma = shaken(FullGaussianMixture, generator, k=1, d=4), 0.2

    def loss():
        draw = family.draw(1, 4000, generator)
        return match_score(problem, draw, family.eps, family.whiten, sigma, generator).loss.mean()

    exact = torch.autograd.grad(smoothed_objective(family, problem, sigma), tuple(family.parameters()))
    exact = torch.cat([g.flatten() for g in exact])
    mean, error = averaged_gradient(loss, family)
    assert float(error.norm()) < 0.1 * float(exact.norm())
    assert ((mean - exact).abs() < 4.5 * error).all()


def test_level_step_has_the_gradient_of_the_truncated_integral(generator):
    """KL at the lowest level less KL at the highest, plus the data's term on the smoothed law."""
    problem = linear_gaussian(generator)
    family, low, high = shaken(FullGaussianMixture, generator, k=1, d=4), 0.2, 60.0
    span = torch.tensor(high / low, dtype=F64).log()

    def loss():
        draw = family.draw(8, 500, generator)
        place = (torch.arange(8, dtype=F64) + torch.rand(8, generator=generator, dtype=F64)) / 8
        levels = Levels(low * (span * place).exp(), float(span))
        terms = match(problem, draw, family.eps, levels, low, attached=True, generator=generator)
        return (terms.prior + terms.data).mean()

    exact = torch.autograd.grad(smoothed_objective(family, problem, low), tuple(family.parameters()))
    exact = torch.cat([g.flatten() for g in exact])
    mean, error = averaged_gradient(loss, family)
    assert float(error.norm()) < 0.2 * float(exact.norm())
    # what the integral misses above the highest level is of the order |C_q - C_p| / high^2 < 0.01
    assert ((mean - exact).abs() < 4.5 * error + 0.01).all()


def test_scores_cancel_draw_by_draw_at_the_posterior(generator):
    """No Monte Carlo noise at the optimum: the mismatch of the smoothed law is zero to rounding, and not elsewhere."""
    problem, sigma = linear_gaussian(generator), 0.1
    mean, covariance = conditioned(problem, sigma)
    family = FullGaussianMixture(frames_of(mean[None], covariance[None] - sigma**2 * torch.eye(4, dtype=F64)), (4,))

    def mismatch():
        draw = family.draw(2, 16, generator)
        return match_score(problem, draw, family.eps, family.whiten, sigma, generator).mismatch.max().detach()

    assert mismatch() < 1e-16
    with torch.no_grad():
        family.shift += 0.1
    assert mismatch() > 1e-3


def test_local_gaussian_of_a_gaussian_prior_is_the_prior(generator):
    problem = linear_gaussian(generator)
    x = problem.prior.sample(3, generator=generator, dtype=F64)
    model = local_gaussians(problem.prior.denoise, x, 0.5, widest=20.0)
    assert isinstance(model, LocalGaussians)
    torch.testing.assert_close(model.covariance, problem.prior.covariance.expand(3, 4, 4), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.mean, problem.prior.means.expand(3, 4), rtol=1e-9, atol=1e-9)


def test_local_gaussian_from_few_probes(generator):
    """64-D, six wide directions (variances 1 to 2), the others nearly fixed; 32 probes.

    Wide part: 1 % of the widest variance, as eigenvalues are shifted by a thousandth of the largest. The rest comes
    from an estimate of the Jacobian's trace whose standard error is the root of 2 |J|^2 / probes (1 - probes / D).
    """
    d, probes = 64, 32
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=F64))[0]
    values = torch.cat([torch.linspace(1, 2, 6), torch.full((d - 6,), 1e-4)]).double()
    prior = GaussianPrior(torch.zeros(d, dtype=F64), basis @ torch.diag(values) @ basis.T)
    x = prior.sample(2, generator=generator, dtype=F64)
    model = local_gaussians(prior.denoise, x, 1.0, widest=20.0, probes=probes, generator=generator)
    error = basis.T @ (model.covariance - prior.covariance) @ basis
    gain = values / (values + 1)
    trace_error = (2 * gain.square().sum() / probes * (1 - probes / d)).sqrt()
    assert (torch.linalg.matrix_norm(error[:, :6, :6], ord=2) < 0.02).all()
    assert (torch.linalg.matrix_norm(error[:, 6:, 6:], ord=2) < 4 * trace_error / (d - probes)).all()
    assert (model.mean.abs() < 0.01).all()


@pytest.mark.parametrize("levels", [(0.2,), (1.0, 0.3)])
def test_laplace_frames_are_exact_for_linear_data_and_a_gaussian_prior(levels, generator):
    """From within three prior standard deviations: the mean is not extrapolated further."""
    problem = linear_gaussian(generator)
    starts = 0.5 * (problem.prior.means + problem.prior.sample(3, generator=generator, dtype=F64))
    frames = laplace_frames(problem, starts, levels, smallest=1e-6, widest=50.0, generator=generator)
    mean, covariance = conditioned(problem)
    rebuilt = (frames.basis * frames.scale.square()[:, None]) @ frames.basis.mT
    torch.testing.assert_close(frames.mean, mean.expand(3, 4), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rebuilt, covariance.expand(3, 4, 4), rtol=1e-6, atol=1e-6)


@pytest.fixture
def two_modes():
    """A posterior of two Gaussians that do not overlap, weights near 0.71 and 0.29, in four dimensions."""
    g = torch.Generator().manual_seed(5)
    means = torch.tensor([[3.0, 0, 0, 0], [-3.0, 0, 1, 0]], dtype=F64)
    prior = GaussianMixture(means, 0.3 * spd(2, 4, g), torch.tensor([0.6, 0.4]))
    a = torch.tensor([[0.1, 1, 0, 0], [0, 0, 0.5, 1]], dtype=F64)
    return InverseProblem(prior, Likelihood(MatrixOperator(a), 0.5, torch.tensor([0.2, 0.1], dtype=F64)))


def test_weights_of_two_exact_components(two_modes, generator):
    """Components of the exact smoothed posterior: their weights come out right, within the stated error and 0.02."""
    low = 0.02
    spread = torch.stack([two_modes.prior.dense_covariance(k) for k in range(2)]) + low**2 * torch.eye(4, dtype=F64)
    smoothed = GaussianMixture(two_modes.prior.means, spread, two_modes.prior.weights)
    exact = dense_posterior(smoothed, two_modes.likelihood).law
    c = torch.stack([exact.dense_covariance(k) for k in range(2)]) - low**2 * torch.eye(4, dtype=F64)
    family = FullGaussianMixture(frames_of(exact.means.double(), c), (4,))
    reference = make_reference(two_modes, family, 0.05, 10.0, low)
    found = estimate_weights(two_modes, family, reference, low, 60.0, rounds=200, groups=8, generator=generator)
    assert 0.1 < float(exact.weights.min()) < 0.45  # the start, one half each, is wrong
    error = (found.weights - exact.weights).abs()
    assert (error < 4 * found.sd + 1e-3).all() and (error < 0.02).all()
    assert (found.sd < 0.02).all()


def test_weights_settle_whatever_they_were(two_modes):
    """The estimate is of the components' free energies: weights set wrong before do not matter."""
    ends = []
    for start in ([0.0, 0.0], [4.0, -4.0]):
        family = FullGaussianMixture(isotropic_frames(two_modes.prior.means.double(), 0.4), (4,))
        family.logits.copy_(torch.tensor(start, dtype=F64))
        reference = make_reference(two_modes, family, 0.05, 10.0, 0.02)
        g = torch.Generator().manual_seed(1)
        ends.append(
            estimate_weights(two_modes, family, reference, 0.02, 60.0, rounds=100, groups=8, generator=g).weights
        )
    assert (ends[0] - ends[1]).abs().max() < 0.02


def test_components_of_one_mode_are_merged():
    """Numbered by weight: two that overlap (0.2 + 0.25), one far away and heavier, one far away and light."""
    means = torch.tensor([[0.0, 0], [9, 0], [0.8, 0], [0, 9]], dtype=F64)
    family = FullGaussianMixture(isotropic_frames(means, 1.0), (2,))
    family.logits.copy_(torch.tensor([0.2, 0.5, 0.25, 0.05], dtype=F64).log())
    labels = merge_components(family)
    assert labels.tolist() == [1, 0, 1, 2]
    torch.testing.assert_close(pool(family.weights, labels), torch.tensor([0.5, 0.45, 0.05], dtype=F64))


def test_a_chain_of_components_is_one_mode():
    """Neighbours touch, the ends do not: they belong together through the middle."""
    means = torch.tensor([[0.0], [1.5], [3.0], [4.5], [20.0]], dtype=F64)
    labels = merge_components(FullGaussianMixture(isotropic_frames(means, 1.0), (1,)))
    assert labels.tolist() == [0, 0, 0, 0, 1]


def test_images_cluster_by_likeness(generator):
    """Three pictures with noise (correlation within a cluster 0.9, between 0), 3, 6 and 1 copies; scale is ignored."""
    pictures = torch.linalg.qr(torch.randn(64, 3, generator=generator, dtype=F64))[0].T
    pictures = pictures - pictures.mean(1, keepdim=True)
    index = torch.tensor([1, 0, 1, 1, 0, 1, 2, 1, 1, 0])
    images = (8 * pictures[index] + 0.3 * torch.randn(10, 64, generator=generator, dtype=F64)).reshape(10, 1, 8, 8)
    images[3] *= 5
    expected = torch.tensor([1, 0, 2])[index]
    assert cluster_images(images).equal(expected)
    assert cluster_images(images[:1]).tolist() == [0]


class Squares(Operator):
    """A non-linear instrument: squared entries."""

    domain_shape = range_shape = (3,)

    def apply(self, x):
        return x.square()


def test_linearised_residuals_of_a_matrix_are_the_matrix_over_the_noise(generator):
    a = torch.randn(5, 3, generator=generator, dtype=F64)
    sigma = torch.tensor([0.1, 0.2, 0.3, 0.4, 2.0], dtype=F64)
    y, x = torch.randn(5, generator=generator, dtype=F64), torch.randn(4, 3, generator=generator, dtype=F64)
    residual, jacobian = Likelihood(MatrixOperator(a), GaussianNoise(sigma), y).linearise(x)
    torch.testing.assert_close(residual, (y - x @ a.T) / sigma)
    torch.testing.assert_close(jacobian, (-a / sigma[:, None]).expand(4, 5, 3))


def test_linearised_residuals_of_a_curved_instrument(generator):
    x, y = torch.randn(4, 3, generator=generator, dtype=F64), torch.zeros(3, dtype=F64)
    likelihood = Likelihood(Squares(), 0.5, y)
    residual, jacobian = likelihood.linearise(x)
    torch.testing.assert_close(residual, likelihood.residuals(x))
    torch.testing.assert_close(jacobian, torch.diag_embed(-2 * x / 0.5))


def test_a_draw_of_a_mixture_names_its_component(generator):
    """Every component in every group, each draw weighted by its component's weight."""
    family = shaken(FullGaussianMixture, generator)
    draw = family.draw(2, 7, generator)
    assert isinstance(draw, Draw) and draw.x0.shape == (2, 9, 5)
    torch.testing.assert_close(draw.weight, family.weights[draw.component] / 3)
