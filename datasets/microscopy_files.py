"""Microscope images from TIFF, OME-TIFF, ImageJ hyperstacks, PNG and JPEG, with units and without guesses."""

import contextlib
import dataclasses
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sciinstruct.core import FileFormatError
from sciinstruct.datasets._image_metadata import ImageMetadata, tiff_metadata
from sciinstruct.datasets._tiff_pixels import (
    AXES,
    Selection,
    check_selection,
    choose_series,
    damage_is_an_error,
    drop_equal_colours,
    known_axes,
    read_planes,
    select,
)
from sciinstruct.datasets.pixel_extremes import PixelExtremes, check_pixels, pixel_extremes

if TYPE_CHECKING:
    import xarray
    from tifffile import TiffPage

_MAGIC = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}


class _Image(NamedTuple):
    pixels: np.ndarray
    axes: str  # of pixels
    lengths: dict[str, int]  # of the whole file's axes
    metadata: ImageMetadata


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
    path = Path(path)
    kind = _kind(path)
    if kind == "TIFF":
        image = _read_tiff(path, axes, planes or {}, series)
    else:
        image = _read_picture(path, kind, axes, planes or {}, series)
    return _labelled(image, planes or {}, path)


def _kind(path: Path) -> str:
    """Format by the first bytes: a name may be wrong."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise FileFormatError(f"{path} is empty (0 bytes)")
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    raise FileFormatError(
        f"{path} must be a TIFF, PNG or JPEG file, but starts with {head!r}: save a microscope's own format as "
        "OME-TIFF first (Fiji: Plugins > Bio-Formats > Bio-Formats Exporter)"
    )


def _read_tiff(path: Path, axes: str | None, planes: Selection, series: int | None) -> _Image:
    from tifffile import TiffFile

    with contextlib.ExitStack() as stack:
        with damage_is_an_error(path):
            file = stack.enter_context(TiffFile(path))
            n_images = len(file.series)
        index = choose_series(file, series, path)
        one = file.series[index]
        stored = known_axes(one.axes, tuple(one.shape), axes, path)
        check_selection(planes, stored, tuple(one.shape))
        with damage_is_an_error(path):
            metadata = tiff_metadata(file, index, n_images, path)
            pixels = read_planes(file, index, stored, planes, path)
        _warn_about_colour_map(one.keyframe, path)
        n_alpha = sum(kind in (1, 2) for kind in one.keyframe.extrasamples)
    left = "".join(axis for axis in stored if not isinstance(planes.get(axis), int))
    pixels, left = drop_equal_colours(pixels, left, n_alpha, path)
    return _Image(pixels, left, dict(zip(stored, one.shape)), metadata)


def _warn_about_colour_map(page: "TiffPage", path: Path) -> None:
    """ImageJ colours its measurements with a map; elsewhere a map means that the numbers may be no intensities."""
    how = {0: "white is 0", 3: "a colour map"}.get(int(page.photometric))
    if how is not None and not page.is_imagej:
        warnings.warn(f"{path} is to be shown with {how}: its numbers are read as they are stored", stacklevel=4)


def _read_picture(path: Path, kind: str, axes: str | None, planes: Selection, series: int | None) -> _Image:
    from skimage.io import imread

    if series not in (None, 0):
        raise ValueError(f"series must be 0 for {path}: a {kind} file holds one image, got {series}")
    with damage_is_an_error(path):
        pixels = imread(path)
    stored = known_axes("YX" if pixels.ndim == 2 else "YXS", pixels.shape, axes, path)
    check_selection(planes, stored, pixels.shape)
    left = "".join(axis for axis in stored if not isinstance(planes.get(axis), int))
    n_alpha = 1 if stored == "YXS" and pixels.shape[-1] in (2, 4) else 0
    lengths = dict(zip(stored, pixels.shape))
    pixels, left = drop_equal_colours(select(pixels, stored, planes), left, n_alpha, path)
    return _Image(pixels, left, lengths, ImageMetadata(kind))


def _labelled(image: _Image, planes: Selection, path: Path) -> "xarray.DataArray":
    import xarray

    dims = [axis for axis in AXES if axis in image.axes]
    pixels = np.ascontiguousarray(image.pixels.transpose([image.axes.index(axis) for axis in dims]))
    check_pixels(pixels, "".join(dims), path)
    extremes = pixel_extremes(pixels, image.metadata.significant_bits)
    _warn_about_extremes(extremes, pixels.size, path)
    metadata = _of_selection(image, planes)
    return xarray.DataArray(
        pixels,
        dims=dims,
        coords=_coordinates(image, metadata.channels, dims, planes),
        name=path.stem.removesuffix(".ome"),
        attrs={
            **dataclasses.asdict(metadata),
            "saturated_pixels": extremes.saturated,
            "saturation_level": extremes.saturation_level,
            "negative_pixels": extremes.negative,
            "source": path.name,
        },
    )


def _warn_about_extremes(extremes: PixelExtremes, n_pixels: int, path: Path) -> None:
    if extremes.saturated:
        warnings.warn(
            f"{path}: {extremes.saturated} of {n_pixels} pixels are saturated (at {extremes.saturation_level:g}): "
            "their true brightness is only known to be at least that",
            stacklevel=4,
        )
    if extremes.negative:
        warnings.warn(
            f"{path}: {extremes.negative} of {n_pixels} pixels are negative, so an offset was taken off before: a "
            "camera model needs to be told the offset that is left, not the camera's",
            stacklevel=4,
        )


def _of_selection(image: _Image, planes: Selection) -> ImageMetadata:
    """Metadata of the planes that were read; None where names do not fit the axis or planes are not evenly spaced."""
    found: dict[str, Any] = {}
    n_channels = image.lengths.get("C", 1)
    for key in ("channels", "emission_nm"):
        entries = getattr(image.metadata, key)
        if entries is not None:
            kept = np.atleast_1d(np.arange(n_channels)[planes.get("C", slice(None))])
            found[key] = tuple(entries[i] for i in kept) if len(entries) == n_channels else None
    for axis, key in {"Z": "z_step_um", "T": "time_step_s"}.items():
        step = getattr(image.metadata, key)
        steps = np.diff(np.atleast_1d(np.arange(image.lengths.get(axis, 1))[planes.get(axis, slice(None))]))
        if step is not None and steps.size:
            found[key] = abs(int(steps[0])) * step if (steps == steps[0]).all() else None
    return dataclasses.replace(image.metadata, **found)


def _coordinates(image: _Image, channels: tuple[str, ...] | None, dims: list[str], planes: Selection) -> dict[str, Any]:
    y, x = image.metadata.pixel_um or (None, None)
    steps = {"Y": y, "X": x, "Z": image.metadata.z_step_um, "T": image.metadata.time_step_s}
    found: dict[str, Any] = {}
    for axis, step in steps.items():
        if step is not None and axis in dims:
            values = np.arange(image.lengths[axis])[planes.get(axis, slice(None))] * step
            found[axis] = (axis, values, {"units": "s" if axis == "T" else "um"})
    if "C" in dims and channels is not None and all(channels):
        found["C"] = ("C", list(channels))
    return found
