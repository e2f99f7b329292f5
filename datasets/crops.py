"""A folder of high-resolution micrographs as a training set: crops at their own pixel."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core import FileFormatError, track
from sciinstruct.datasets.cells import FOREGROUND
from sciinstruct.datasets.folder import SUFFIXES, read_image

_DARK = 1.0  # per cent of a micrograph's pixels below its zero
_EMPTY = 0.2  # of a micrograph's bright pixels: crops that stay below hold noise alone
_BRIGHT = 99.9  # per cent


def read_crops(folder: str | os.PathLike[str], npix: int, *, progress: bool = False) -> Tensor:
    """Cut every micrograph of a folder into crops that overlap by half, at its own pixel.

    The darkest hundredth of a micrograph becomes zero, and each crop is divided by its mean over the foreground, the
    pixels above 0.3 of its brightest: the unit of `sciinstruct.datasets.cells`. Crops without structure are left out.

    Parameters
    ----------
    folder : path
        As for `read_folder`: one plane a file, all with the same pixel.
    npix : int
        Pixels on a side.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, shape (n, 1, npix, npix), float32

    Raises
    ------
    FileFormatError
        If there is no image in the folder, or one cannot be read, is not finite or smaller than a crop; or if no crop
        holds anything.
    """
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FileFormatError(f"no images in {root}: expected files that end in {', '.join(SUFFIXES)}")
    found = [_crops(path, npix) for path in track(files, progress=progress, description="micrographs")]
    crops = np.concatenate(found)
    if len(crops) == 0:
        raise FileFormatError(f"the micrographs in {root} hold no structure: every crop is dark")
    return torch.from_numpy(crops)[:, None]


def _crops(path: Path, npix: int) -> np.ndarray:
    """Crops (n, npix, npix) of one micrograph, in units of their foreground."""
    pixels = read_image(path)
    if not np.isfinite(pixels).all():
        raise FileFormatError(f"{path} must have finite pixels")
    if min(pixels.shape) < npix:
        raise FileFormatError(f"{path} must have at least {npix} pixels a side, got {pixels.shape}: take smaller crops")
    pixels = pixels - np.percentile(pixels, _DARK)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (npix, npix))
    rows, columns = (_starts(n, npix) for n in pixels.shape)
    crops = windows[rows][:, columns].reshape(-1, npix, npix).clip(min=0)
    top = crops.max((1, 2))
    crops, top = (part[top > max(_EMPTY * np.percentile(pixels, _BRIGHT), 0)] for part in (crops, top))
    bright = crops > FOREGROUND * top[:, None, None]
    mean = (crops * bright).sum((1, 2)) / bright.sum((1, 2))
    return (crops / mean[:, None, None]).astype(np.float32)


def _starts(length: int, npix: int) -> list[int]:
    """First pixels of crops that overlap by half, the last one flush."""
    return sorted({*range(0, length - npix, max(1, npix // 2)), length - npix})
