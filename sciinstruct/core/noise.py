"""Noise models: the law of the data given a noise-free prediction."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sciinstruct.core.checks import check_positive
from sciinstruct.core.random import randn_like


class NoiseModel(nn.Module, ABC):
    """p(y | prediction), per datum independent unless a subclass says otherwise."""

    @abstractmethod
    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Log-density (B,), summed over the data. `y` broadcasts against `prediction` (B, *range_shape)."""

    @abstractmethod
    def sample(self, prediction: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One noisy data set per row of `prediction`."""

    @abstractmethod
    def whiten(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Residuals in standard deviations, real, (B, n): their squared sum is chi-square."""

    def variance(self, prediction: Tensor) -> Tensor:
        """Variance of each datum given its prediction, shape of `prediction`, real; of each part for complex data.

        Raises
        ------
        NotImplementedError
            If the noise has no variance in closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} does not state the variance of its data")


class GaussianNoise(NoiseModel):
    """Independent Gaussian noise of standard deviation `sigma` (number or tensor that broadcasts to the data).

    For complex data `sigma` is the standard deviation of the real and of the imaginary part, each.
    """

    sigma: Tensor

    def __init__(self, sigma: Tensor | float) -> None:
        super().__init__()
        sigma = torch.as_tensor(sigma)
        check_positive("sigma", sigma)
        self.register_buffer("sigma", sigma.double())

    def _real(self, value: Tensor) -> Tensor:
        flat = value / self.sigma.to(value.real.dtype)
        return torch.view_as_real(flat).flatten(1) if flat.is_complex() else flat.flatten(1)

    def variance(self, prediction: Tensor) -> Tensor:
        """sigma^2, expanded to the prediction (a view)."""
        real = prediction.real
        return self.sigma.to(real.device, real.dtype).square().expand(real.shape)

    def whiten(self, y: Tensor, prediction: Tensor) -> Tensor:
        """(y - prediction)/sigma, flattened; complex data give two residuals each."""
        return self._real(y - prediction)

    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Normalised Gaussian log-density, (B,)."""
        z = self.whiten(y, prediction)
        per_datum = 2 if prediction.is_complex() else 1
        sigma = self.sigma.to(z.dtype).expand(prediction.shape[1:])
        return -0.5 * z.square().sum(1) - per_datum * sigma.log().sum() - 0.5 * z.shape[1] * math.log(2 * math.pi)

    def sample(self, prediction: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Prediction plus noise."""
        sigma = self.sigma.to(prediction.real.dtype)
        if prediction.is_complex():
            return prediction + sigma * torch.view_as_complex(randn_like(torch.view_as_real(prediction), generator))
        return prediction + sigma * randn_like(prediction, generator)
