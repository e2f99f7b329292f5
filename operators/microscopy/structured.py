"""Structured illumination with real optics: raw frames of a specimen under stripes of known or fitted positions."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.operator import LinearComposition, LinearOperator
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.microscopy.camera_pixels import CameraBlur
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.microscopy.widefield import WidefieldBlur
from sciinstruct.operators.padding import Boundary
from sciinstruct.operators.sim import stripe_patterns


class Stripes(NamedTuple):
    r"""Illumination :math:`1 + m_a \cos(2\pi k_a \cdot r + \phi_a + 2\pi j / J)` for every direction a, phase j of J.

    r is measured in um from the centre of the camera's first pixel.
    """

    wave_vectors_per_um: Tensor  # k_a, (A, 2): along rows and along columns
    shift: Tensor  # phi_a, (A,), radians
    modulation: Tensor  # m_a, (A,), 0 to 1


def even_stripes(line_period_um: Any, angles: int = 3, modulation: float = 0.9, first_angle_rad: Any = 0.0) -> Stripes:
    """Stripes of one period in directions spread evenly over half a turn.

    Parameters
    ----------
    line_period_um : float or Quantity
        Distance of two bright lines in the specimen, um.
    angles : int
        Number of directions.
    modulation : float
        Contrast of the stripes, between 0 and 1.
    first_angle_rad : float or Quantity
        Direction of the first wave vector, from the columns' axis x towards y.

    Raises
    ------
    ValueError
        If the period is not positive, there is no direction, or the contrast is not between 0 and 1.
    """
    period, first = to_unit(line_period_um, "um", "line_period_um"), to_unit(first_angle_rad, "rad", "first_angle_rad")
    check_positive("line_period_um", period)
    if angles < 1 or not 0 <= modulation <= 1:
        raise ValueError(f"angles must be at least 1 and modulation between 0 and 1, got {angles} and {modulation}")
    turn = first + math.pi * torch.arange(angles, dtype=torch.float64) / angles
    even = torch.ones_like(turn)
    return Stripes(torch.stack([turn.sin(), turn.cos()], 1) / period, 0 * even, modulation * even)


class SIM(LinearComposition):
    r"""Raw frames of structured illumination, :math:`y_{aj} = S_r\,(h * [x\,(1 + m_a \cos(\ldots))])`.

    Parameters
    ----------
    optics : Optics
        Objective, emission wavelength and media; with `excitation_nm`, stripes finer than the objective can make are
        refused.
    image_shape : tuple of int, (H, W) or (1, H, W)
        Shape of the latent image.
    pixel_um : float or Quantity
        Side of a latent pixel, um.
    stripes : Stripes
        `even_stripes(line_period_um)`, or those fitted to data by
        `sciinstruct.operators.microscopy.structured_fit.fit_stripes`.
    phases : int
        Frames of each direction, at least three to tell the side bands from the centre.
    boundary, factor, radius_um, z_um, depth_um, model
        As for `sciinstruct.operators.microscopy.widefield.WidefieldBlur`.

    Raises
    ------
    TypeError, ValueError
        As for `WidefieldBlur`; and if the stripes are finer than the objective or the latent pixels allow, or a number
        of phases below one is asked.

    Notes
    -----
    (B, 1, H, W) -> (B, A J, H', W'), the phases of one direction together. Their mean is the wide-field image.
    """

    def __init__(
        self,
        optics: Optics,
        image_shape: tuple[int, ...],
        pixel_um: Any,
        stripes: Stripes,
        phases: int = 3,
        boundary: Boundary = "valid",
        factor: int = 1,
        *,
        radius_um: Any = None,
        z_um: Any = 0.0,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        wide = WidefieldBlur(
            optics, image_shape, pixel_um, boundary, factor,
            radius_um=radius_um, z_um=z_um, depth_um=depth_um, model=model,
        )  # fmt: skip
        _check_stripes(stripes, optics, wide.pixel_um)
        if phases < 1:
            raise ValueError(f"phases must be at least 1, got {phases}; three or more separate the side bands")
        rows, columns = (
            wide.pixel_um * (torch.arange(n, dtype=torch.float64) - margin - (factor - 1) / 2)
            for n, margin in zip(wide.domain_shape[1:], wide.margin)
        )
        k, shift, modulation = (t.double() for t in stripes)
        illumination = Illumination(stripe_patterns(k, rows, columns, phases, modulation, shift))
        blur = CameraBlur(Convolution(wide.psf, illumination.range_shape, boundary), factor)
        super().__init__(blur, illumination)
        self.stripes, self.phases, self.margin, self.factor = stripes, phases, blur.margin, blur.factor


class Illumination(LinearOperator):
    """One frame for each pattern, the image times the pattern: (B, 1, H, W) -> (B, F, H, W).

    Parameters
    ----------
    patterns : Tensor, shape (F, H, W)
        Brightness of the illumination, 1 being the even one.
    """

    patterns: Tensor

    def __init__(self, patterns: Tensor) -> None:
        super().__init__()
        self.register_buffer("patterns", patterns)
        self.domain_shape, self.range_shape = (1, *patterns.shape[1:]), tuple(patterns.shape)

    def apply(self, x: Tensor) -> Tensor:
        """Image under every pattern."""
        return x * self.patterns.to(x.device, x.dtype)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Sum of the frames, each times its pattern."""
        return (y * self.patterns.to(y.device, y.dtype)).sum(1, keepdim=True)


def _check_stripes(stripes: Stripes, optics: Optics, pixel_um: float) -> None:
    angles = len(stripes.wave_vectors_per_um)
    shapes = [tuple(t.shape) for t in stripes]
    if angles < 1 or shapes != [(angles, 2), (angles,), (angles,)]:
        raise ValueError(f"stripes must have shapes (A, 2), (A,) and (A,), got {shapes}")
    if not all(torch.isfinite(t).all() for t in stripes):
        raise ValueError("stripes must be finite; the fit that made them has failed")
    if (stripes.modulation < 0).any() or (stripes.modulation > 1).any():
        raise ValueError(f"stripes must have a modulation between 0 and 1, got {stripes.modulation.tolist()}")
    finest = float(stripes.wave_vectors_per_um.norm(dim=1).max())
    if optics.excitation_nm is not None and finest > optics.at_excitation().cutoff_per_um * (1 + 1e-9):
        raise ValueError(
            f"the stripes' period must be at least lambda_ex / (2 NA) = {optics.at_excitation().resolution_um:.4g} um, "
            f"got {1 / finest:.4g}"
        )
    if finest * pixel_um > 0.5:
        raise ValueError(
            f"pixel_um must be at most half the stripes' period, {0.5 / finest:.4g}, got {pixel_um:.4g}; raise factor"
        )
