"""How far a computed point-spread function reaches, and whether the image can hold it."""

import math
from typing import Any

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.convolution import with_channel
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.units import to_unit

_RESOLUTIONS = 4  # default reach in focus: it holds about 92 % of the light


def flat_sides(image_shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of an image of one channel; raises ValueError on more."""
    channels, height, width = with_channel(image_shape)
    if channels != 1:
        raise ValueError(f"image_shape must be (H, W) or (1, H, W), got {tuple(image_shape)}; one colour at a time")
    return height, width


def psf_reach(optics: Optics, pixel_um: float, radius_um: Any = None, defocus_um: float = 0.0) -> int:
    """Pixels from the centre of a point-spread function to its edge.

    `radius_um` over the pixel, rounded up; where it is not given, four of Abbe's resolutions and the cone of light at
    the farthest plane, `defocus_um` away.
    """
    if radius_um is None:
        radius = _RESOLUTIONS * optics.resolution_um + abs(defocus_um) * optics.cone_slope
    else:
        radius = to_unit(radius_um, "um", "radius_um")
        check_positive("radius_um", radius)
    return math.ceil(radius / pixel_um - 1e-9)


def psf_window(reach: int, sides: tuple[int, int], pixel_um: float) -> tuple[int, int]:
    """Shape of a point-spread function, refused before it is computed if the image cannot hold it."""
    side = 2 * reach + 1
    if side > min(sides):
        raise ValueError(
            f"the point-spread function needs {side} pixels a side and the image has {tuple(sides)}: give a larger "
            f"image or a radius_um of at most {(min(sides) - 1) // 2 * pixel_um:.3g}"
        )
    return side, side
