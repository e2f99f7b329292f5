"""What structured illumination did: stripes' wave vectors, contrast and phase, from the raw frames themselves."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.operators.convolution import centred, normalised

_EDGE = 1e-4  # of the transfer function at zero: below it nothing but noise has passed the optics
_CANDIDATES = 12  # grid points that are looked at closely


class StripeEstimate(NamedTuple):
    """Result of `estimate_stripes`, one entry per direction.

    The illumination of frame j is ``1 + modulation * cos(2 pi k.r + phase + 2 pi j / phases)``, r in pixels from the
    first pixel.
    """

    wave_vectors: Tensor  # (angles, 2): k along rows and along columns, cycles per pixel
    phase: Tensor  # (angles,), rad, in (-pi, pi]
    modulation: Tensor  # (angles,); noise may lift it above 1
    coherence: Tensor  # (angles,), 0 to 1: agreement of the two bands where they overlap


def estimate_stripes(
    frames: Tensor, psf: Tensor, *, phases: int = 3, search: tuple[float, float] = (0.05, 0.5)
) -> StripeEstimate:
    r"""Estimate the stripes of structured illumination from the frames of one field.

    The frames of one direction, whose phases are evenly spaced, separate into the wide-field band
    :math:`C_0 = h * x` and a side band :math:`C_1 = \frac m2 e^{i\phi}\, h * (x\,e^{2 \pi i k \cdot r})`. With the side
    band moved back by k, and each multiplied by the other's transfer function, the two are proportional where they
    overlap: k is where they are most coherent, and the factor of proportionality, by least squares, is
    :math:`\frac m2 e^{i\phi}`. k is first looked for on the grid of the FFT, then between its points.

    Parameters
    ----------
    frames : Tensor, shape (angles * phases, H, W)
        Raw frames, the phases of one direction together, any unit, background subtracted.
    psf : Tensor, shape (kh, kw)
        Point-spread function in the frames' pixels, centred at ``(kh // 2, kw // 2)``.
    phases : int
        Frames of each direction, at least 3.
    search : tuple of float
        Smallest and largest wave number to look at, cycles per pixel. Coarser stripes than about a third of the optics'
        cut-off are lost in the image's own low frequencies.

    Raises
    ------
    TypeError
        If `frames` or `psf` is not a floating tensor.
    ValueError
        If `frames` does not hold at least three frames per direction or is not finite, the psf is impossible, or
        `search` is out of range.

    Notes
    -----
    The noise of the wide-field band, read off where the optics pass nothing, is subtracted from its power: otherwise
    the modulation would be too small.

    Root mean square errors measured on simulated microtubules (four fields of 256 x 256 pixels of 31.3 nm, three
    directions, NA 1.41, 525 nm, stripes of 0.9 of the cut-off, modulation 0.9) at 600, 60 and 15 photons per pixel:
    0.002, 0.006 and 0.014 cycles per field in k; 0.003, 0.006 and 0.015 in the modulation; 0.006, 0.016 and 0.05 rad in
    the phase. At a modulation of 0.3 k and phase are about twice as far off, the modulation is not. Without noise the
    field's edges leave 0.001, 0.001 and 0.003, at 192 x 192 pixels up to 0.004, 0.003 and 0.012.

    References
    ----------
    Gustafsson et al. 2008, "Three-dimensional resolution doubling in wide-field fluorescence microscopy by structured
    illumination", its fit of parameters in the overlap; here in real space, with the frame's edges faded out.
    """
    check_frames(frames, phases)
    if not 0 < search[0] < search[1] <= 0.75:
        raise ValueError(f"search must be two rising numbers between 0 and 0.75 cycles per pixel, got {search}")
    psf = normalised(psf, (frames.shape[1], frames.shape[2])).to(frames.device)
    groups = frames.detach().double().unflatten(0, (-1, phases))
    results = [_Bands(group, psf).estimate(search) for group in groups]
    vectors, factors, coherence = (torch.stack(column) for column in zip(*results))
    return StripeEstimate(vectors, factors.angle(), 2 * factors.abs(), coherence)


def check_frames(frames: Tensor, phases: int) -> None:
    """Raise TypeError or ValueError unless `frames` are finite (angles * phases, H, W) of at least three phases."""
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        raise TypeError(f"frames must be a floating tensor, got {getattr(frames, 'dtype', type(frames).__name__)}")
    if phases < 3:
        raise ValueError(f"phases must be at least 3 to separate the side bands, got {phases}")
    if frames.ndim != 3 or not len(frames) or len(frames) % phases or min(frames.shape[1:]) < 16:
        raise ValueError(
            f"frames must be (directions * {phases}, H, W) with at least 16 pixels a side, got {tuple(frames.shape)}"
        )
    check_finite("frames", frames)


class _Bands:
    """The two bands of one direction, and how they compare after a shift by k."""

    def __init__(self, frames: Tensor, psf: Tensor) -> None:
        self.shape = (frames.shape[-2], frames.shape[-1])
        turn = torch.arange(len(frames), dtype=torch.float64, device=frames.device) / len(frames)
        self.centre = torch.fft.fft2(frames.mean(0))
        self.side = (frames * torch.exp(-2j * math.pi * turn)[:, None, None]).mean(0)
        self.psf = centred(psf, self.shape)
        rows, columns = (torch.arange(n, dtype=torch.float64, device=frames.device) for n in self.shape)
        self.window = torch.outer(_fade(rows), _fade(columns))
        self.transfer = self._transfer((0.0, 0.0))
        passed = self.transfer.abs()
        blind = passed < _EDGE * passed.max()
        self.noise = self.centre[blind].abs().square().mean() if blind.any() else passed.new_zeros(())

    def estimate(self, search: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
        """Wave vector (2,), complex factor of the side band, coherence."""
        from scipy.optimize import minimize

        start = self._coarse(search)
        cell = np.array([1 / n for n in self.shape])
        simplex = start + 0.4 * cell * np.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
        options = {"initial_simplex": simplex, "xatol": 5e-4 * cell.min(), "fatol": 1e-7}
        fit = minimize(lambda k: -float(self._compare(k)[1]), start, method="Nelder-Mead", options=options)
        factor, coherence = self._compare(fit.x)
        return torch.as_tensor(fit.x, device=factor.device), factor, coherence

    def _coarse(self, search: tuple[float, float]) -> np.ndarray:
        """Most coherent of the grid points where the phases of the bands' spectra correlate best.

        Phases alone, or the image's strong low frequencies would decide; relative to what a band of random phases gives
        at that shift, which is the overlap of the two.
        """
        passed = self.transfer.abs()
        centre, side = (_phases(t) * passed for t in (self.centre, torch.fft.fft2(self.side)))
        product = self.window * torch.fft.ifft2(centre).conj() * torch.fft.ifft2(side)
        chance = torch.fft.fft2(torch.fft.ifft2(passed.square()).abs().square()).real
        ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64, device=passed.device) for n in self.shape)
        number = torch.hypot(ky[:, None], kx)
        allowed = (number >= search[0]) & (number <= search[1]) & (chance > 1e-6 * chance.max())
        match = torch.where(allowed, torch.fft.fft2(product).abs().square() / chance, -torch.ones_like(number))
        rows, columns = np.unravel_index(match.flatten().topk(_CANDIDATES).indices.cpu().numpy(), self.shape)
        candidates = [np.array([float(ky[i]), float(kx[j])]) for i, j in zip(rows, columns)]
        return max(candidates, key=lambda k: float(self._compare(k)[1]))

    def _compare(self, k: np.ndarray) -> tuple[Tensor, Tensor]:
        """Least-squares factor between the bands, free of the centre's noise, and their coherence, at a shift k."""
        ky, kx = float(k[0]), float(k[1])
        rows, columns = (torch.arange(n, dtype=torch.float64, device=self.window.device) for n in self.shape)
        moved = self._transfer((ky, kx))
        side = torch.fft.ifft2(self.transfer * torch.fft.fft2(_wave(ky, kx, rows, columns) * self.side))
        centre = torch.fft.ifft2(moved * self.centre)
        product = (self.window * centre.conj() * side).sum()
        power = (self.window * centre.abs().square()).sum()
        noise = self.noise * moved.abs().square().sum() / moved.numel() ** 2 * self.window.sum()
        other = (self.window * side.abs().square()).sum()
        return product / (power - noise).clamp(min=1e-3 * power), product.abs() / (power * other).sqrt()

    def _transfer(self, shift: tuple[float, float]) -> Tensor:
        """Transfer function at the grid's frequencies plus `shift`."""
        rows, columns = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=self.psf.device) for n in self.shape)
        return torch.fft.fft2(self.psf * _wave(*shift, rows, columns))


def _fade(position: Tensor) -> Tensor:
    """1 inside, falling to 0 over an eighth of the field at each end: the far parts say most about k."""
    inward = torch.minimum(position, position.flip(0)) + 0.5
    return torch.sin(0.5 * math.pi * (8 * inward / len(position)).clamp(max=1)).square()


def _phases(spectrum: Tensor) -> Tensor:
    size = spectrum.abs()
    return torch.where(size > 0, spectrum / size, torch.zeros_like(spectrum))


def _wave(ky: float, kx: float, rows: Tensor, columns: Tensor) -> Tensor:
    """exp(-2 pi i k.r), (H, W)."""
    return torch.outer(torch.exp(-2j * math.pi * ky * rows), torch.exp(-2j * math.pi * kx * columns))
