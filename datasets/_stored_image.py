"""One image as it is stored in a TIFF, PNG or JPEG file, and the labels it gets."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sciinstruct.core import FileFormatError
from sciinstruct.datasets._image_metadata import ImageMetadata, tiff_metadata
from sciinstruct.datasets._tiff_pixels import (
    Selection,
    check_selection,
    choose_series,
    damage_is_an_error,
    drop_equal_colours,
    known_axes,
    read_planes,
    select,
)
from sciinstruct.datasets.pixel_extremes import PixelExtremes

if TYPE_CHECKING:
    import xarray
    from tifffile import TiffFile, TiffPage

_MAGIC = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
}


class StoredImage(NamedTuple):
    """Pixels of the planes that were asked for, with what the file says about all of them."""

    pixels: Any  # ndarray, or a Dask array
    axes: str  # of pixels
    lengths: dict[str, int]  # of the whole file's axes
    metadata: ImageMetadata


def read_stored(path: Path, axes: str | None, planes: Selection, series: int | None) -> StoredImage:
    """Pixels in the stored order of axes; arguments and errors are those of `read_microscopy`."""
    kind = _kind(path)
    if kind == "TIFF":
        return _read_tiff(path, axes, planes, series)
    return _read_picture(path, kind, axes, planes, series)


def read_header(path: Path, axes: str | None, series: int | None) -> tuple[dict[str, int], ImageMetadata]:
    """Length of every stored axis, and the metadata, without the pixels of a TIFF."""
    if _kind(path) != "TIFF":
        picture = read_stored(path, axes, {}, series)
        return picture.lengths, picture.metadata
    with _open_tiff(path, axes, series) as opened:
        with damage_is_an_error(path):
            metadata = tiff_metadata(opened.file, opened.series, opened.n_images, path)
        return dict(zip(opened.axes, opened.shape)), metadata


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


class _OpenTiff(NamedTuple):
    file: "TiffFile"
    series: int  # of the image among the file's
    n_images: int
    axes: str  # as stored
    shape: tuple[int, ...]


@contextlib.contextmanager
def _open_tiff(path: Path, axes: str | None, series: int | None) -> Iterator[_OpenTiff]:
    from tifffile import TiffFile

    with contextlib.ExitStack() as stack:
        with damage_is_an_error(path):
            file = stack.enter_context(TiffFile(path))
            n_images = len(file.series)
        index = choose_series(file, series, path)
        shape = tuple(file.series[index].shape)
        yield _OpenTiff(file, index, n_images, known_axes(file.series[index].axes, shape, axes, path), shape)


def _read_tiff(path: Path, axes: str | None, planes: Selection, series: int | None) -> StoredImage:
    with _open_tiff(path, axes, series) as opened:
        file, index, n_images, stored, shape = opened
        check_selection(planes, stored, shape)
        with damage_is_an_error(path):
            metadata = tiff_metadata(file, index, n_images, path)
            pixels = read_planes(file, index, stored, planes, path)
        page = file.series[index].keyframe
        _warn_about_colour_map(page, path)
        n_alpha = sum(kind in (1, 2) for kind in page.extrasamples)
    left = "".join(axis for axis in stored if not isinstance(planes.get(axis), int | np.integer))
    pixels, left = drop_equal_colours(pixels, left, n_alpha, path)
    return StoredImage(pixels, left, dict(zip(stored, shape)), metadata)


def _warn_about_colour_map(page: "TiffPage", path: Path) -> None:
    """ImageJ colours its measurements with a map; elsewhere a map means that the numbers may be no intensities."""
    how = {0: "white is 0", 3: "a colour map"}.get(int(page.photometric))
    if how is not None and not page.is_imagej:
        warnings.warn(f"{path} is to be shown with {how}: its numbers are read as they are stored", stacklevel=4)


def _read_picture(path: Path, kind: str, axes: str | None, planes: Selection, series: int | None) -> StoredImage:
    from skimage.io import imread

    if series not in (None, 0):
        raise ValueError(f"series must be 0 for {path}: a {kind} file holds one image, got {series}")
    with damage_is_an_error(path):
        pixels = imread(path)
    stored = known_axes("YX" if pixels.ndim == 2 else "YXS", pixels.shape, axes, path)
    check_selection(planes, stored, pixels.shape)
    left = "".join(axis for axis in stored if not isinstance(planes.get(axis), int | np.integer))
    n_alpha = 1 if stored == "YXS" and pixels.shape[-1] in (2, 4) else 0
    lengths = dict(zip(stored, pixels.shape))
    pixels, left = drop_equal_colours(select(pixels, stored, planes), left, n_alpha, path)
    return StoredImage(pixels, left, lengths, ImageMetadata(kind))


def data_array(image: StoredImage, planes: Selection, path: Path, extremes: PixelExtremes | None) -> "xarray.DataArray":
    """Pixels, already in the order T C Z Y X, with coordinates and attributes of the planes that were read."""
    import xarray

    metadata = _of_selection(image, planes)
    return xarray.DataArray(
        image.pixels,
        dims=list(image.axes),
        coords=_coordinates(image, metadata.channels, planes),
        name=path.stem.removesuffix(".ome"),
        attrs={
            **dataclasses.asdict(metadata),
            "saturated_pixels": extremes.saturated if extremes else None,
            "saturation_level": extremes.saturation_level if extremes else None,
            "negative_pixels": extremes.negative if extremes else None,
            "source": path.name,
        },
    )


def _of_selection(image: StoredImage, planes: Selection) -> ImageMetadata:
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


def _coordinates(image: StoredImage, channels: tuple[str, ...] | None, planes: Selection) -> dict[str, Any]:
    y, x = image.metadata.pixel_um or (None, None)
    steps = {"Y": y, "X": x, "Z": image.metadata.z_step_um, "T": image.metadata.time_step_s}
    found: dict[str, Any] = {}
    for axis, step in steps.items():
        if step is not None and axis in image.axes:
            values = np.arange(image.lengths[axis])[planes.get(axis, slice(None))] * step
            found[axis] = (axis, values, {"units": "s" if axis == "T" else "um"})
    if "C" in image.axes and channels is not None and all(channels):
        found["C"] = ("C", list(channels))
    return found
