r"""A camera's conversion and read noise from its own frames: the variance of light grows with its mean.

In ADU, :math:`\operatorname{var} = (\text{mean} - \text{offset})/c + (r/c)^2 + 1/12` with c electrons per ADU, read
noise of r electrons and the twelfth that rounding adds (Janesick 2007, "Photon Transfer"). The slope needs no offset.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite

_ROUNDING = 1 / 12  # ADU^2
_MAD_TO_SD = 1.4826  # of a normal law


class PhotonTransfer(NamedTuple):
    """A straight line through variance against mean, and what it says of the camera.

    Attributes
    ----------
    conversion : float
        Electrons per ADU.
    conversion_error : float
        Its standard error, from the scatter that variances of this many normal pixels have.
    read : float
        Read noise in electrons; 0 where the line meets the dark below the variance of rounding.
    mean : Tensor, shape (L,)
        Mean of each light level above the offset, ADU.
    variance : Tensor, shape (L,)
        Variance of one pixel at that level, ADU^2.
    """

    conversion: float
    conversion_error: float
    read: float
    mean: Tensor
    variance: Tensor


class PixelMaps(NamedTuple):
    """What `calibrate_pixels` finds, every map of shape (H, W), ready for a `Camera`.

    Attributes
    ----------
    offset : Tensor
        ADU.
    read : Tensor
        Electrons, without the noise of rounding.
    conversion : Tensor
        Electrons per ADU.
    """

    offset: Tensor
    read: Tensor
    conversion: Tensor


def fit_photon_transfer(first: Tensor, second: Tensor, *, offset: Tensor | float) -> PhotonTransfer:
    r"""Calibrate from pairs of frames of the same scene, two or more levels of light.

    Half the variance of a pair's difference is the noise of one frame: the scene, and the pattern of the sensor,
    drop out, so the light need not be even. It must be steady within the pair.

    Parameters
    ----------
    first, second : Tensor, shape (L, ..., H, W)
        The two frames of each of L levels, in ADU. Without saturated pixels: they have no variance.
    offset : float or Tensor
        ADU of a dark pixel, or a map of it: the mean of frames without light.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than two levels, a value is not finite, or the variance does not grow
        with the mean.
    """
    _check_pairs(first, second)
    a, b = first.double(), second.double()
    mean = ((a + b) / 2 - torch.as_tensor(offset, dtype=torch.float64, device=a.device)).flatten(1).mean(1)
    difference = (a - b).flatten(1)
    variance = difference.var(1) / 2
    return _read_off(mean, variance, torch.full_like(mean, difference.shape[1] - 1))


def _check_pairs(first: Tensor, second: Tensor) -> None:
    """Raise ValueError unless both hold one finite frame for each of two levels or more."""
    if first.shape != second.shape or first.ndim < 3 or len(first) < 2:
        raise ValueError(
            "first and second must hold one frame each for two or more levels of light, both (L, ..., H, W), "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    check_finite("first", first.double())
    check_finite("second", second.double())


def estimate_from_single_image(adu: Tensor, *, offset: Tensor | float, levels: int = 24) -> PhotonTransfer:
    r"""Estimate the same numbers from one ordinary image, whose noise is read off a high-pass.

    The second differences along rows of those along columns (Immerkaer 1996) leave out smooth structure; their median
    absolute deviation within pixels of like local mean gives the noise at that brightness and ignores sparse edges.

    Parameters
    ----------
    adu : Tensor, shape (..., H, W)
        Counts as in the file, unsaturated, with noise independent between pixels (never resampled or compressed).
    offset : float or Tensor
        ADU of a dark pixel; one image cannot tell it from read noise.
    levels : int
        Groups of equally many pixels by local mean, 2 or more.

    Raises
    ------
    ValueError
        If the image is smaller than 3 x 3 or not finite, holds fewer than 50 pixels per level, or its noise does not
        grow with its brightness.

    Notes
    -----
    Structure near the pixel's scale counts as noise, and the conversion comes out too small. On sparse bright points
    behind a Gaussian blur it was right within 3 % for a standard deviation of 1.5 pixels and more, and 45 % too small
    for one of 1 pixel, close to Nyquist sampling. `conversion_error` knows nothing of that. Calibrate with
    `fit_photon_transfer` where frames for it can be had.
    """
    adu = adu.double()
    check_finite("adu", adu)
    if levels < 2:
        raise ValueError(f"levels must be 2 or more, got {levels}")
    if adu.ndim < 2 or min(adu.shape[-2:]) < 3 or adu[..., 1:-1, 1:-1].numel() < 50 * levels:
        raise ValueError(f"adu must hold 50 pixels for each of {levels} levels inside its edge, got {tuple(adu.shape)}")
    level = adu - torch.as_tensor(offset, dtype=torch.float64, device=adu.device)
    # the weights of the high-pass add up to zero, so it is uncorrelated with the plain mean it is sorted by
    local = level.unfold(-2, 3, 1).unfold(-2, 3, 1).mean((-2, -1)).flatten()
    fine = torch.diff(torch.diff(level, n=2, dim=-2), n=2, dim=-1).flatten() / 6
    groups = local.argsort().tensor_split(levels)
    mean = torch.stack([local[g].mean() for g in groups])
    variance = torch.stack([(_MAD_TO_SD * (fine[g] - fine[g].median()).abs().median()) ** 2 for g in groups])
    # the efficiency of a MAD, 0.37, about halved because neighbours share pixels of the high-pass (from simulation)
    freedom = torch.tensor([0.2 * len(g) for g in groups], dtype=torch.float64, device=adu.device)
    return _read_off(mean, variance, freedom)


def _read_off(mean: Tensor, variance: Tensor, freedom: Tensor) -> PhotonTransfer:
    """Weighted line; a variance of n degrees of freedom has the variance 2 v^2/n."""
    fitted = variance.clamp(min=_ROUNDING)
    for _ in range(3):  # weights from the line, not from the scattered points: those would pull it down
        weight = freedom / (2 * fitted.square())
        centre = (weight * mean).sum() / weight.sum()
        spread = (weight * (mean - centre).square()).sum()
        slope = (weight * (mean - centre) * variance).sum() / spread
        dark = (weight * variance).sum() / weight.sum() - slope * centre
        fitted = (dark + slope * mean).clamp(min=_ROUNDING)
    if not slope > 0:
        raise ValueError(
            f"the variance must grow with the mean, its slope is {slope:.3g}: the levels of light are too close, "
            "pixels are saturated, or the frames were rescaled"
        )
    conversion = float(1 / slope)
    read = conversion * float((dark - _ROUNDING).clamp(min=0).sqrt())
    return PhotonTransfer(conversion, conversion**2 * float(spread.rsqrt()), read, mean, variance)


def calibrate_pixels(dark: Tensor, bright: Tensor) -> PixelMaps:
    r"""Maps of an sCMOS sensor, whose pixels have amplifiers of their own, from many frames at each level of light.

    Parameters
    ----------
    dark : Tensor, shape (T, H, W)
        Frames without light, in ADU; thousands, for the read noise of every pixel.
    bright : Tensor, shape (L, S, H, W)
        S frames of steady light at each of L levels, one or more; unsaturated.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two frames of a kind, a value is not finite, or a pixel's variance
        does not grow with its mean: its number is given.

    Notes
    -----
    The slope of variance above the dark's against mean above the offset, through the origin, for each pixel
    (Huang et al. 2013, Nature Methods 10, 653, whose gain is 1/conversion).
    """
    if dark.ndim != 3 or bright.ndim != 4 or dark.shape[1:] != bright.shape[2:] or min(len(dark), bright.shape[1]) < 2:
        raise ValueError(
            "dark must be (T, H, W) and bright (L, S, H, W) with two or more frames each, "
            f"got {tuple(dark.shape)} and {tuple(bright.shape)}"
        )
    dark, bright = dark.double(), bright.double()
    check_finite("dark", dark)
    check_finite("bright", bright)
    offset, dark_variance = dark.mean(0), dark.var(0)
    mean, variance = bright.mean(1) - offset, bright.var(1) - dark_variance
    slope = (mean * variance).sum(0) / mean.square().sum(0)
    if not (slope > 0).all():
        bad = int((~(slope > 0)).sum())
        raise ValueError(
            f"the variance must grow with the mean, it does not in {bad} of {slope.numel()} pixels: "
            "take more or brighter frames, and none with saturated pixels"
        )
    conversion = 1 / slope
    return PixelMaps(offset, conversion * (dark_variance - _ROUNDING).clamp(min=0).sqrt(), conversion)
