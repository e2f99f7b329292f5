"""One periodic Gaussian random field, and spectra to build it from."""

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.priors.field_mixture import MixtureOfFields


class GaussianField(MixtureOfFields):
    r"""Stationary Gaussian random field on a periodic grid, :math:`x = m + F^{-1}\sqrt{P} F z`.

    Parameters
    ----------
    spectrum : Tensor, shape (H, W) or (C, H, W)
        Variance of every orthonormal Fourier mode, layout of ``torch.fft.fft2``; its average is the pixel variance.
    mean : Tensor, shape (C, H, W), optional
        Mean image, zero by default.
    sigma_range : tuple of float, optional
        Noise levels the diffusion solvers span.

    Raises
    ------
    ValueError
        On shapes that disagree, or a spectrum that is negative or not symmetric under k -> -k.
    """

    def __init__(
        self, spectrum: Tensor, mean: Tensor | None = None, *, sigma_range: tuple[float, float] | None = None
    ) -> None:
        if spectrum.ndim not in (2, 3):
            raise ValueError(f"spectrum must have shape (H, W) or (C, H, W), got {tuple(spectrum.shape)}")
        if mean is None:
            mean = torch.zeros_like(spectrum if spectrum.ndim == 3 else spectrum[None])
        super().__init__(mean[None], spectrum, sigma_range=sigma_range)


def frequency(image_shape: tuple[int, int]) -> Tensor:
    """Length of the wave vector of every mode, in cycles per pixel, (H, W), layout of ``torch.fft.fft2``, float64."""
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in image_shape)
    return torch.hypot(ky[:, None], kx[None, :])


def matern(image_shape: tuple[int, int], length: float, nu: float = 1.5, variance: float = 1.0) -> Tensor:
    r"""Matern spectrum :math:`P \propto (2\nu/\ell^2 + 4\pi^2 k^2)^{-(\nu + 1)}` in two dimensions, (H, W).

    Parameters
    ----------
    image_shape : tuple of int
        Height and width, in pixels.
    length : float
        Correlation length, in pixels.
    nu : float
        Smoothness; the field is ``ceil(nu) - 1`` times differentiable.
    variance : float
        Pixel variance of the field.
    """
    for name, value in (("length", length), ("nu", nu)):
        check_positive(name, value)
    k2 = (2 * torch.pi * frequency(image_shape)).square()
    return _normalise((2 * nu / length**2 + k2) ** -(nu + 1), variance)


def power_law(image_shape: tuple[int, int], slope: float, variance: float = 1.0) -> Tensor:
    """Spectrum ``k ** -slope``, with the constant mode given the power of the longest wave, (H, W).

    Parameters
    ----------
    image_shape : tuple of int
        Height and width, in pixels.
    slope : float
        Positive for red spectra, 0 is white noise.
    variance : float
        Pixel variance of the field.
    """
    k = frequency(image_shape).clamp(min=1.0 / max(image_shape))
    return _normalise(k**-slope, variance)


def from_images(images: Tensor, floor: float = 1e-6) -> Tensor:
    """Spectrum of the fluctuations of `images` (B, C, H, W) about their mean, averaged over rings of equal |k|.

    Rings are one mode of the longer side wide. Nothing falls below `floor` times the largest power.

    Returns
    -------
    Tensor, shape (C, H, W), float64

    Raises
    ------
    ValueError
        If there are fewer than two images, or they are not finite.
    """
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(f"images must have shape (at least 2, C, H, W), got {tuple(images.shape)}")
    check_finite("images", images)
    x = images.detach().double()
    centred = x - x.mean(0)
    power = torch.fft.fft2(centred, norm="ortho").abs().square().sum(0) / (len(x) - 1)
    h, w = x.shape[-2:]
    ring = (frequency((h, w)).to(x.device) * max(h, w)).round().long().flatten()
    total = torch.zeros(len(power), int(ring.max()) + 1, dtype=power.dtype, device=x.device)
    total.index_add_(1, ring, power.flatten(1))
    average = (total / ring.bincount())[:, ring].reshape(power.shape)
    return average.clamp(min=floor * float(average.max()))


def _normalise(spectrum: Tensor, variance: float) -> Tensor:
    check_positive("variance", variance)
    return variance * spectrum / spectrum.mean()
