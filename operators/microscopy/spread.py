"""Point-spread functions from the pupil, with the Gibson-Lanni path of a source in depth.

The image of a point is the squared modulus of the Fourier transform of what it sends through the pupil. It is computed
on cells that show every frequency below the cut-off and on a field wide enough for the defocused disc; its transfer
function, exactly zero beyond the cut-off, then gives it on any pixel, with what the pixel averages over.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, trace, vectorial_pupil
from sciinstruct.operators.microscopy.units import to_unit, to_unit_tensor
from sciinstruct.operators.padding import fast_length

_PUPIL_CELLS = 40  # least radius of the pupil on its grid: its rim is then right to 2e-4 of the peak

Aperture = Callable[[Tensor, Tensor], Tensor]
"""Transfer function, 1 at frequency 0, of what each sample averages over, from frequencies (ky, kx) per um."""


def point_spread(
    optics: Optics,
    pixel_um: Any,
    shape: tuple[int, int],
    z_um: Any = 0.0,
    depth_um: Any = 0.0,
    *,
    model: PupilModel = vectorial_pupil,
) -> Tensor:
    r"""Image of a point source, sampled at the centres of the pixels.

    Parameters
    ----------
    optics : Optics
        Objective, emission wavelength and media.
    pixel_um : float or Quantity
        Side of a pixel in the sample, um. It may be coarser than Nyquist's: the pattern is computed on a finer grid.
    shape : tuple of int
        Height and width of the result, in pixels; the source is at pixel ``(H // 2, W // 2)``.
    z_um : float, sequence or Quantity
        Movement z of the focus from the nominal depth, um: a number, or one for every plane.
    depth_um : float, sequence or Quantity
        Depth p of the source below the coverslip, um: a number, or one for every plane. It matters where
        the sample's index is not the immersion's.
    model : PupilModel
        `vectorial_pupil` or `scalar_pupil`.

    Returns
    -------
    Tensor, shape (H, W) or (Z, H, W), float64
        Intensity times the pixel's area. By Parseval's identity every plane would sum to 1 over an infinite plane; what
        `shape` crops away is missing, nothing is renormalised.

    Raises
    ------
    TypeError, ValueError
        If a length is not a number, `pixel_um` is not positive, `depth_um` is negative or `shape` is empty.

    Notes
    -----
    Optical path :math:`W = p (c_s - (n_i / n_s) c_i) - z c_i` (Gibson and Lanni 1991).
    """
    return aperture_spread(optics, pixel_um, shape, _point, z_um, depth_um, model=model)


def pixel_spread(
    optics: Optics,
    pixel_um: Any,
    shape: tuple[int, int],
    z_um: Any = 0.0,
    depth_um: Any = 0.0,
    *,
    model: PupilModel = vectorial_pupil,
) -> Tensor:
    """Share of a point source's light that each square pixel collects; arguments as for :func:`point_spread`.

    The pixel is a sinc on the transfer function, so it is exact: it adds pixel^2 / 12 to the variance per axis.
    """
    request = _Request.checked(pixel_um, shape, z_um, depth_um)
    return _cropped(optics, request, model, square_aperture(request.pixel))


def aperture_spread(
    optics: Optics,
    pixel_um: Any,
    shape: tuple[int, int],
    aperture: Aperture,
    z_um: Any = 0.0,
    depth_um: Any = 0.0,
    *,
    model: PupilModel = vectorial_pupil,
) -> Tensor:
    """:func:`point_spread` averaged over an aperture about the centre of every pixel, exact: see `disc_aperture`."""
    return _cropped(optics, _Request.checked(pixel_um, shape, z_um, depth_um), model, aperture)


def disc_aperture(diameter_um: float) -> Aperture:
    r"""A round pinhole: :math:`2 J_1(v) / v` with :math:`v = \pi d |k|`; diameter 0 is a point."""

    def gain(ky: Tensor, kx: Tensor) -> Tensor:
        v = math.pi * diameter_um * torch.hypot(ky, kx)
        return torch.where(v > 0, 2 * torch.special.bessel_j1(v) / v, 1.0)

    return gain


def square_aperture(side_um: float) -> Aperture:
    """A square pixel: the product of two sincs."""
    return lambda ky, kx: torch.sinc(side_um * ky) * torch.sinc(side_um * kx)


def periodic_spread(
    optics: Optics,
    pixel_um: Any,
    shape: tuple[int, int],
    z_um: Any = 0.0,
    depth_um: Any = 0.0,
    *,
    model: PupilModel = vectorial_pupil,
) -> Tensor:
    """What :func:`pixel_spread` becomes in a field that repeats itself every `shape` pixels; every plane sums to 1.

    Its Fourier transform is the transfer function at the field's own frequencies, times the pixel's sinc, and exactly
    zero beyond the cut-off where the pixels are fine enough to show it.
    """
    request = _Request.checked(pixel_um, shape, z_um, depth_um)
    repeats = [math.ceil(_breadth(optics, request) / (n * request.pixel)) for n in shape]
    cells = (repeats[0] * shape[0], repeats[1] * shape[1])
    planes = _sampled(optics, request, model, cells, square_aperture(request.pixel))
    tiles = planes.unflatten(-1, (repeats[1], shape[1])).unflatten(-3, (repeats[0], shape[0])).sum((-4, -2))
    centred = torch.fft.fftshift(tiles, dim=(-2, -1))
    return centred.reshape(*request.z.shape, *shape)


def _point(ky: Tensor, kx: Tensor) -> Tensor:
    return torch.ones_like(ky)


class _Request(NamedTuple):
    """What a caller asked for, checked, in um."""

    pixel: float
    shape: tuple[int, int]
    z: Tensor
    depth: Tensor

    @classmethod
    def checked(cls, pixel_um: Any, shape: tuple[int, int], z_um: Any, depth_um: Any) -> "_Request":
        pixel = to_unit(pixel_um, "um", "pixel_um")
        z, depth = to_unit_tensor(z_um, "um", "z_um"), to_unit_tensor(depth_um, "um", "depth_um")
        check_positive("pixel_um", pixel)
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape must be two positive numbers of pixels, got {tuple(shape)}")
        sizes = {t.numel() for t in (z, depth) if t.ndim}
        if max(z.ndim, depth.ndim) > 1 or len(sizes) > 1 or 0 in sizes:
            raise ValueError(
                f"z_um and depth_um must be numbers or lists of one length, got shapes {tuple(z.shape)} and "
                f"{tuple(depth.shape)}"
            )
        if (depth < 0).any():
            raise ValueError(f"depth_um must not be negative, got {float(depth.min())}: it counts into the sample")
        z, depth = torch.broadcast_tensors(z, depth)
        return cls(pixel, shape, z, depth)


def _cropped(optics: Optics, request: _Request, model: PupilModel, aperture: Aperture) -> Tensor:
    """The pattern on a field wide enough, of which the middle is kept."""
    asked, breadth = max(request.shape) * request.pixel, _breadth(optics, request)
    # what wraps around the computed field must not reach the part that is kept
    n = fast_length(math.ceil(max(breadth, asked + min(asked, breadth)) / request.pixel))
    planes = torch.fft.fftshift(_sampled(optics, request, model, (n, n), aperture), dim=(-2, -1))
    (height, width), (top, left) = request.shape, (n // 2 - side // 2 for side in request.shape)
    return planes[..., top : top + height, left : left + width].reshape(*request.z.shape, height, width)


def _sampled(
    optics: Optics, request: _Request, model: PupilModel, cells: tuple[int, int], aperture: Aperture
) -> Tensor:
    """The pattern on `cells` pixels, source at (0, 0): transfer function times the aperture's, transformed back."""
    field = (cells[0] * request.pixel, cells[1] * request.pixel)
    rows, columns = (fast_length(math.ceil(side * optics.cutoff_per_um) * 2 + 4) for side in field)
    coarse = (rows, columns)
    spectrum = torch.fft.rfft2(_planes(optics, request, model, coarse, field))
    spectrum[..., 0, 0] = 1  # by Parseval; the cells on the rim, overlapping themselves, count too little here alone
    ky, kx = _frequencies(coarse, field)
    seen = torch.hypot(ky, kx) < optics.cutoff_per_um  # the rim's cells, half outside, leak by half a cell
    spectrum = spectrum * seen * aperture(ky, kx)
    # pixels coarser than Nyquist's are every n-th sample of a grid that is fine enough
    fine = max(math.ceil(enough / n) for enough, n in zip(coarse, cells))
    grid = (fine * cells[0], fine * cells[1])
    planes = torch.fft.irfft2(_widened(spectrum, coarse[0], grid), s=grid)
    return planes[..., ::fine, ::fine] * fine**2


def _planes(
    optics: Optics, request: _Request, model: PupilModel, grid: tuple[int, int], field: tuple[float, float]
) -> Tensor:
    """Intensity at every z, (Z, *grid), source at cell (0, 0), of sum 1 were the grid infinite."""
    rays = trace(optics, grid, field)
    wave = 2j * math.pi / optics.wavelength_um
    at_coverslip = model(optics, rays) * torch.exp(1j * rays.aberration)
    path = rays.sample - optics.stage_ratio * rays.immersion
    planes = []
    for z, depth in zip(request.z.reshape(-1).tolist(), request.depth.reshape(-1).tolist()):
        fields = at_coverslip * torch.exp(wave * (depth * path - z * rays.immersion))
        total = (fields.abs().square() * rays.weight).sum() * rays.weight.numel()
        planes.append(torch.fft.ifft2(fields * rays.weight, norm="forward").abs().square().sum(0) / total)
    return torch.stack(planes)


def _frequencies(grid: tuple[int, int], field_um: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Row and column frequencies of ``rfft2``, (H, 1) and (W // 2 + 1,), cycles per um."""
    rows = torch.fft.fftfreq(grid[0], 1 / grid[0], dtype=torch.float64)[:, None]
    return rows / field_um[0], torch.arange(grid[1] // 2 + 1, dtype=torch.float64) / field_um[1]


def _widened(spectrum: Tensor, rows: int, grid: tuple[int, int]) -> Tensor:
    """A half spectrum of `rows` rows as that of a finer grid: zeros at the frequencies it did not have."""
    wide = spectrum.new_zeros(*spectrum.shape[:-2], grid[0], grid[1] // 2 + 1)
    half, columns = rows // 2, spectrum.shape[-1]
    wide[..., :half, :columns] = spectrum[..., :half, :]
    wide[..., grid[0] - half :, :columns] = spectrum[..., rows - half :, :]
    return wide


def _breadth(optics: Optics, request: _Request) -> float:
    """Side of the field, um, outside which hardly any of the pattern lies: its core's, or twice the defocused disc."""
    mismatch = abs(optics.stage_ratio - 1)
    disc = 2 * (float(request.z.abs().max()) + float(request.depth.max()) * mismatch) * optics.cone_slope
    return max(2 * disc, _PUPIL_CELLS * optics.wavelength_um / optics.numerical_aperture)
