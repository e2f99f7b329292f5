"""Fluorescence microscopy: optics, point-spread functions, instruments, cameras."""

from sciinstruct.operators.microscopy.camera import Camera
from sciinstruct.operators.microscopy.deconvolution import richardson_lucy, wiener
from sciinstruct.operators.microscopy.noise import (
    ExactPoissonGaussian,
    MultipliedNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    ShiftedPoissonNoise,
)
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.photon_transfer import (
    PhotonTransfer,
    PixelMaps,
    calibrate_pixels,
    estimate_from_single_image,
    fit_photon_transfer,
)
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
    "Camera",
    "ExactPoissonGaussian",
    "MultipliedNoise",
    "Optics",
    "PSFBlur",
    "PhotonTransfer",
    "PixelMaps",
    "PoissonGaussianNoise",
    "PoissonNoise",
    "ShiftedPoissonNoise",
    "WidefieldBlur",
    "calibrate_pixels",
    "estimate_from_single_image",
    "fit_photon_transfer",
    "periodic_spread",
    "pixel_spread",
    "point_spread",
    "richardson_lucy",
    "scalar_pupil",
    "to_unit",
    "vectorial_pupil",
    "wiener",
]
