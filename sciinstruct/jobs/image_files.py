"""Images of FITS, TIFF and npy files as a batch, and files of the same kind from a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core import FileFormatError, atomic_path

FITS, TIFF, NPY = (".fits", ".fit"), (".tif", ".tiff"), (".npy",)
_KINDS = ", ".join((*FITS, *TIFF, *NPY))
_SCALING = ("BSCALE", "BZERO", "BLANK")  # of stored integers; results are floats


@dataclass(frozen=True)
class ImageFile:
    """Images of one file, in its own values.

    Parameters
    ----------
    path : Path
        Where they were read from.
    images : Tensor, shape (N, C, H, W), float32
        One row per plane of the file.
    write : callable
        ``write(path, images, history)`` writes a batch of this shape as a file of the same kind, axes and header.
    """

    path: Path
    images: Tensor
    write: Callable[[Path, Tensor, str], None]


def read_image_file(path: Path, channels: int) -> ImageFile:
    """Read every plane of a file as an image of `channels` channels.

    Parameters
    ----------
    path : Path
        ``.fits``, ``.tif``, ``.npy``: (..., H, W). With several channels, the axis before H.
    channels : int
        Of the prior.

    Raises
    ------
    FileFormatError
        If the file is missing, of another kind or damaged, holds no image or one of other axes, or pixels that are NaN
        or infinite.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise FileFormatError(f"no such file: {path}; expected one of {_KINDS}")
    if suffix in FITS:
        pixels, write = _read_fits(path)
    elif suffix in TIFF:
        pixels, write = _read_tiff(path)
    elif suffix in NPY:
        pixels, write = _read_npy(path)
    else:
        raise FileFormatError(f"cannot read {path}: expected a file that ends in {_KINDS}")
    return ImageFile(path, _batch(pixels, channels, path), write)


def _batch(pixels: np.ndarray, channels: int, path: Path) -> Tensor:
    """(..., H, W), or (..., C, H, W) for several channels, as float32 (N, C, H, W)."""
    if pixels.dtype.kind not in "fiub" or pixels.ndim < 2 or not pixels.size:
        raise FileFormatError(f"{path} must hold real images (..., H, W), got {pixels.dtype} of shape {pixels.shape}")
    if channels > 1 and (pixels.ndim < 3 or pixels.shape[-3] != channels):
        raise FileFormatError(
            f"{path} must hold images of the prior's {channels} channels, (..., {channels}, H, W), got {pixels.shape}"
        )
    bad = int((~np.isfinite(pixels)).sum())
    if bad:
        raise FileFormatError(
            f"{path} holds {bad} pixels that are NaN or infinite: fill them first, or reconstruct them with a mask "
            "(sciinstruct.operators.mask), which says how uncertain they are"
        )
    return torch.from_numpy(pixels.astype(np.float32)).reshape(-1, channels, *pixels.shape[-2:])


def _read_npy(path: Path) -> tuple[np.ndarray, Callable[[Path, Tensor, str], None]]:
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"cannot read {path}: it is damaged, or holds Python objects, not numbers") from error

    def write(target: Path, images: Tensor, history: str) -> None:
        with atomic_path(target) as temporary:
            np.save(temporary, images.reshape(pixels.shape).numpy())

    return pixels, write


def _read_tiff(path: Path) -> tuple[np.ndarray, Callable[[Path, Tensor, str], None]]:
    from sciinstruct.datasets.microscopy_files import read_microscopy
    from sciinstruct.datasets.ome_tiff import write_ome_tiff

    image = read_microscopy(path)

    def write(target: Path, images: Tensor, history: str) -> None:
        changed = image.copy(data=images.reshape(image.shape).numpy())
        changed.attrs |= {"description": history, "significant_bits": None}
        write_ome_tiff(target, changed)

    return image.values, write


def _read_fits(path: Path) -> tuple[np.ndarray, Callable[[Path, Tensor, str], None]]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as opened:
            held = next((hdu for hdu in opened if getattr(hdu, "data", None) is not None and hdu.is_image), None)
            if held is None:
                raise FileFormatError(f"{path} holds no image")
            pixels, header = np.asarray(held.data)[..., ::-1, :], held.header.copy(strip=True)
    except (OSError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"cannot read {path}: {str(error).splitlines()[0]}") from error

    def write(target: Path, images: Tensor, history: str) -> None:
        kept = header.copy()
        for name in _SCALING:
            kept.remove(name, ignore_missing=True)
        kept.add_history(history)
        # the first row of a FITS image is the lowest
        array = np.ascontiguousarray(images.reshape(pixels.shape).numpy()[..., ::-1, :])
        with atomic_path(target) as temporary:
            fits.PrimaryHDU(array, kept).writeto(temporary, overwrite=True)

    return pixels, write


def output_names(files: Sequence[Path], tag: str) -> list[str]:
    """Names of results, one per file; raises FileFormatError if two files would share one."""
    names = [f"{path.stem}-{tag}{path.suffix.lower()}" for path in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FileFormatError(
            f"several files would be written as {', '.join(twice)}: rename them, or use several --out"
        )
    return names


def plane_label(index: int, file: ImageFile) -> Any:
    """Number of a plane in tables, None where a file holds one."""
    return None if len(file.images) == 1 else index
