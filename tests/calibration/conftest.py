"""A Gaussian inpainting problem whose posterior is known in closed form, with exact and spoilt samples."""

from typing import NamedTuple

import pytest
import torch

from sciinstruct.core import Likelihood
from sciinstruct.operators.mask import PixelMask
from sciinstruct.priors import GaussianPrior

SIDE, NOISE = 10, 0.3


class Study(NamedTuple):
    prior: GaussianPrior
    likelihoods: list[Likelihood]
    truth: torch.Tensor  # (N, 1, SIDE, SIDE)
    mean: torch.Tensor  # (N, 1, SIDE, SIDE)
    root: torch.Tensor  # (d, d) square root of the posterior covariance, the same for every observation
    hat_trace: float  # trace of A K, K the Kalman gain
    seen: torch.Tensor  # (1, SIDE, SIDE) bool

    def samples(self, s, generator, width=1.0):
        n, d = len(self.truth), self.root.shape[0]
        noise = torch.randn(n, s, d, generator=generator, dtype=torch.float64) @ self.root.T
        return self.mean[:, None] + width * noise.reshape(n, s, *self.truth.shape[1:])

    def uncorrelated(self, s, generator):
        """Right marginals, no correlation between pixels."""
        sd = self.root.square().sum(1).sqrt().reshape(self.truth.shape[1:])
        shape = (len(self.truth), s, *self.truth.shape[1:])
        return self.mean[:, None] + sd * torch.randn(shape, generator=generator, dtype=torch.float64)

    def from_prior(self, s, generator):
        """Data ignored."""
        n = len(self.truth)
        draws = self.prior.sample_exact(n * s, generator=generator, dtype=torch.float64)
        return draws.reshape(n, s, *self.truth.shape[1:])


def build(n, generator):
    i = torch.arange(SIDE * SIDE)
    distance = ((i[:, None] // SIDE - i // SIDE).square() + (i[:, None] % SIDE - i % SIDE).square()).double()
    covariance = torch.exp(-distance / 8) + 0.05 * torch.eye(SIDE * SIDE, dtype=torch.float64)
    shape = (1, SIDE, SIDE)
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.float64), covariance)
    seen = torch.rand(shape, generator=generator) > 0.4
    operator = PixelMask(seen)
    truth = prior.sample_exact(n, generator=generator, dtype=torch.float64)
    y = operator(truth)
    y = y + NOISE * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    a = operator.to_dense()
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + NOISE**2 * torch.eye(len(a), dtype=torch.float64))
    posterior = covariance - gain @ a @ covariance
    values, vectors = torch.linalg.eigh((posterior + posterior.T) / 2)
    root = vectors * values.clamp(min=0).sqrt()
    likelihoods = [Likelihood(operator, NOISE, row) for row in y]
    mean = (y @ gain.T).reshape(n, *shape)
    return Study(prior, likelihoods, truth, mean, root, float(torch.trace(a @ gain)), seen)


@pytest.fixture(scope="session")
def make_study():
    return build


@pytest.fixture(scope="session")
def study():
    return build(64, torch.Generator().manual_seed(11))
