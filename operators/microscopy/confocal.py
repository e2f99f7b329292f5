"""Confocal microscopes: a focused spot, or many, scan the specimen, and pinholes keep the light of their foci."""

from functools import partial
from typing import Any

from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.microscopy.camera_pixels import CameraBlur
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.spread import aperture_spread, disc_aperture, point_spread
from sciinstruct.operators.microscopy.stack import (
    StackConvolution,
    in_focus_normalised,
    lateral_window,
    stack_offsets,
)
from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.microscopy.window import flat_sides, psf_reach, psf_window
from sciinstruct.operators.padding import Boundary


def confocal_spread(
    optics: Optics,
    pixel_um: Any,
    shape: tuple[int, int],
    z_um: Any = 0.0,
    depth_um: Any = 0.0,
    *,
    pinhole_airy: float = 1.0,
    model: PupilModel = vectorial_pupil,
) -> Tensor:
    r"""Point-spread function of a point-scanning confocal microscope, :math:`h_{ex} \cdot (h_{em} * \text{pinhole})`.

    Parameters
    ----------
    optics : Optics
        With `excitation_nm`.
    pixel_um, shape, z_um, depth_um, model
        As for `sciinstruct.operators.microscopy.spread.point_spread`; a pixel is a position of the scan.
    pinhole_airy : float
        Diameter of the pinhole in Airy units 1.22 lambda_em / NA; 0 is the limit of a point.

    Returns
    -------
    Tensor, shape (H, W) or (Z, H, W), float64
        Proportional to the light detected, by the same factor for all samples and planes.

    Raises
    ------
    TypeError, ValueError
        If the excitation wavelength is missing, the pinhole is negative, and as for `point_spread`.
    """
    pinhole = disc_aperture(_diameter(optics, pinhole_airy))
    excitation = point_spread(optics.at_excitation(), pixel_um, shape, z_um, depth_um, model=model)
    return excitation * aperture_spread(optics, pixel_um, shape, pinhole, z_um, depth_um, model=model)


def spinning_disk_spread(
    optics: Optics,
    pixel_um: Any,
    shape: tuple[int, int],
    z_um: Any = 0.0,
    depth_um: Any = 0.0,
    *,
    pinhole_airy: float = 1.0,
    model: PupilModel = vectorial_pupil,
) -> Tensor:
    r"""Point-spread function of a spinning disk, :math:`h_{em} \cdot (h_{ex} * \text{pinhole} * \text{pinhole})`.

    Light passes a pinhole on its way in and the same one on its way out, and a camera sees where: a source lights up
    at the camera's point u as much as spots that pass both. Arguments and result as for :func:`confocal_spread`.

    Notes
    -----
    From integrating, over the positions s of a pinhole p in the plane of the specimen, the light
    :math:`(h_{ex} * p)(s)` that reaches the source times :math:`p(u - s) h_{em}(u)` that comes back through it.
    What neighbouring pinholes let through is left out: far from the focus it adds an even haze, of the wide-field's
    strength times the disk's open share.
    """
    pinhole = disc_aperture(_diameter(optics, pinhole_airy))
    spot = aperture_spread(
        optics.at_excitation(), pixel_um, shape, lambda ky, kx: pinhole(ky, kx).square(), z_um, depth_um, model=model
    )
    return spot * point_spread(optics, pixel_um, shape, z_um, depth_um, model=model)


class Confocal(Convolution):
    """A flat specimen in a point-scanning confocal microscope, one datum for each pixel of the latent image.

    Parameters
    ----------
    optics : Optics
        With `excitation_nm`.
    image_shape : tuple of int, (H, W) or (1, H, W)
        Shape of the latent image.
    pixel_um : float or Quantity
        Distance of two positions of the scan, um.
    boundary : str
        As for `sciinstruct.operators.microscopy.widefield.PSFBlur`.
    pinhole_airy : float
        Diameter of the pinhole in Airy units.
    radius_um : float or Quantity, optional
        Reach of the point-spread function to each side, um; four of Abbe's resolutions by default.
    z_um, depth_um, model
        As for `sciinstruct.operators.microscopy.widefield.WidefieldBlur`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, or the image cannot hold the point-spread function.

    Notes
    -----
    The point-spread function's sum is 1: x is the light that the pinhole would let through.
    """

    def __init__(
        self,
        optics: Optics,
        image_shape: tuple[int, ...],
        pixel_um: Any,
        boundary: Boundary = "valid",
        pinhole_airy: float = 1.0,
        *,
        radius_um: Any = None,
        z_um: Any = 0.0,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        spread = partial(confocal_spread, pinhole_airy=pinhole_airy, model=model)
        sides = flat_sides(image_shape)
        super().__init__(_flat(spread, optics, sides, pixel_um, radius_um, z_um, depth_um), sides, boundary)


class SpinningDisk(CameraBlur):
    """A flat specimen in a spinning-disk microscope and its camera.

    `factor` is the side of a camera pixel in pixels of the image; the other arguments are those of :class:`Confocal`.
    """

    def __init__(
        self,
        optics: Optics,
        image_shape: tuple[int, ...],
        pixel_um: Any,
        boundary: Boundary = "valid",
        factor: int = 1,
        pinhole_airy: float = 1.0,
        *,
        radius_um: Any = None,
        z_um: Any = 0.0,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        spread = partial(spinning_disk_spread, pinhole_airy=pinhole_airy, model=model)
        sides = flat_sides(image_shape)
        psf = _flat(spread, optics, sides, pixel_um, radius_um, z_um, depth_um)
        super().__init__(Convolution(psf, sides, boundary), factor)


class Confocal3D(StackConvolution):
    """A volume in a point-scanning confocal microscope, plane by plane.

    Arguments as for `sciinstruct.operators.microscopy.stack.Widefield3D`, without a camera's `factor`, and
    `pinhole_airy` as for :class:`Confocal`. The plane in focus has sum 1, the others less: that is the sectioning.
    """

    def __init__(
        self,
        optics: Optics,
        stack_shape: tuple[int, int, int],
        pixel_um: Any,
        z_step_um: Any,
        boundary: Boundary = "reflect",
        pinhole_airy: float = 1.0,
        *,
        radius_um: Any = None,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        spread = partial(confocal_spread, pinhole_airy=pinhole_airy, model=model)
        psf = _deep(spread, optics, stack_shape, pixel_um, z_step_um, boundary, radius_um, depth_um)
        super().__init__(psf, stack_shape, boundary)


class SpinningDisk3D(CameraBlur):
    """A volume in a spinning-disk microscope and its camera; arguments as for :class:`Confocal3D`, and `factor`."""

    def __init__(
        self,
        optics: Optics,
        stack_shape: tuple[int, int, int],
        pixel_um: Any,
        z_step_um: Any,
        boundary: Boundary = "reflect",
        factor: int = 1,
        pinhole_airy: float = 1.0,
        *,
        radius_um: Any = None,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        spread = partial(spinning_disk_spread, pinhole_airy=pinhole_airy, model=model)
        psf = _deep(spread, optics, stack_shape, pixel_um, z_step_um, boundary, radius_um, depth_um)
        super().__init__(StackConvolution(psf, stack_shape, boundary), factor)


def _diameter(optics: Optics, pinhole_airy: float) -> float:
    """Diameter of the pinhole in the specimen, um."""
    size = to_unit(pinhole_airy, "", "pinhole_airy")
    if size < 0:
        raise ValueError(f"pinhole_airy must not be negative, got {size}; 0 is a point, 1 the usual compromise")
    return size * optics.airy_unit_um


def _flat(
    spread: partial[Tensor],
    optics: Optics,
    sides: tuple[int, int],
    pixel_um: Any,
    radius_um: Any,
    z_um: Any,
    depth_um: Any,
) -> Tensor:
    """Point-spread function of one plane, (kh, kw)."""
    pixel, z = to_unit(pixel_um, "um", "pixel_um"), to_unit(z_um, "um", "z_um")
    check_positive("pixel_um", pixel)
    window = psf_window(psf_reach(optics, pixel, radius_um, z), sides, pixel)
    return spread(optics, pixel, window, z, depth_um)


def _deep(
    spread: partial[Tensor],
    optics: Optics,
    stack_shape: tuple[int, int, int],
    pixel_um: Any,
    z_step_um: Any,
    boundary: Boundary,
    radius_um: Any,
    depth_um: Any,
) -> Tensor:
    """Point-spread function of all distances of two planes, (2 Z - 1, kh, kw), the middle one of sum 1."""
    pixel = to_unit(pixel_um, "um", "pixel_um")
    check_positive("pixel_um", pixel)
    z = stack_offsets(optics, stack_shape, z_step_um)
    window = lateral_window(optics, stack_shape, pixel, boundary, radius_um, float(z[-1]))
    return in_focus_normalised(spread(optics, pixel, window, z, depth_um), len(z) // 2)
