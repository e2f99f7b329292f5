"""Light-sheet microscopy: only a thin sheet around the focal plane is lit."""

from typing import Any

import torch

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.microscopy.camera_pixels import CameraBlur
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.stack import (
    StackConvolution,
    in_focus_normalised,
    lateral_spread,
    stack_offsets,
)
from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.padding import Boundary


class LightSheet(CameraBlur):
    r"""Focal stack of a volume whose focal plane alone is lit, :math:`h(z) \exp(-z^2 / 2 s^2)`.

    Parameters
    ----------
    optics : Optics
        Of the detection.
    stack_shape, pixel_um, z_step_um
        As for `sciinstruct.operators.microscopy.stack.Widefield3D`; the sheet moves with the focus.
    sheet_sigma_um : float or Quantity
        Standard deviation s of the sheet's profile along z, um: 1/2.35 of its full width at half maximum.
    boundary, factor, radius_um, depth_um, model
        As for `sciinstruct.operators.microscopy.stack.Widefield3D`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, not positive, or the image cannot hold the point-spread function.

    Notes
    -----
    The plane in focus has sum 1: x is the light that a source sends when the sheet's middle is on it. The sheet is
    as thick everywhere in the field, which holds over the Rayleigh length of its beam, 4 pi n s^2 / lambda.
    """

    def __init__(
        self,
        optics: Optics,
        stack_shape: tuple[int, int, int],
        pixel_um: Any,
        z_step_um: Any,
        sheet_sigma_um: Any,
        boundary: Boundary = "reflect",
        factor: int = 1,
        *,
        radius_um: Any = None,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        sigma = to_unit(sheet_sigma_um, "um", "sheet_sigma_um")
        check_positive("sheet_sigma_um", sigma)
        z = stack_offsets(optics, stack_shape, z_step_um)
        lit = torch.exp(-0.5 * (z / optics.stage_ratio / sigma).square())
        farthest = min(float(z[-1]), 3 * sigma * optics.stage_ratio)  # what lies beyond is dark
        spread = lateral_spread(optics, stack_shape, pixel_um, boundary, radius_um, farthest, model)
        psf = spread(z, to_unit(depth_um, "um", "depth_um")) * lit[:, None, None]
        super().__init__(StackConvolution(in_focus_normalised(psf, len(z) // 2), stack_shape, boundary), factor)
