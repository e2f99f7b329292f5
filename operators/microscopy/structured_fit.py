"""Where the stripes of a structured-illumination recording lie: phase correlation and a linear fit."""

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.spread import pixel_spread
from sciinstruct.operators.microscopy.structured import Stripes
from sciinstruct.operators.microscopy.units import to_unit

_COARSEST = 0.3  # of the cut-off: coarser stripes are lost in the image's own low frequencies
_ZOOMS = 3  # refinements of the wave vector by either measure


def fit_stripes(
    frames: Tensor, optics: Optics, pixel_um: Any, phases: int = 3, *, model: PupilModel = vectorial_pupil
) -> Stripes:
    r"""Wave vectors, phases and contrasts of the illumination from the raw frames themselves.

    The phases of one direction are separated into the wide-field band :math:`D_0 = h * x` and a side band
    :math:`D_1 = \frac{m}{2} h * [x\,e^{i(2\pi k \cdot r + \phi)}]`. k is where their whitened spectra correlate best;
    then :math:`\frac{m}{2} e^{i\phi}` is the least-squares factor between the two where both have passed the optics.

    Parameters
    ----------
    frames : Tensor, shape (A * phases, H, W)
        Raw frames less the camera's offset, the phases of one direction together, stepped by 2 pi / phases.
    optics : Optics
        With `excitation_nm` if known: it bounds the search.
    pixel_um : float or Quantity
        Side of a camera pixel in the specimen, um, fine enough for the cut-off.
    phases : int
        Frames of each direction, at least 3.
    model : PupilModel
        `vectorial_pupil` or `scalar_pupil`.

    Returns
    -------
    Stripes
        As `sciinstruct.operators.microscopy.structured.SIM` takes them. A contrast above 1, by noise, is given as 1.

    Raises
    ------
    TypeError, ValueError
        If `frames` has another shape, is not finite or not floating, or the pixels are coarser than Nyquist's.

    References
    ----------
    Gustafsson et al. 2008, "Three-dimensional resolution doubling in wide-field fluorescence microscopy by structured
    illumination" (overlap fit); Wicker 2013, "Non-iterative determination of pattern phase in structured illumination
    microscopy using auto-correlations in Fourier space".
    """
    pixel = _check_frames(frames, optics, pixel_um, phases)
    bands = torch.fft.fft(frames.double().unflatten(0, (-1, phases)), dim=1)[:, :2] / phases
    grid = _Grid.of(frames.shape[1], frames.shape[2], pixel, frames.device)
    psf = pixel_spread(optics, pixel, (frames.shape[1], frames.shape[2]), model=model).to(frames.device)
    psf = torch.fft.ifftshift(psf)
    highest = optics.cutoff_per_um if optics.excitation_nm is None else optics.at_excitation().cutoff_per_um
    annulus = (_COARSEST * optics.cutoff_per_um, 1.02 * highest)
    fitted = [_fit_direction(zero, side, psf, grid, annulus) for zero, side in bands]
    k, factors = torch.stack([f[0] for f in fitted]), torch.stack([f[1] for f in fitted])
    return Stripes(k, factors.angle(), (2 * factors.abs()).clamp(max=1))


class _Grid(NamedTuple):
    """Pixels of a camera."""

    rows: Tensor  # positions of their centres, um, from the first one
    columns: Tensor
    window: Tensor  # falls to zero at the edges: what wraps around there is no part of the specimen

    @classmethod
    def of(cls, height: int, width: int, pixel: float, device: torch.device) -> "_Grid":
        rows, columns = (torch.arange(n, dtype=torch.float64, device=device) for n in (height, width))
        fall = [torch.sin(math.pi * (t + 0.5) / len(t)).square() for t in (rows, columns)]
        return cls(rows * pixel, columns * pixel, fall[0][:, None] * fall[1])

    @property
    def resolution(self) -> Tensor:
        """Distance of two frequencies, (2,), cycles per um."""
        return torch.stack([1 / (t[-1] + t[1]) for t in (self.rows, self.columns)])


def _fit_direction(
    zero: Tensor, side: Tensor, psf: Tensor, grid: _Grid, annulus: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Wave vector (2,) and complex factor m/2 exp(i phi) of one direction's bands D0 and D1, each (H, W)."""
    transfer = torch.fft.fft2(psf).abs()
    spectra = torch.fft.fft2(torch.stack([zero, side]) * grid.window)
    white = torch.fft.ifft2(torch.where(spectra.abs() > 0, spectra / spectra.abs(), 0) * transfer)
    product = white[1] * white[0].conj()
    # by chance alone the correlation at a shift is as large as the overlap of the two bands there
    chance = torch.fft.fft2(torch.fft.ifft2(transfer.square()).abs().square()).real.clamp(min=0).sqrt()
    k = _refined(product, grid, _coarse_peak(product, chance, grid, annulus))
    noise = spectra[0][transfer < 1e-4].abs().square().mean() * psf.square().sum()  # from beyond the cut-off
    overlap = partial(_overlap, zero, side, psf, noise, grid)
    width = 0.2 * grid.resolution
    for _ in range(_ZOOMS):
        around = k + width * torch.cartesian_prod(*2 * [torch.linspace(-1, 1, 5).to(width)])
        k, width = max(around, key=lambda q: float(overlap(q)[0])), width / 2.5
    return k, overlap(k)[1]


def _overlap(zero: Tensor, side: Tensor, psf: Tensor, noise: Tensor, grid: _Grid, k: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation of the side band, moved back by k, with the zero band; and the factor between them.

    Both are given the optics of the other, so that they are the same image but for the factor sought.
    """
    there = torch.fft.fft2(psf * _wave(k, _periodic(grid.rows), _periodic(grid.columns)))  # transfer at f + k
    model = torch.fft.ifft2(torch.fft.fft2(zero) * there) * grid.window
    moved = torch.fft.fft2(side * _wave(k, grid.rows, grid.columns))
    data = torch.fft.ifft2(moved * torch.fft.fft2(psf)) * grid.window
    power = model.abs().square().sum()
    fit = (model.conj() * data).sum()
    return fit.abs() / (power * data.abs().square().sum()).sqrt(), fit / (power - noise).clamp(min=1e-300)


def _wave(k: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return torch.exp(-2j * math.pi * (k[0] * rows[:, None] + k[1] * columns))


def _periodic(positions: Tensor) -> Tensor:
    """Positions of pixels around the first one: those of the second half are negative."""
    return torch.fft.fftfreq(len(positions), 1 / len(positions), dtype=torch.float64).to(positions) * positions[1]


def _coarse_peak(product: Tensor, chance: Tensor, grid: _Grid, annulus: tuple[float, float]) -> Tensor:
    """Frequency of the grid, within the annulus, where the bands correlate best, (2,), cycles per um."""
    ky, kx = (torch.fft.fftfreq(len(t), dtype=torch.float64).to(t) / t[1] for t in (grid.rows, grid.columns))
    size = torch.hypot(ky[:, None], kx)
    allowed = (size > annulus[0]) & (size < annulus[1])
    best = int(torch.where(allowed, torch.fft.fft2(product).abs() / chance, -1.0).argmax())
    return torch.stack([ky[best // len(kx)], kx[best % len(kx)]])


def _refined(product: Tensor, grid: _Grid, k: Tensor) -> Tensor:
    """Maximum of the correlation between the grid's frequencies: a search on ever finer grids around the last."""
    steps, width = torch.linspace(-1, 1, 11, dtype=torch.float64).to(k), grid.resolution
    for _ in range(_ZOOMS):
        ky, kx = k[0] + width[0] * steps, k[1] + width[1] * steps
        left = torch.exp(-2j * math.pi * ky[:, None] * grid.rows)
        right = torch.exp(-2j * math.pi * grid.columns[:, None] * kx)
        best = int((left @ product @ right).abs().argmax())
        k, width = torch.stack([ky[best // 11], kx[best % 11]]), width / 5
    return k


def _check_frames(frames: Tensor, optics: Optics, pixel_um: Any, phases: int) -> float:
    """Side of a camera pixel, um."""
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        raise TypeError(f"frames must be a floating tensor, got {getattr(frames, 'dtype', type(frames).__name__)}")
    if phases < 3:
        raise ValueError(f"phases must be at least 3 to separate the side bands, got {phases}")
    if frames.ndim != 3 or len(frames) == 0 or len(frames) % phases or min(frames.shape[1:]) < 16:
        raise ValueError(
            f"frames must be (directions * {phases}, H, W) with at least 16 pixels a side, got {tuple(frames.shape)}"
        )
    check_finite("frames", frames)
    pixel = to_unit(pixel_um, "um", "pixel_um")
    check_positive("pixel_um", pixel)
    if pixel > optics.nyquist_um:
        raise ValueError(f"pixel_um must be at most lambda / (4 NA) = {optics.nyquist_um:.4g}, got {pixel:.4g}")
    return pixel
