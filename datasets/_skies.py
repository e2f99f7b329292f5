"""What all random skies share: pixel grid, pose on the sky, uniform draws, Gaussian fields and Gaussian spots."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

FWHM_TO_SIGMA = 1 / math.sqrt(8 * math.log(2))
Range = tuple[float, float]


class Pose(NamedTuple):
    """How model axes lie on the sky; every entry has shape (n,)."""

    rotation: Tensor  # position angle of the model's North, rad East of North
    flip: Tensor  # +1, or -1 where the model is mirrored East-West before it is rotated
    zoom: Tensor  # sky size over model size
    x: Tensor  # offset East, uas
    y: Tensor  # offset North, uas

    def select(self, index: Tensor) -> "Pose":
        """Return the poses at `index`."""
        return Pose(*(entry[index] for entry in self))

    def position_angle(self, angle: Tensor) -> Tensor:
        """Turn a model position angle into the one on the sky, degrees in [0, 360)."""
        return (torch.rad2deg(self.rotation) + self.flip * angle) % 360


class Canvas(NamedTuple):
    """Fine pixels of a batch of skies, in each sky's own model axes."""

    x: Tensor  # model East, uas, shape (n, fine, fine)
    y: Tensor  # model North, uas, shape (n, fine, fine)
    fov: float  # side of the image on the sky, uas


def uniform(shape: int | tuple[int, ...], bounds: Range, generator: torch.Generator) -> Tensor:
    """Draw float32 numbers uniform in `bounds`."""
    shape = (shape,) if isinstance(shape, int) else shape
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def normal(shape: int | tuple[int, ...], scale: float, generator: torch.Generator) -> Tensor:
    """Draw float32 numbers from N(0, scale^2)."""
    shape = (shape,) if isinstance(shape, int) else shape
    return scale * torch.randn(shape, generator=generator, device=generator.device)


def draw_pose(n: int, generator: torch.Generator, zoom: Range = (0.83, 1.15), shift: float = 4.0) -> Pose:
    """Draw uniform rotations, mirror images with probability 1/2, uniform zooms and normal shifts (sd in uas)."""
    return Pose(
        rotation=uniform(n, (0.0, 2 * math.pi), generator),
        flip=torch.randint(0, 2, (n,), generator=generator, device=generator.device) * 2.0 - 1.0,
        zoom=uniform(n, zoom, generator),
        x=normal(n, shift, generator),
        y=normal(n, shift, generator),
    )


def make_canvas(pose: Pose, fine: int, fov: float) -> Canvas:
    """Lay `fine` by `fine` pixels over the field (row 0 North, column 0 East) and express them in model axes."""
    offset = ((fine - 1) / 2 - torch.arange(fine, device=pose.x.device)) * (fov / fine)
    rotation, flip, zoom, x0, y0 = (entry[:, None, None] for entry in pose)
    east = (offset[None, None, :] - x0) / zoom
    north = (offset[None, :, None] - y0) / zoom
    cos, sin = torch.cos(rotation), torch.sin(rotation)
    return Canvas(flip * (cos * east - sin * north), sin * east + cos * north, fov)


def average_blocks(fine: Tensor, npix: int) -> Tensor:
    """Average square blocks of (n, fine, fine) down to (n, npix, npix)."""
    side = fine.shape[-1] // npix
    return fine.unflatten(-1, (npix, side)).unflatten(-3, (npix, side)).mean(dim=(-1, -3))


def gaussian_field(shape: tuple[int, int], length: Tensor, slope: Tensor, generator: torch.Generator) -> Tensor:
    r"""Draw periodic Gaussian fields of unit variance with spectrum :math:`(1 + (k \ell)^2)^{-\gamma}`.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    length : Tensor, shape (n,) or (n, 2)
        Correlation length in pixels, or one for rows and one for columns.
    slope : Tensor, shape (n,)
        The exponent gamma: a Matern field of smoothness gamma - 1. Every mode but the mean has power.
    generator : torch.Generator
        Source of the white noise.

    Returns
    -------
    Tensor, shape (n, rows, columns)
    """
    n, (rows, columns) = len(length), shape
    along = length if length.ndim == 2 else length[:, None].expand(n, 2)
    ky = 2 * math.pi * torch.fft.fftfreq(rows, device=length.device)
    kx = 2 * math.pi * torch.fft.rfftfreq(columns, device=length.device)
    k2 = (along[:, 0, None] * ky).square()[:, :, None] + (along[:, 1, None] * kx).square()[:, None, :]
    amplitude = (1 + k2) ** (-slope[:, None, None] / 2)
    amplitude[:, 0, 0] = 0  # a constant would only change the flux
    twice = torch.full((kx.numel(),), 2.0, device=length.device)  # half the plane stands for all of it
    twice[0] = 1
    twice[-1] = 1 if columns % 2 == 0 else 2
    power = (amplitude.square() * twice).sum(dim=(-1, -2), keepdim=True) / (rows * columns)
    white = torch.randn(n, rows, columns, generator=generator, device=length.device)
    return torch.fft.irfft2(torch.fft.rfft2(white) * amplitude / power.sqrt(), s=shape)


def gaussian_blur(image: Tensor, fwhm: Tensor) -> Tensor:
    """Blur (n, rows, columns) by circular Gaussians of `fwhm` pixels, shape (n,), with periodic edges."""
    rows, columns = image.shape[-2:]
    ky = torch.fft.fftfreq(rows, device=image.device)[:, None]
    kx = torch.fft.rfftfreq(columns, device=image.device)
    scale = ((math.pi * fwhm).square() / (4 * math.log(2)))[:, None, None]
    transfer = torch.exp(-scale * (ky.square() + kx.square()))
    return torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=(rows, columns))


class Spots(NamedTuple):
    """Elliptical Gaussians, every entry of shape (n, k)."""

    flux: Tensor
    x: Tensor  # uas
    y: Tensor  # uas
    fwhm: Tensor  # along the major axis, uas
    ratio: Tensor  # minor over major axis
    angle: Tensor  # position angle of the major axis, rad

    def render(self, canvas: Canvas) -> Tensor:
        """Sum of the Gaussians, flux per square uas."""
        image = torch.zeros_like(canvas.x)
        for spot in zip(*(entry.unbind(1) for entry in self)):
            flux, x0, y0, fwhm, ratio, angle = (entry[:, None, None] for entry in spot)
            dx, dy = canvas.x - x0, canvas.y - y0
            major = (dx * torch.sin(angle) + dy * torch.cos(angle)) / (fwhm * FWHM_TO_SIGMA)
            minor = (dx * torch.cos(angle) - dy * torch.sin(angle)) / (fwhm * ratio * FWHM_TO_SIGMA)
            peak = flux / (2 * math.pi * ratio * (fwhm * FWHM_TO_SIGMA).square())
            image += peak * torch.exp(-0.5 * (major.square() + minor.square()))
        return image
