"""Pixels that a noise model cannot explain: saturated, negative, not a number."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sciinstruct.core import FileFormatError

_CAMERA_BITS = (8, 10, 12, 14, 16)


class PixelExtremes(NamedTuple):
    """How many pixels lie at the ends of what was measured."""

    saturated: int
    saturation_level: float | None
    negative: int


def saturation_level(pixels: np.ndarray, significant_bits: int | None = None) -> float | None:
    """Value at which `pixels` clip, or None where nothing says so.

    Parameters
    ----------
    pixels : ndarray
        Raw counts, any shape.
    significant_bits : int, optional
        Bits of the camera, where the file says so.

    Returns
    -------
    float or None
        ``2**significant_bits - 1`` where that is below the top of the type (many programs write the type's own bits);
        else, for integers, the largest pixel if it is exactly the top of an 8, 10, 12, 14 or 16-bit camera, or else the
        top of the type. None for floating point.
    """
    if not np.issubdtype(pixels.dtype, np.integer):
        return None
    if significant_bits is not None and significant_bits < 8 * pixels.dtype.itemsize:
        return float(2**significant_bits - 1)
    largest = int(pixels.max())
    if any(largest == 2**bits - 1 for bits in _CAMERA_BITS):
        return float(largest)
    return float(np.iinfo(pixels.dtype).max)


def pixel_extremes(pixels: np.ndarray, significant_bits: int | None = None) -> PixelExtremes:
    """Count saturated and negative pixels.

    Parameters
    ----------
    pixels : ndarray
        Raw counts, any shape.
    significant_bits : int, optional
        Bits of the camera, where the file says so.

    Examples
    --------
    >>> pixel_extremes(np.array([0, 7, 4095, 4095], dtype=np.uint16))
    PixelExtremes(saturated=2, saturation_level=4095.0, negative=0)
    """
    level = saturation_level(pixels, significant_bits)
    signed = not np.issubdtype(pixels.dtype, np.unsignedinteger)
    return PixelExtremes(
        saturated=0 if level is None else int((pixels >= level).sum()),
        saturation_level=level,
        negative=int((pixels < 0).sum()) if signed and pixels.dtype != bool else 0,
    )


def check_pixels(pixels: np.ndarray, dims: str, path: Path) -> None:
    """Refuse pixels that are no real finite numbers.

    Raises
    ------
    FileFormatError
        If there are no pixels, they are complex, or some are NaN or infinite: says how many and where the first is.
    """
    if pixels.size == 0:
        raise FileFormatError(f"{path} holds no pixels: its shape is {pixels.shape}")
    if np.iscomplexobj(pixels):
        raise FileFormatError(f"{path} must hold real numbers, got {pixels.dtype}: save its magnitude or its parts")
    if not np.issubdtype(pixels.dtype, np.floating):
        return
    bad = ~np.isfinite(pixels)
    if bad.any():
        first = ", ".join(f"{axis}={i}" for axis, i in zip(dims, np.unravel_index(int(bad.argmax()), bad.shape)))
        raise FileFormatError(
            f"{path} must have finite pixels, got {int(bad.sum())} that are NaN or infinite, the first at {first}: "
            "choose other planes, crop, or fill them and mask them in the model"
        )
