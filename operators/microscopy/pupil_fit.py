"""The aberrations of an objective, fitted to its measured point-spread function."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.operators.microscopy.measured_psf import MeasuredPSF
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, trace, vectorial_pupil
from sciinstruct.operators.microscopy.zernike import Zernike, zernike_polynomial
from sciinstruct.operators.padding import fast_length

_TERMS = ((2, 2), (2, -2), (3, 1), (3, -1), (4, 0), (3, 3), (3, -3))
"""Astigmatism, coma, spherical aberration, trefoil: (n, m). Tilt and defocus are the shift."""
_SPHERICAL = (0.3, -0.3)  # starts, rad: the two sides of the focus look much alike, so both signs are tried
_STEPS = 80


class PupilFit(NamedTuple):
    """A measured point-spread function explained by the pupil: smooth, positive, and good for any pixel."""

    optics: Optics  # with the aberrations found
    blur_um: tuple[float, float]  # (y, x) standard deviation of what blurs besides: bead, scanner, jitter
    shift_um: tuple[float, float, float]  # (z, y, x) of the focus from the measured one's middle voxel
    psf: Tensor  # (kz, ky, kx), sum 1, on the grid of the measured one
    correlation: float  # with the measured one


def fit_widefield_pupil(measured: MeasuredPSF, optics: Optics, *, model: PupilModel = vectorial_pupil) -> PupilFit:
    """Fit astigmatism, coma, spherical aberration and trefoil to the beads of a wide-field microscope.

    Parameters
    ----------
    measured : MeasuredPSF
        Beads near the coverslip; their planes should reach past the focus to both sides.
    optics : Optics
        Objective and wavelength, taken as known. Aberrations it already has are replaced.
    model : PupilModel
        `vectorial_pupil` or `scalar_pupil`, which is several times faster.

    Returns
    -------
    PupilFit
        Most correlated with the measured voxels. Use its optics with every operator of the package.

    Notes
    -----
    The focus is scanned in the direction of rising z; a stack taken the other way gives even aberrations of the other
    sign, and a point-spread function that is right all the same. Half a minute for 20 planes of 40 x 40 voxels.
    """
    return _fit(measured, [_Light(optics, measured, model)], optics)


def fit_confocal_pupil(measured: MeasuredPSF, optics: Optics, *, model: PupilModel = vectorial_pupil) -> PupilFit:
    """The same for a point-scanning confocal microscope with a small pinhole: excitation times emission.

    Parameters
    ----------
    measured, model
        As for `fit_widefield_pupil`.
    optics : Optics
        With `excitation_nm`; both paths share the aberrations.

    Raises
    ------
    ValueError
        If the excitation wavelength is missing.

    Notes
    -----
    On real beads of unknown optics (NA 1.4 and 488/520 nm assumed; widths 0.59 x 0.23 x 0.17 um) the fit correlates
    with the measured average by 0.985 (0.987 with `scalar_pupil`), the best Gaussian of any direction by 0.976.
    """
    return _fit(measured, [_Light(o, measured, model) for o in (optics.at_excitation(), optics)], optics)


class _Light:
    """Intensity of one wavelength on the voxels, as a function of the phases of the aberrations."""

    def __init__(self, optics: Optics, measured: MeasuredPSF, model: PupilModel) -> None:
        sides = [n * v for n, v in zip(measured.psf.shape, measured.voxel_um)]
        field = max(sides[1:]) + sides[0] * optics.cone_slope  # wide enough for the defocused disc
        cells = fast_length(2 * math.ceil(field * optics.cutoff_per_um) + 4)
        plain = replace(optics, aberrations=())
        rays = trace(plain, (cells, cells), (field, field))
        self.fields = model(plain, rays) * rays.weight
        self.turn = 2 * math.pi / optics.wavelength_um * rays.immersion
        radius = rays.sine / optics.numerical_aperture
        terms = [zernike_polynomial(n, m, radius, rays.along_x, rays.along_y) for n, m in _TERMS]
        self.terms = torch.stack(terms) / optics.wavelength_um  # of a path in um: the same for all wavelengths
        self.frequencies = torch.fft.fftfreq(cells, field / cells, dtype=torch.float64)

    def __call__(self, path: Tensor, z: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Intensity (Z, H, W) at positions z, y, x in um from the focus, up to a factor."""
        phase = torch.tensordot(path, self.terms, 1) - z[:, None, None] * self.turn
        fields = self.fields * torch.exp(1j * phase)[:, None]
        spectrum = torch.fft.fft2(torch.fft.ifft2(fields).abs().square().sum(1))
        rows, columns = (torch.exp(2j * math.pi * t[:, None] * self.frequencies) for t in (y, x))
        return (rows @ spectrum @ columns.T).real


class _Model:
    """All wavelengths together, on the measured voxels."""

    def __init__(self, measured: MeasuredPSF, lights: list[_Light]) -> None:
        self.lights = lights
        self.axes = [
            (torch.arange(n, dtype=torch.float64) - n // 2) * v for n, v in zip(measured.psf.shape, measured.voxel_um)
        ]
        # the blur reaches this far beyond the window on each side
        self.wide = [
            (torch.arange(n + 2 * (n // 4), dtype=torch.float64) - n // 2 - n // 4) * v
            for n, v in zip(measured.psf.shape[1:], measured.voxel_um[1:])
        ]

    def __call__(self, q: Tensor) -> Tensor:
        """Voxels (Z, H, W) of parameters: paths, shift (3,), log blur (2,)."""
        path, shift, blur = q[:-5], q[-5:-2], q[-2:].exp()
        z, y, x = self.axes[0] - shift[0], self.wide[0] - shift[1], self.wide[1] - shift[2]
        sharp = torch.stack([light(path, z, y, x) for light in self.lights]).prod(0)
        rows, columns = (_smooth(a, w, s) for a, w, s in zip(self.axes[1:], self.wide, blur))
        return rows @ sharp @ columns.T


def _smooth(narrow: Tensor, wide: Tensor, sigma: Tensor) -> Tensor:
    """Matrix (narrow, wide) of a Gaussian whose rows sum to 1."""
    return torch.softmax(-0.5 * ((narrow[:, None] - wide) / sigma).square(), 1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def _fit(measured: MeasuredPSF, lights: list[_Light], optics: Optics) -> PupilFit:
    model = _Model(measured, lights)
    best, loss = min((_descend(model, measured, s * optics.wavelength_um) for s in _SPHERICAL), key=lambda r: r[1])
    with torch.no_grad():
        voxels = model(best)
    phases = (best[:-5] / optics.wavelength_um).tolist()
    found = tuple(Zernike(n, m, phase) for (n, m), phase in zip(_TERMS, phases))
    (z, y, x), (blur_y, blur_x) = best[-5:-2].tolist(), best[-2:].exp().tolist()
    fitted = replace(optics, aberrations=found)
    return PupilFit(fitted, (blur_y, blur_x), (z, y, x), voxels / voxels.sum(), 1 - loss)


def _descend(model: _Model, measured: MeasuredPSF, spherical: float) -> tuple[Tensor, float]:
    """Parameters of the highest correlation from one start, and one minus that correlation."""
    start = torch.zeros(len(_TERMS) + 5, dtype=torch.float64)
    start[_TERMS.index((4, 0))] = spherical
    start[-2:] = math.log(min(measured.voxel_um[1:]))
    q = start.requires_grad_()
    optimiser = torch.optim.LBFGS([q], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-9)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = 1 - _correlation(model(q), measured.psf)
        value.backward()
        return value

    optimiser.step(closure)
    return q.detach(), float(closure().detach())
