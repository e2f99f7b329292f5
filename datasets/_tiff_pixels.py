"""Pixels of a TIFF file: axes that are known, planes that were asked for, codecs that are there, nothing missing."""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciinstruct.core import FileFormatError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

AXES = "TCZYX"  # the order in which images are handed out
Selection = Mapping[str, int | slice | Sequence[int]]
_DAMAGE = ("missing data", "corrupted", "failed to reshape")


class _Remarks(logging.Handler):
    """Keeps what is logged from this thread; other files may be read beside this one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.records.append(record)


@contextlib.contextmanager
def damage_is_an_error(path: Path) -> Iterator[None]:
    """Turn what tifffile only logs into an error: it fills missing planes with zeros and drops those cut off.

    Raises
    ------
    FileFormatError
        If tifffile or a codec fails or tifffile reports damage. Its other remarks become warnings.
    """
    remarks = _Remarks()
    log = logging.getLogger("tifffile")
    log.addHandler(remarks)
    try:
        yield
    except (FileFormatError, MemoryError, Warning):
        raise
    except Exception as error:  # tifffile, Pillow and zlib have exceptions of their own
        raise FileFormatError(f"{path} is truncated or damaged: {str(error) or repr(error)}") from error
    finally:
        log.removeHandler(remarks)
    for remark in remarks.records:
        text = remark.getMessage()
        if remark.levelno >= logging.ERROR or any(word in text.lower() for word in _DAMAGE):
            raise FileFormatError(f"{path} is truncated or damaged: {text}")
        warnings.warn(f"{path}: {text}", stacklevel=3)


def choose_series(file: "TiffFile", wanted: int | None, path: Path) -> int:
    """Index of the one image to read; raises FileFormatError if there are several and none was named."""
    images = file.series
    if not images or not any(one.shape for one in images):
        raise FileFormatError(f"{path} is a TIFF file without an image: it is truncated or damaged")
    if wanted is None and len(images) == 1:
        return 0
    listed = "; ".join(f"{i}: {one.axes} {tuple(one.shape)}" for i, one in enumerate(images[:8]))
    if wanted is None:
        raise FileFormatError(f"{path} holds {len(images)} images ({listed}): choose one with series=0")
    if not 0 <= wanted < len(images):
        raise ValueError(f"series must be from 0 to {len(images) - 1} for {path} ({listed}), got {wanted}")
    return wanted


def known_axes(stored: str, shape: tuple[int, ...], given: str | None, path: Path) -> str:
    """One letter of T, C, Z, Y, X or S (colour samples) per stored axis.

    Raises
    ------
    FileFormatError
        If the file does not say what an axis is and `given` does not either.
    ValueError
        If `given` does not fit the stored array.
    """
    if given is not None:
        letters = given.upper()
        if len(letters) != len(shape) or len(set(letters)) != len(letters) or set(letters) - set(AXES):
            raise ValueError(
                f"axes must name each of the {len(shape)} axes of {path}, shape {shape}, with another letter of "
                f"{AXES}, got {given!r}"
            )
        stored = letters
    unknown = [axis for axis in stored if axis not in AXES + "S"]
    if unknown:
        spare = iter([axis for axis in "ZTC" if axis not in stored] * len(unknown))
        example = "".join(next(spare) if axis in unknown else axis for axis in stored)
        raise FileFormatError(
            f"{path} has axes {stored!r} of shape {shape} and does not say what {', '.join(unknown)} is: pass "
            f"axes={example!r} or what they are (T time, C channel, Z depth, Y rows, X columns)"
        )
    if "Y" not in stored or "X" not in stored:
        raise FileFormatError(f"{path} must hold an image with axes Y and X, got axes {stored!r} of shape {shape}")
    return stored


def check_selection(selection: Selection, axes: str, shape: tuple[int, ...]) -> None:
    """Refuse planes that are not there."""
    for axis, which in selection.items():
        if axis not in axes or axis not in "TCZ":
            has = ", ".join(a for a in axes if a in "TCZ") or "none"
            raise ValueError(f"planes must select along axes of the file ({has}), got {axis!r}")
        length = shape[axes.index(axis)]
        try:
            found = np.arange(length)[which]
        except IndexError as error:
            raise ValueError(f"planes[{axis!r}] must be below {length}, got {which!r}") from error
        if np.size(found) == 0:
            raise ValueError(f"planes[{axis!r}] selects nothing of {length}: {which!r}")


def select(pixels: np.ndarray, axes: str, selection: Selection) -> np.ndarray:
    """Planes of an array; slices first, so that a memory map is only read where it must be."""
    plain = tuple(selection[a] if isinstance(selection.get(a), slice) else slice(None) for a in axes)
    pixels = pixels[plain]
    for position in reversed(range(len(axes))):  # from the back: a single index drops its axis
        which = selection.get(axes[position])
        if which is not None and not isinstance(which, slice):
            pixels = pixels[(slice(None),) * position + (which,)]
    return pixels


def read_planes(file: "TiffFile", series: int, axes: str, selection: Selection, path: Path) -> np.ndarray:
    """Selected planes in the stored order of axes, in memory, in the byte order of this machine."""
    one = file.series[series]
    if one.dataoffset is not None and not one.is_multifile:
        dtype = one.dtype.newbyteorder(file.byteorder)
        stored = np.memmap(path, dtype, mode="r", offset=one.dataoffset, shape=tuple(one.shape))
        pixels = np.array(select(stored, axes, selection))
    else:
        pixels = _decode(file, one, axes, selection, path)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _decode(file: "TiffFile", one: "TiffPageSeries", axes: str, selection: Selection, path: Path) -> np.ndarray:
    """Selected planes, reading no other pages where every page is one plane."""
    plane = tuple(one.keyframe.shape)
    leading = tuple(one.shape)[: len(one.shape) - len(plane)]
    paged = one.shape[len(leading) :] == plane and len(one.pages) == int(np.prod(leading))
    if not paged or set(selection) - set(axes[: len(leading)]):
        whole = _decode_pages(file, one, list(range(len(one.pages))), path)
        return select(whole.reshape(one.shape), axes, selection)
    wanted = select(np.arange(len(one.pages)).reshape(leading), axes[: len(leading)], selection)
    pages = _decode_pages(file, one, np.ravel(wanted).tolist(), path)
    return pages.reshape(np.shape(wanted) + plane)


def _decode_pages(file: "TiffFile", one: "TiffPageSeries", pages: list[int], path: Path) -> np.ndarray:
    try:
        return file.asarray(key=pages, series=one)
    except (ValueError, ImportError, KeyError) as error:
        codec = getattr(one.keyframe.compression, "name", f"method {one.keyframe.compression}")
        if not (isinstance(error, ImportError) or "imagecodecs" in str(error)):
            raise
        if codec == "LZW":  # Pillow brings this one
            return _decode_with_pillow(path, [page.index for i in pages if (page := one.pages[i]) is not None])
        raise FileFormatError(
            f"{path} is compressed with {codec}, which needs another package: pip install imagecodecs "
            "(or pip install 'sciinstruct[tiff]')"
        ) from error


def _decode_with_pillow(path: Path, pages: list[int]) -> np.ndarray:
    from PIL import Image

    planes = []
    with Image.open(path) as image:
        for page in pages:
            image.seek(page)
            planes.append(np.asarray(image))
    return np.stack(planes)


def drop_equal_colours(pixels: np.ndarray, axes: str, n_alpha: int, path: Path) -> tuple[np.ndarray, str]:
    """Take colour samples (axis S) as one grey image, if they are equal; transparency is left out.

    Raises
    ------
    FileFormatError
        If the colours differ: which of them is the measurement, only the user knows.
    """
    if "S" not in axes:
        return pixels, axes
    position = axes.index("S")
    colours = np.moveaxis(pixels, position, 0)
    colours = colours[: len(colours) - n_alpha] if len(colours) > n_alpha else colours
    if all(np.array_equal(colours[0], other) for other in colours[1:]):
        return np.ascontiguousarray(colours[0]), axes.replace("S", "")
    as_channels = axes.replace("S", "C") if "C" not in axes else None
    advice = f", or read them as channels with axes={as_channels!r}" if as_channels else ""
    raise FileFormatError(
        f"{path} is a colour image ({len(colours)} different samples per pixel), not counts of a camera: split its "
        f"channels (Fiji: Image > Color > Split Channels) and save the one that was measured{advice}"
    )
