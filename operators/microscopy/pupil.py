r"""Point-spread functions from the pupil: scalar and vectorial, with the Gibson-Lanni path of a source in depth.

The image of a point is the squared modulus of the pupil's Fourier transform. The pupil is sampled on a grid of
frequencies k (cycles per um) wide enough for the optics' cut-off and fine enough for the defocused disc; a pupil model
says which fields a point source sends through it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.units import to_unit, to_unit_tensor
from sciinstruct.operators.padding import fast_length

_PUPIL_CELLS = 40  # least radius of the pupil on its grid: its rim is then right to 1e-4 of the peak


class Rays(NamedTuple):
    """The pupil on a grid of frequencies, each entry (H, W) in the layout of ``torch.fft.fft2``."""

    weight: Tensor  # share of the cell inside the aperture, 0 to 1
    sine: Tensor  # s = lambda |k| = n sin(theta), at most NA
    along_x: Tensor  # cosine of the azimuth
    along_y: Tensor  # sine of the azimuth
    immersion: Tensor  # ci = sqrt(ni^2 - s^2)
    sample: Tensor  # cs = sqrt(ns^2 - s^2), complex: imaginary beyond the sample's critical angle


PupilModel = Callable[[Optics, Rays], Tensor]
"""Fields (F, H, W) in the pupil for a source in focus: `scalar_pupil`, `vectorial_pupil`, or your own."""


def scalar_pupil(optics: Optics, rays: Rays) -> Tensor:
    """One field of constant amplitude: the Airy pattern in focus. Right below NA 0.8 or so."""
    return torch.ones_like(rays.sample)[None]


def vectorial_pupil(optics: Optics, rays: Rays) -> Tensor:
    r"""Six fields, two polarisations of the image for three axes of the dipole: a freely rotating fluorophore.

    Amplitude :math:`(c_i / n_i)^{-1/2}` for the flux through an aplanatic objective, Fresnel transmission from the
    sample to the immersion medium.

    References
    ----------
    Aguet et al. 2009, "Super-resolution orientation estimation and localization of fluorescent dipoles using 3-D
    steerable filters"; Born and Wolf, Principles of Optics, section 1.5.2 (Fresnel).
    """
    ni, ns = optics.immersion_index, float(optics.sample_index or optics.immersion_index)
    ci, cs = rays.immersion, rays.sample
    ts, tp = 2 * cs / (cs + ci), 2 * cs / (ni / ns * cs + ns / ni * ci)
    radial, axial = tp * cs / ns, -tp * rays.sine / ns
    x, y = rays.along_x, rays.along_y
    cross = (radial - ts) * x * y
    fields = [ts * y * y + radial * x * x, cross, axial * x, cross, ts * x * x + radial * y * y, axial * y]
    return torch.stack(fields) * (ci / ni).rsqrt()


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
    depth_um : float or Quantity
        Depth p of the source below the coverslip, um. It matters where the sample's index is not the immersion's.
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
    return _cropped(optics, _Request.checked(pixel_um, shape, z_um, depth_um), model, box_um=0.0)


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
    return _cropped(optics, request, model, box_um=request.pixel)


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
    extent = _extent(optics, request)
    repeats = [math.ceil(extent / (n * request.pixel)) for n in shape]
    cells = (repeats[0] * shape[0], repeats[1] * shape[1])
    planes = _sampled(optics, request, model, cells, box_um=request.pixel)
    tiles = planes.unflatten(-1, (repeats[1], shape[1])).unflatten(-3, (repeats[0], shape[0])).sum((-4, -2))
    centred = torch.fft.fftshift(tiles, dim=(-2, -1))
    return centred.reshape(*request.z.shape, *shape)


class _Request(NamedTuple):
    """What a caller asked for, checked, in um."""

    pixel: float
    shape: tuple[int, int]
    z: Tensor
    depth: float

    @classmethod
    def checked(cls, pixel_um: Any, shape: tuple[int, int], z_um: Any, depth_um: Any) -> "_Request":
        pixel, depth = to_unit(pixel_um, "um", "pixel_um"), to_unit(depth_um, "um", "depth_um")
        z = to_unit_tensor(z_um, "um", "z_um")
        check_positive("pixel_um", pixel)
        if depth < 0:
            raise ValueError(
                f"depth_um must not be negative, got {depth}: it counts from the coverslip into the sample"
            )
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape must be two positive numbers of pixels, got {tuple(shape)}")
        if z.ndim > 1 or z.numel() == 0:
            raise ValueError(f"z_um must be one number or a list of them, got shape {tuple(z.shape)}")
        return cls(pixel, shape, z, depth)


def _cropped(optics: Optics, request: _Request, model: PupilModel, box_um: float) -> Tensor:
    """The pattern on a field wide enough, of which the middle is kept."""
    n = fast_length(math.ceil(_extent(optics, request) / request.pixel))
    planes = torch.fft.fftshift(_sampled(optics, request, model, (n, n), box_um), dim=(-2, -1))
    (height, width), (top, left) = request.shape, (n // 2 - side // 2 for side in request.shape)
    return planes[..., top : top + height, left : left + width].reshape(*request.z.shape, height, width)


def _sampled(optics: Optics, request: _Request, model: PupilModel, cells: tuple[int, int], box_um: float) -> Tensor:
    """The pattern on `cells` pixels, source at (0, 0): transfer function times the box's, transformed back."""
    field = (cells[0] * request.pixel, cells[1] * request.pixel)
    coarse = tuple(fast_length(math.ceil(side * optics.cutoff_per_um) * 2 + 4) for side in field)
    spectrum = torch.fft.rfft2(_planes(optics, request, model, coarse, field))
    spectrum[..., 0, 0] = 1  # by Parseval; the cells on the rim, overlapping themselves, count too little here alone
    ky, kx = _frequencies(coarse, field)
    seen = torch.hypot(ky, kx) < optics.cutoff_per_um  # the rim's cells, half outside, leak by half a cell
    spectrum = spectrum * seen * torch.sinc(box_um * ky) * torch.sinc(box_um * kx)
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
    ns = float(optics.sample_index or optics.immersion_index)
    path = request.depth * (rays.sample - optics.immersion_index / ns * rays.immersion)
    fields = model(optics, rays) * torch.exp(wave * path)
    total = (fields.abs().square() * rays.weight).sum() * fields[0].numel()
    planes = []
    for height in request.z.reshape(-1).tolist():
        focused = fields * (rays.weight * torch.exp(-wave * height * rays.immersion))
        planes.append(torch.fft.ifft2(focused, norm="forward").abs().square().sum(0) / total)
    return torch.stack(planes)


def trace(optics: Optics, grid: tuple[int, int], field_um: tuple[float, float]) -> Rays:
    """The pupil's rays at the frequencies of a `grid` of cells over a field of sides `field_um`."""
    ky, kx = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) / side for n, side in zip(grid, field_um))
    ky, kx = ky[:, None].expand(grid), kx.expand(grid)
    k = torch.hypot(ky, kx)
    along_x, along_y = torch.where(k > 0, kx / k, 1.0), torch.where(k > 0, ky / k, 0.0)
    cell = torch.hypot(along_x / field_um[1], along_y / field_um[0])
    rim = optics.numerical_aperture / optics.wavelength_um
    weight = ((rim - k) / cell + 0.5).clamp(0, 1)
    sine = (optics.wavelength_um * k).clamp(max=optics.numerical_aperture)  # a cell on the rim counts as the rim
    ns = float(optics.sample_index or optics.immersion_index)
    immersion = (optics.immersion_index**2 - sine.square()).sqrt()
    sample = torch.sqrt((ns**2 - sine.square()).to(torch.complex128))
    return Rays(weight, sine, along_x, along_y, immersion, sample)


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


def _extent(optics: Optics, request: _Request) -> float:
    """Side of the computed field, um: twice the asked one, the defocused disc, and enough cells in the pupil."""
    asked = max(request.shape) * request.pixel
    mismatch = abs(optics.immersion_index / float(optics.sample_index or optics.immersion_index) - 1)
    disc = 2 * (float(request.z.abs().max()) + request.depth * mismatch) * optics.cone_slope
    return max(2 * asked, asked + disc, _PUPIL_CELLS * optics.wavelength_um / optics.numerical_aperture)
