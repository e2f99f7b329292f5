"""Priors whose purified images are known in closed form, and a classifier whose margin is."""

import pytest
import torch

from sciinstruct.priors import GaussianPrior, IsotropicMixture

MEAN, VARIANCE = 0.1, 0.04


@pytest.fixture(scope="session")
def gaussian():
    """N(0.1, 0.04) in each of four pixels."""
    covariance = VARIANCE * torch.eye(4, dtype=torch.float64)
    return GaussianPrior(torch.full((1, 2, 2), MEAN, dtype=torch.float64), covariance, sigma_range=(1e-6, 10.0))


@pytest.fixture(scope="session")
def two_modes():
    """Two images of two channels and 2x3 pixels, each with a little spread: the denoiser is not linear."""
    means = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(2, 2, 2, 3).sin()
    return IsotropicMixture(means, torch.tensor([0.05, 0.1], dtype=torch.float64), sigma_range=(1e-3, 10.0))


@pytest.fixture(scope="module")
def linear(normal):
    """Class 1 on one side of the plane that the test file's `normal` is normal to."""

    def classifier(image):
        score = (image * normal.to(image)).flatten(1).sum(1)
        return torch.stack([-score, score], 1)

    return classifier
