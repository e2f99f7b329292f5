"""What a point source sends through the pupil of a microscope: scalar and vectorial fields on a grid of rays."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.zernike import zernike_polynomial


class Rays(NamedTuple):
    """The pupil on a grid of frequencies, each entry (H, W) in the layout of ``torch.fft.fft2``."""

    weight: Tensor  # share of the cell inside the aperture, 0 to 1
    sine: Tensor  # s = lambda |k| = n sin(theta), at most NA
    along_x: Tensor  # cosine of the azimuth
    along_y: Tensor  # sine of the azimuth
    immersion: Tensor  # ci = sqrt(ni^2 - s^2)
    sample: Tensor  # cs = sqrt(ns^2 - s^2), complex: imaginary beyond the sample's critical angle
    aberration: Tensor  # phase that the objective adds, rad


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
    ni, ns = optics.immersion_index, optics.source_index
    ci, cs = rays.immersion, rays.sample
    ts, tp = 2 * cs / (cs + ci), 2 * cs / (ni / ns * cs + ns / ni * ci)
    radial, axial = tp * cs / ns, -tp * rays.sine / ns
    x, y = rays.along_x, rays.along_y
    cross = (radial - ts) * x * y
    fields = [ts * y * y + radial * x * x, cross, axial * x, cross, ts * x * x + radial * y * y, axial * y]
    return torch.stack(fields) * (ci / ni).rsqrt()


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
    ns = optics.source_index
    immersion = (optics.immersion_index**2 - sine.square()).sqrt()
    sample = torch.sqrt((ns**2 - sine.square()).to(torch.complex128))
    aberration = torch.zeros_like(sine)
    for n, m, phase in optics.aberrations:
        polynomial = zernike_polynomial(n, m, sine / optics.numerical_aperture, along_x, along_y)
        aberration = aberration + phase * polynomial
    return Rays(weight, sine, along_x, along_y, immersion, sample, aberration)
