"""Likelihoods: operator + noise model + data."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sciinstruct.core.checks import check_finite
from sciinstruct.core.noise import GaussianNoise, NoiseModel
from sciinstruct.core.operator import LinearOperator, Operator

_COPIES = 512  # of images that are differentiated together; one image's are, however many


class BaseLikelihood(nn.Module, ABC):
    """log p(y | image) for images in physical units, y fixed.

    Attributes
    ----------
    domain_shape : tuple of int
        Shape of one image.
    shift_invariant : bool
        True if the data cannot tell an image from a shifted one.
    """

    domain_shape: tuple[int, ...]
    shift_invariant: bool = False

    @abstractmethod
    def log_prob(self, image: Tensor) -> Tensor:
        """Log-likelihood per batch element, (B, *domain_shape) -> (B,), summed over the data."""

    @abstractmethod
    def chi2(self, image: Tensor) -> dict[str, Tensor]:
        """Reduced chi-square per data term, each (B,): 1 is expected at the truth."""

    @abstractmethod
    def simulate(self, image: Tensor, generator: torch.Generator | None = None) -> "BaseLikelihood":
        """Return this likelihood with data drawn from p(y | image), image of shape (1, *domain_shape)."""

    def residuals(self, image: Tensor) -> Tensor:
        """Whitened residuals (B, n), for Gauss-Newton starts; raises NotImplementedError where none exist."""
        raise NotImplementedError(f"{type(self).__name__} has no whitened residuals")

    def linearise(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened residuals (B, n) and their Jacobians in the flattened image (B, n, D), without a graph."""
        n = self.residuals(image[:1].detach()).shape[1]
        parts = [self._linearised(some, n) for some in image.detach().split(max(1, _COPIES // max(n, 1)))]
        return torch.cat([r for r, _ in parts]), torch.cat([j for _, j in parts])

    def _linearised(self, image: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """`linearise`, of all images at once: a copy of each for every one of its n residuals."""
        with torch.enable_grad():
            copies = image.repeat_interleave(n, 0).requires_grad_()
            r = self.residuals(copies)
        eye = torch.eye(n, dtype=r.dtype, device=r.device).repeat(len(image), 1)
        (slopes,) = torch.autograd.grad(r, copies, eye)
        return r.detach()[::n], slopes.reshape(len(image), n, -1)

    def score(self, image: Tensor) -> Tensor:
        """Gradient of the log-likelihood in the image, shape of `image`."""
        with torch.enable_grad():
            leaf = image.detach().requires_grad_()
            return torch.autograd.grad(self.log_prob(leaf).sum(), leaf)[0]


class Likelihood(BaseLikelihood):
    """Data `y` seen through `operator` with `noise`.

    Parameters
    ----------
    operator : Operator
        Maps images (B, *domain_shape) to predictions (B, *range_shape).
    noise : NoiseModel or float
        A number means Gaussian noise of that standard deviation, in units of y.
    y : Tensor, shape (*range_shape) or (1, *range_shape)
        The measurement.

    Raises
    ------
    ValueError
        If `y` has another shape than the operator's range, or is not finite.
    """

    y: Tensor

    def __init__(self, operator: Operator, noise: NoiseModel | float, y: Tensor) -> None:
        super().__init__()
        expected = tuple(operator.range_shape)
        if tuple(y.shape) not in (expected, (1, *expected)):
            raise ValueError(f"y must have the operator's range shape {expected}, got {tuple(y.shape)}")
        check_finite("y", y)
        self.operator = operator
        self.noise = noise if isinstance(noise, NoiseModel) else GaussianNoise(noise)
        self.domain_shape = tuple(operator.domain_shape)
        self.register_buffer("y", y.detach().reshape(1, *expected))

    def _prediction(self, image: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.operator(image)
        return self.y.to(prediction.dtype), prediction

    def log_prob(self, image: Tensor) -> Tensor:
        """Log-likelihood per batch element, (B,)."""
        return self.noise.log_prob(*self._prediction(image))

    def residuals(self, image: Tensor) -> Tensor:
        """Whitened residuals (B, n)."""
        return self.noise.whiten(*self._prediction(image))

    def linearise(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As `BaseLikelihood.linearise`; one Jacobian for all images (a view) where it is the same everywhere."""
        if not (isinstance(self.operator, LinearOperator) and isinstance(self.noise, GaussianNoise)):
            return super().linearise(image)
        _, jacobian = super().linearise(image[:1])
        with torch.no_grad():
            return self.residuals(image), jacobian.expand(len(image), -1, -1)

    def chi2(self, image: Tensor) -> dict[str, Tensor]:
        """Mean squared whitened residual, under the key ``data``."""
        return {"data": self.residuals(image).square().mean(1)}

    def simulate(self, image: Tensor, generator: torch.Generator | None = None) -> "Likelihood":
        """Return the same operator and noise with data drawn for `image` (1, *domain_shape)."""
        with torch.no_grad():
            return Likelihood(self.operator, self.noise, self.noise.sample(self.operator(image), generator))
