"""Microscope images from TIFF, OME-TIFF, ImageJ hyperstacks, PNG and JPEG, with units and without guesses."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciinstruct.datasets._image_metadata import CONTENTS
from sciinstruct.datasets._stored_image import StoredImage, data_array, read_header, read_stored
from sciinstruct.datasets._tiff_pixels import AXES, Selection, check_selection
from sciinstruct.datasets.pixel_extremes import PixelExtremes, check_pixels, pixel_extremes

if TYPE_CHECKING:
    import xarray


def read_microscopy(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    planes: Selection | None = None,
    series: int | None = None,
) -> "xarray.DataArray":
    """Read a microscope image with its axes, units and names; what the file does not say stays None.

    Parameters
    ----------
    path : path
        TIFF, OME-TIFF, ImageJ hyperstack, PNG or JPEG (told apart by their first bytes).
    axes : str, optional
        One letter of T, C, Z, Y, X per stored axis, for a file that does not say what its axes are or says it wrongly;
        ``"YXC"`` reads the colours of a picture as channels.
    planes : dict, optional
        What to read along T, C, Z: ``{"T": 0, "Z": slice(3, 9), "C": [0, 2]}``; all by default. A single number drops
        its axis. Other planes are not loaded.
    series : int, optional
        Which image, where a file holds several.

    Returns
    -------
    xarray.DataArray
        Dims are those of T, C, Z, Y, X that the file has, in this order; dtype as stored. Coordinates: ``Y``, ``X``,
        ``Z`` in um and ``T`` in s where the file gives the step, ``C`` channel names where there are names. Attributes,
        None where unknown: ``pixel_um`` (y, x), ``z_step_um``, ``time_step_s``, ``channels``, ``emission_nm``,
        ``significant_bits``, ``description``, ``optics``, ``camera``, ``provenance`` (dicts that `write_ome_tiff`
        stored), ``saturated_pixels``, ``saturation_level``, ``negative_pixels``, ``file_format``, ``source``.

    Raises
    ------
    FileFormatError
        If the file is absent, empty, truncated, of another format, holds several images, has axes it does not explain,
        colours that differ, pixels that are NaN or infinite, or a compression that needs ``imagecodecs``.
    ValueError
        If `axes`, `planes` or `series` do not fit the file.

    Warns
    -----
    UserWarning
        If pixels are saturated or negative, or a size in the file is not usable (72 or 96 dpi, a unit of ``pixel``).
    """
    path, planes = Path(path), planes or {}
    image = read_stored(path, axes, planes, series)
    dims = [axis for axis in AXES if axis in image.axes]
    pixels = np.ascontiguousarray(image.pixels.transpose([image.axes.index(axis) for axis in dims]))
    check_pixels(pixels, "".join(dims), path)
    extremes = pixel_extremes(pixels, image.metadata.significant_bits)
    if CONTENTS not in (image.metadata.provenance or {}):  # a result may well be negative
        _warn_about_extremes(extremes, pixels.size, path)
    return data_array(image._replace(pixels=pixels, axes="".join(dims)), planes, path, extremes)


def open_microscopy(
    path: str | os.PathLike[str], *, axes: str | None = None, series: int | None = None
) -> "xarray.DataArray":
    """Open a microscope image whose planes are read only when they are computed, one Dask block per plane.

    Parameters
    ----------
    path, axes, series
        As for `read_microscopy`.

    Returns
    -------
    xarray.DataArray
        As `read_microscopy` gives, backed by Dask; the counts of saturated and negative pixels are None.

    Raises
    ------
    FileFormatError, ValueError
        As `read_microscopy` does, for its first plane. Planes behind it are checked as they are read.
    ModuleNotFoundError
        If Dask is not installed: ``pip install 'sciinstruct[multi]'``.

    Notes
    -----
    Dask's workers read `path` themselves: on a cluster it must lie where they all see it.
    """
    path = Path(path).absolute()
    try:
        from dask.array import map_blocks
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("open_microscopy needs Dask: pip install 'sciinstruct[multi]'") from error
    lengths, metadata = read_header(path, axes, series)
    leading = "".join(axis for axis in AXES if axis in lengths and axis not in "YX")
    first = read_microscopy(path, axes=axes, series=series, planes=dict.fromkeys(leading, 0))
    chunks = (*((1,) * lengths[axis] for axis in leading), *((size,) for size in first.shape))
    pixels = map_blocks(
        _read_block, chunks=chunks, dtype=first.dtype, path=path, axes=axes, series=series, leading=leading
    )
    return data_array(StoredImage(pixels, leading + "YX", lengths, metadata), {}, path, None)


def read_layout(
    path: str | os.PathLike[str],
    *,
    axes: str | None = None,
    planes: Selection | None = None,
    series: int | None = None,
) -> "xarray.DataArray":
    """Read axes, coordinates and attributes of a microscope image, not its pixels, which are NaN in the result.

    Parameters
    ----------
    path, axes, planes, series
        As for `read_microscopy`.

    Returns
    -------
    xarray.DataArray
        As `read_microscopy` gives, without memory of its own for the pixels.

    Raises
    ------
    FileFormatError, ValueError
        As `read_microscopy` does for the file's head; damaged pixels are noticed when they are read.
    """
    path, planes = Path(path), planes or {}
    lengths, metadata = read_header(path, axes, series)
    dims = "".join(axis for axis in AXES if axis in lengths)
    check_selection(planes, dims, tuple(lengths[axis] for axis in dims))
    kept = {axis: np.arange(lengths[axis])[planes.get(axis, slice(None))] for axis in dims}
    left = "".join(axis for axis in dims if kept[axis].ndim)
    nothing = np.broadcast_to(np.float32(np.nan), tuple(len(kept[axis]) for axis in left))
    return data_array(StoredImage(nothing, left, lengths, metadata), planes, path, None)


def _read_block(
    *, path: Path, axes: str | None, series: int | None, leading: str, block_id: tuple[int, ...]
) -> np.ndarray:
    planes = dict(zip(leading, block_id))
    plane = read_microscopy(path, axes=axes, series=series, planes=planes).values
    return plane.reshape((1,) * len(leading) + plane.shape)


def _warn_about_extremes(extremes: PixelExtremes, n_pixels: int, path: Path) -> None:
    if extremes.saturated:
        warnings.warn(
            f"{path}: {extremes.saturated} of {n_pixels} pixels are saturated (at {extremes.saturation_level:g}): "
            "their true brightness is only known to be at least that",
            stacklevel=3,
        )
    if extremes.negative:
        warnings.warn(
            f"{path}: {extremes.negative} of {n_pixels} pixels are negative, so an offset was taken off before: a "
            "camera model needs to be told the offset that is left, not the camera's",
            stacklevel=3,
        )
