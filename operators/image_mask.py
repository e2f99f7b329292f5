"""Masks on data that keep the image's shape: for batches in which every image has a mask of its own."""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.noise import NoiseModel
from sciinstruct.core.operator import LinearOperator
from sciinstruct.core.random import randn_like


class ImageMask(LinearOperator):
    r"""Set the pixels that were not measured to zero, :math:`y = m \odot x`, shape kept.

    `PixelMask` leaves unmeasured pixels out, so the data's shape depends on the mask; here it does not, and the masks
    of a batch may differ. Use it where networks are trained over masks; for one data set `PixelMask` is the right one.

    The zeros are no measurements: combine it with `MaskedGaussianNoise` and the same mask, which neither adds noise to
    them nor counts them. Under a plain `GaussianNoise` the gradient is right, but simulated data get noise where there
    is no pixel, and chi-square is too small by the fraction of missing pixels.

    Parameters
    ----------
    mask : Tensor of bool, shape (H, W), (C, H, W) or (B, C, H, W)
        True where the pixel was measured. With an axis B, the operator acts on batches of B images, image i under
        mask i; axes before the batch are kept.

    Raises
    ------
    TypeError
        If `mask` is not boolean.
    ValueError
        If `mask` has another number of axes, or keeps no pixel of an image.

    Notes
    -----
    A projection: symmetric, its own adjoint and pseudo-inverse.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", _checked(mask))
        self.domain_shape = self.range_shape = tuple(self.mask.shape[-3:])

    def apply(self, x: Tensor) -> Tensor:
        """Image with zeros where not measured, (B, C, H, W) -> (B, C, H, W)."""
        return torch.where(_matched(self.mask, x), x, torch.zeros_like(x))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """The same projection."""
        return self.apply(y)


class MaskedGaussianNoise(NoiseModel):
    r"""Independent Gaussian noise on the measured pixels alone; the others are zero and count for nothing.

    Parameters
    ----------
    sigma : Tensor or float
        Standard deviation; a tensor broadcasts to the data (B, C, H, W).
    mask : Tensor of bool, shape (H, W), (C, H, W) or (B, C, H, W)
        As of the `ImageMask` before it.

    Raises
    ------
    TypeError, ValueError
        As `ImageMask`, or if `sigma` is not positive.
    """

    sigma: Tensor
    mask: Tensor

    def __init__(self, sigma: Tensor | float, mask: Tensor) -> None:
        super().__init__()
        check_positive("sigma", sigma)
        self.register_buffer("sigma", torch.as_tensor(sigma).double())
        self.register_buffer("mask", _checked(mask))

    def whiten(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Residuals over sigma, (B, n): one column per pixel that any image measured, 0 where this image did not."""
        z = self._residuals(y, prediction).flatten(1)
        mask = self.mask if self.mask.ndim == 3 else self.mask.any(0)
        return z[:, mask.flatten().to(z.device)]

    def variance(self, prediction: Tensor) -> Tensor:
        """sigma^2 where measured, infinite elsewhere: one over it is what a pixel tells."""
        square = self.sigma.to(prediction.device, prediction.dtype).square().expand_as(prediction)
        return torch.where(_matched(self.mask, prediction), square, torch.full_like(prediction, math.inf))

    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Normalised log-density of the measured pixels, (B,)."""
        z = self._residuals(y, prediction)
        scale = (self.sigma.log() + 0.5 * math.log(2 * math.pi)).to(z.device, z.dtype)
        constant = torch.where(_matched(self.mask, prediction), scale, torch.zeros_like(z))
        return -(0.5 * z.square() + constant).flatten(1).sum(1)

    def sample(self, prediction: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Prediction plus noise where measured, zero elsewhere."""
        noise = self.sigma.to(prediction.device, prediction.dtype) * randn_like(prediction, generator)
        return torch.where(_matched(self.mask, prediction), prediction + noise, torch.zeros_like(prediction))

    def _residuals(self, y: Tensor, prediction: Tensor) -> Tensor:
        z = (y - prediction) / self.sigma.to(prediction.device, prediction.dtype)
        return torch.where(_matched(self.mask, z), z, torch.zeros_like(z))


def _checked(mask: Tensor) -> Tensor:
    """Mask of shape (C, H, W) or (B, C, H, W) that keeps a pixel of every image."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}; write > 0")
    if mask.ndim not in (2, 3, 4):
        raise ValueError(f"mask must have shape (H, W), (C, H, W) or (B, C, H, W), got {tuple(mask.shape)}")
    mask = mask[None] if mask.ndim == 2 else mask
    empty = ~mask.reshape(-1, math.prod(mask.shape[-3:])).any(1)
    if empty.any():
        raise ValueError(f"mask keeps no pixel of {int(empty.sum())} of {len(empty)} images: each needs a True entry")
    return mask


def _matched(mask: Tensor, x: Tensor) -> Tensor:
    """The mask on x's device; raises ValueError where x is a batch of another length than the mask's own."""
    if mask.ndim == 4 and (x.ndim < 4 or x.shape[-4] != len(mask)):
        raise ValueError(f"the mask is for batches of {len(mask)} images, got a tensor of shape {tuple(x.shape)}")
    return mask.to(x.device)
