"""The Gaussian start of joint training: exact posteriors, exact objective, expectation maximisation at its own pace."""

import itertools
import math

import numpy as np
import pytest
import torch

from sciinstruct.core import GaussianNoise, LinearOperator, PriorError
from sciinstruct.inference.blur_simulator import BlurSimulator
from sciinstruct.inference.flowdiff_gaussian import (
    Gaussian,
    LinearView,
    _fit_shared,
    fit_gaussian,
    item_information,
    physical_instrument,
    unit_prior,
)
from sciinstruct.inference.flowdiff_identifiability import analyse
from sciinstruct.inference.flowdiff_start import Start
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.simulator import MaskSimulator, OperatorSimulator
from sciinstruct.operators import GaussianBlur
from sciinstruct.priors import GaussianField
from sciinstruct.priors.field import matern

F64 = torch.float64
A = torch.tensor([[1.0, 0.4], [0.0, 0.5]], dtype=F64)
MU, SIGMA = torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
NOISE = 0.5
COV_Y = A @ SIGMA @ A.T + NOISE**2 * torch.eye(2, dtype=F64)


class Matrix(LinearOperator):
    """A matrix as an operator, real or complex."""

    def __init__(self, matrix, domain_shape=None):
        super().__init__()
        self.matrix = matrix
        self.domain_shape, self.range_shape = domain_shape or (matrix.shape[1],), (matrix.shape[0],)

    def apply(self, x):
        return x.flatten(1).to(self.matrix.dtype) @ self.matrix.T

    def apply_adjoint(self, y):
        return (y @ self.matrix.conj()).real.reshape(-1, *self.domain_shape)


def gaussian_start(mu, sigma, law, y):
    instrument = Instrument(unit_prior(law.domain_shape), law, mu.reshape(law.domain_shape), y[:1])
    return Start(Gaussian(mu, sigma), instrument, y)


def log_normal(x, mean, covariance):
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def vector_law():
    return OperatorSimulator(Matrix(A), GaussianNoise(NOISE))


def objective(start, law, y, u, mu, sigma):
    """-log p(y|x) - log p(x) + log q(x|y) at x = the start's map of u."""
    affine = start.condition(y)
    x = affine.push(u)
    log_q = -0.5 * (u.square().sum(1) + 2 * math.log(2 * math.pi)) - affine.log_det
    return -law.log_prob(y, x) - log_normal(x, mu, sigma) + log_q


def test_at_the_truth_the_objective_is_the_evidence_at_every_draw(generator):
    law = vector_law()
    y = MU @ A.T + torch.randn(50, 2, generator=generator, dtype=F64) @ torch.linalg.cholesky(COV_Y).T
    start = gaussian_start(MU, SIGMA, law, y)
    u = 3 * torch.randn(50, 2, generator=generator, dtype=F64)
    found = objective(start, law, y, u, MU, SIGMA)
    torch.testing.assert_close(found, -log_normal(y, A @ MU, COV_Y), rtol=0, atol=1e-10)
    entropy = 0.5 * float(torch.logdet(2 * math.pi * math.e * COV_Y))
    assert abs(entropy - 2.602475) < 1e-6


def nodes(dim):
    """Gauss-Hermite points and weights in `dim` standard normals: exact for the objective, which is quadratic."""
    x, w = np.polynomial.hermite_e.hermegauss(4)
    points = torch.tensor(list(itertools.product(x, repeat=dim)), dtype=F64)
    weights = torch.tensor(list(itertools.product(w / w.sum(), repeat=dim)), dtype=F64).prod(1)
    return points, weights


def kl(m0, c0, m1, c1):
    d = m1 - m0
    trace = torch.linalg.solve(c1, c0).diagonal().sum()
    return 0.5 * (trace + d @ torch.linalg.solve(c1, d) - len(d) + torch.logdet(c1) - torch.logdet(c0))


def test_the_objective_splits_into_entropy_and_two_divergences():
    """J = H(y) + KL(p(y), p_theta(y)) + E_y KL(q, p_theta(x|y)), for a wrong prior and a differently wrong q."""
    law, points = vector_law(), nodes(4)
    theta = (torch.tensor([0.2, 0.7], dtype=F64), torch.tensor([[0.7, -0.2], [-0.2, 1.3]], dtype=F64))
    phi = (torch.tensor([-0.4, 0.1], dtype=F64), torch.tensor([[1.4, 0.3], [0.3, 0.5]], dtype=F64))
    u, white = points[0].split(2, 1)
    y = MU @ A.T + white @ torch.linalg.cholesky(COV_Y).T
    start = gaussian_start(*phi, law, y)
    found = (points[1] * objective(start, law, y, u, *theta)).sum()
    noise = NOISE**2 * torch.eye(2, dtype=F64)
    cov_theta = A @ theta[1] @ A.T + noise
    gain = torch.linalg.solve(cov_theta, A @ theta[1]).T
    post = theta[1] - gain @ A @ theta[1]
    q_cov = start.root @ start.root
    q_means = start.condition(y).mean
    p_means = theta[0] + (y - theta[0] @ A.T) @ gain.T
    inner = sum(w * kl(m, q_cov, p, post) for w, m, p in zip(points[1], q_means, p_means))
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * COV_Y)
    expected = entropy + kl(A @ MU, COV_Y, A @ theta[0], cov_theta) + inner
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def moments_alone():
    """Whitened data with the exact mean and covariance of y, in 400 points."""
    white = torch.randn(400, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    white = white - white.mean(0)
    white = white @ torch.linalg.inv(torch.linalg.cholesky(white.T @ white / 399)).T
    y = MU @ A.T + white @ torch.linalg.cholesky(COV_Y).T
    return LinearView(A / NOISE, y / NOISE)


def test_expectation_maximisation_finds_the_law_and_at_the_predicted_pace():
    view, start = moments_alone(), [torch.eye(2, dtype=F64)]
    exact = _fit_shared(view, start, 3000)
    torch.testing.assert_close(exact.covariance, SIGMA, rtol=0, atol=1e-8)
    torch.testing.assert_close(exact.mean, MU, rtol=0, atol=1e-8)
    late, later = _fit_shared(view, start, 150), _fit_shared(view, start, 151)
    report = analyse((A.T @ A / NOISE**2)[None], SIGMA, (2,), False)
    pace = (later.covariance - SIGMA).norm() / (late.covariance - SIGMA).norm()
    assert abs(float(pace) - float(report.rates.max())) < 1e-3
    assert abs(float(report.rates.max()) - 0.959) < 1e-3  # methods page, section 8
    assert abs(float(report.rates.min()) - 0.235) < 1e-3
    late, later = _fit_shared(view, [SIGMA], 40), _fit_shared(view, [SIGMA], 41)
    slow = (later.mean - MU).norm() / (late.mean - MU).norm()
    assert abs(float(slow) - float(report.shares[0])) < 1e-3
    assert abs(float(slow) - 0.80) < 5e-3


LAWS = {
    "blur": lambda: OperatorSimulator(GaussianBlur(1.0, (6, 6)), GaussianNoise(0.2)),
    "complex": lambda: OperatorSimulator(
        Matrix(torch.randn(20, 36, generator=torch.Generator().manual_seed(3), dtype=torch.complex128), (1, 6, 6)),
        GaussianNoise(0.5),
    ),
    "masks": lambda: MaskSimulator((1, 6, 6), 0.25, lambda n, g: torch.rand(n, 1, 6, 6, generator=g, dtype=F64) < 0.5),
    "blurs": lambda: BlurSimulator((2, 4, 4), (0.5, 1.0), (0.1, 0.3)),
}


@pytest.mark.parametrize("name", list(LAWS))
def test_the_start_is_the_gaussian_posterior(name, generator):
    """Its mean satisfies the normal equations, and x - mean has their matrix as precision, whatever the instrument."""
    law = LAWS[name]()
    shape = law.domain_shape
    d = torch.Size(shape).numel()
    root = torch.randn(d, d, generator=generator, dtype=F64) / d**0.5
    sigma, mu = root @ root.T + 0.1 * torch.eye(d, dtype=F64), torch.randn(d, generator=generator, dtype=F64)
    x = mu + torch.randn(3, d, generator=generator, dtype=F64) @ torch.linalg.cholesky(sigma).T
    y = law.simulate(x.reshape(-1, *shape), generator)
    start = gaussian_start(mu, sigma, law, y)
    affine = start.condition(y)
    u = torch.randn(3, d, generator=generator, dtype=F64)
    torch.testing.assert_close(affine.pull(affine.push(u)), u)

    for i in range(3):

        def energy(flat, y=y[i : i + 1]):
            return -(law.log_prob(y, flat.reshape(1, *shape)) + log_normal(flat, mu, sigma))[0]

        slope = torch.autograd.functional.jacobian(energy, affine.mean[i])
        assert float(slope.abs().max()) < 1e-8
        precision = torch.autograd.functional.hessian(energy, affine.mean[i])
        jacobian = torch.stack([affine.push(e + 0 * u)[i] - affine.mean[i] for e in torch.eye(d, dtype=F64)], 1)
        torch.testing.assert_close(jacobian @ jacobian.T, torch.linalg.inv(precision), rtol=1e-7, atol=1e-8)
        assert abs(float(affine.log_det[i]) + 0.5 * float(torch.logdet(precision))) < 1e-8


def test_different_blurs_by_fourier_modes_are_those_of_their_matrices(generator):
    law = LAWS["blurs"]()
    y = law.simulate(torch.randn(2, 2, 4, 4, generator=generator, dtype=F64), generator)
    instrument = physical_instrument(law, y)
    found, _ = item_information(instrument, y)
    for one, matrix in zip(y, found):
        eye = torch.eye(32, dtype=F64).reshape(32, 2, 4, 4)
        dense = instrument.information(one[None].expand(32, *one.shape))(eye).flatten(1)
        torch.testing.assert_close(matrix, dense)


@pytest.mark.parametrize("name", ["blur", "masks"])
def test_the_fit_explains_images_better_than_white_ones(name, generator):
    """Per direction, the fitted field's spectrum is nearer to the truth's than one of equal variance."""
    law = LAWS[name]()
    spectrum = matern((6, 6), 2.0, 1.5, variance=0.8)
    x = GaussianField(spectrum).sample(2000, generator=generator, dtype=F64) + 0.3
    found = fit_gaussian(law, law.simulate(x, generator), generator)
    truth = torch.cov(x.flatten(1).T)
    white = truth.diagonal().mean() * torch.eye(36, dtype=F64)
    assert (found.covariance - truth).norm() < 0.35 * (white - truth).norm()
    assert (found.mean - 0.3).abs().max() < 0.15


def test_data_with_less_variance_than_their_noise_are_refused(generator):
    law = vector_law()
    y = 0.1 * torch.randn(200, 2, generator=generator, dtype=F64)
    with pytest.raises(PriorError, match="noise level is claimed too large"):
        fit_gaussian(law, y, generator)
