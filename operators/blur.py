"""Gaussian blur with periodic boundaries, diagonal in Fourier space."""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.operator import LinearOperator


class GaussianBlur(LinearOperator):
    r"""Periodic convolution with a Gaussian of unit sum.

    The transfer function is the Gaussian's own, :math:`H(k) = \exp(-2 \pi^2 \sigma^2 |k|^2)`, with k in cycles per
    pixel: it is real and positive, so the operator is symmetric, its own adjoint, and invertible mode by mode.

    Parameters
    ----------
    sigma : float
        Standard deviation of the Gaussian, in pixels (FWHM = 2.3548 sigma).
    image_shape : tuple of int, (H, W) or (C, H, W)
        Shape of the image; two numbers mean one channel. Pad first if the scene is not periodic.

    Attributes
    ----------
    transfer : Tensor, shape (H, W), float64
        H(k) in the order of ``torch.fft.fft2``: the operator's eigenvalues, for closed-form posteriors of stationary
        Gaussian fields.

    Raises
    ------
    ValueError
        If `sigma` is not positive or `image_shape` has another number of axes.
    """

    transfer: Tensor

    def __init__(self, sigma: float, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        check_positive("sigma", sigma)
        if len(image_shape) not in (2, 3):
            raise ValueError(f"image_shape must be (H, W) or (C, H, W), got {tuple(image_shape)}")
        height, width = image_shape[-2:]
        ky = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
        kx = torch.fft.fftfreq(width, dtype=torch.float64)
        self.sigma = float(sigma)
        self.register_buffer("transfer", torch.exp(-2 * (math.pi * self.sigma) ** 2 * (ky.square() + kx.square())))
        channels = image_shape[0] if len(image_shape) == 3 else 1
        self.domain_shape = self.range_shape = (channels, height, width)

    def apply(self, x: Tensor) -> Tensor:
        """Blurred image, (B, C, H, W) -> (B, C, H, W)."""
        height, width = self.domain_shape[-2:]
        gain = self.transfer[:, : width // 2 + 1].to(x.device, x.dtype)
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(height, width))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """The same blur: the operator is symmetric."""
        return self.apply(y)
