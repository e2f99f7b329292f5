"""Problems that the baselines' tests share."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, Operator
from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.priors import GaussianPrior
from sciinstruct.priors.problems import MatrixOperator

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.6]], dtype=torch.float64)
MATRIX = torch.tensor([[1.0, 0.2], [-0.3, 0.8]], dtype=torch.float64)
DATA = torch.tensor([1.2, 0.4], dtype=torch.float64)
NOISE = 0.5


class SquaresOperator(Operator):
    """A non-linear instrument: squared entries."""

    domain_shape = range_shape = (2,)

    def apply(self, x):
        return x.square()


class UnwhitenedLikelihood(BaseLikelihood):
    """A likelihood that cannot be whitened."""

    domain_shape = (2,)

    def log_prob(self, image):
        return -image.abs().sum(1)

    def chi2(self, image):
        return {}

    def simulate(self, image, generator=None):
        return self


class BrokenPrior(GaussianPrior):
    """Counts its calls, and is NaN after so many of them."""

    calls = 0
    good_for = 10**9

    def denoise(self, x, sigma):
        self.calls += 1
        clean = super().denoise(x, sigma)
        return clean if self.calls <= self.good_for else clean * float("nan")


class LinearGaussian:
    """Two correlated numbers, measured twice."""

    def __init__(self):
        self.prior = BrokenPrior(MEAN, COVARIANCE)
        self.matrix, self.data, self.noise = MATRIX, DATA, NOISE
        self.problem = InverseProblem(self.prior, Likelihood(MatrixOperator(MATRIX), NOISE, DATA))

    def posterior(self, coupling=0.0, level=0.0):
        """Mean and covariance, with `coupling`^2 A A^T added to the noise's covariance, `level`^2 I to the prior's."""
        spread = NOISE**2 * torch.eye(2, dtype=torch.float64) + coupling**2 * MATRIX @ MATRIX.T
        prior = torch.linalg.inv(COVARIANCE + level**2 * torch.eye(2, dtype=torch.float64))
        data = MATRIX.T @ torch.linalg.inv(spread)
        covariance = torch.linalg.inv(prior + data @ MATRIX)
        return covariance @ (prior @ MEAN + data @ DATA), covariance

    @staticmethod
    def check(x, mean, covariance, bias=0.0):
        """Mean and covariance within 4 standard errors, plus `bias` times the standard deviations or variances."""
        n, variance = len(x), covariance.diagonal()
        assert ((x.mean(0) - mean).abs() < variance.sqrt() * (4 / n**0.5 + bias)).all()
        size = variance[:, None] * variance
        error = ((size + covariance.square()) / n).sqrt()
        assert ((x.T.cov() - covariance).abs() < 4 * error + bias * size.sqrt()).all()


@pytest.fixture
def linear_gaussian():
    """A problem with known answers; its prior counts calls and can be broken."""
    return LinearGaussian()


@pytest.fixture
def squares():
    """Two numbers whose squares are measured: four modes."""
    prior = GaussianPrior(MEAN, COVARIANCE, sigma_range=(0.01, 20.0))
    return InverseProblem(prior, Likelihood(SquaresOperator(), 0.1, torch.tensor([1.0, 2.25])))


@pytest.fixture
def squares_sizes(squares):
    """Posterior mean and standard deviation of the absolute values of the two numbers, by quadrature."""
    axis = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weights = (squares.prior.log_prob(grid) + squares.log_likelihood(grid)).softmax(0)[:, None]
    mean = (weights * grid.abs()).sum(0)
    return mean, (weights * (grid.abs() - mean).square()).sum(0).sqrt()


@pytest.fixture
def unwhitened():
    """A problem without residuals."""
    return InverseProblem(GaussianPrior(MEAN, COVARIANCE), UnwhitenedLikelihood())


@pytest.fixture
def other_units():
    """A prior that works in other units than the data, which leave nothing open: the answer is (12, 8)."""
    prior = GaussianPrior(torch.zeros(2), torch.eye(2))
    prior.scale, prior.shift = 3.0, 10.0
    return InverseProblem(prior, Likelihood(MatrixOperator(torch.eye(2)), 0.01, torch.tensor([12.0, 8.0])))
