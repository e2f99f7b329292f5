"""Fluorescence microscopy: optics, point-spread functions, instruments, cameras."""

from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import (
    periodic_spread,
    pixel_spread,
    point_spread,
    scalar_pupil,
    vectorial_pupil,
)
from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.microscopy.widefield import PSFBlur, WidefieldBlur

__all__ = [
    "Optics",
    "PSFBlur",
    "WidefieldBlur",
    "periodic_spread",
    "pixel_spread",
    "point_spread",
    "scalar_pupil",
    "to_unit",
    "vectorial_pupil",
]
