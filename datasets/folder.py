"""A folder of images as a training set."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core import FileFormatError, track
from sciinstruct.datasets._tiff_pixels import damage_is_an_error, read_planes

SUFFIXES = (".fits", ".npy", ".png", ".tif", ".tiff", ".jpg", ".jpeg")


def read_folder(folder: str | os.PathLike[str], npix: int, *, progress: bool = False) -> Tensor:
    """Read every image of a folder as one square grey image of `npix` pixels.

    Colours are averaged; the largest central square is kept and averaged down (or interpolated up) to `npix`; each
    image is divided by its mean, so that only its shape is learnt.

    Parameters
    ----------
    folder : path
        Holds PNG, JPEG, TIFF, FITS or .npy files (searched recursively, in order of name), one image (H, W) or
        (H, W, colours) each.
    npix : int
        Pixels on a side.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, shape (n, 1, npix, npix), float32
        Relative brightness, mean 1 each.

    Raises
    ------
    FileFormatError
        If there is no folder or no image in it, or a file cannot be read, has other axes, is not finite, or has no
        positive mean.
    """
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FileFormatError(f"no images in {root}: expected files that end in {', '.join(SUFFIXES)}")
    images = [_square(read_image(path), npix, path) for path in track(files, progress=progress, description="images")]
    return torch.from_numpy(np.stack(images))[:, None]


def read_image(path: Path) -> np.ndarray:
    """Read one grey image (H, W), float64; raises FileFormatError if that is impossible."""
    try:
        pixels = np.asarray(_read(path), dtype=np.float64)
    except Exception as error:  # four libraries, each with exceptions of its own
        raise FileFormatError(
            f"cannot read the image {path}: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    pixels = pixels.squeeze()
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 3, 4):
        pixels = pixels[..., : 3 if pixels.shape[-1] > 2 else 1].mean(-1)
    if pixels.ndim != 2:
        raise FileFormatError(f"{path} must hold one image (H, W) or (H, W, colours), got an array {pixels.shape}")
    return pixels


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix == ".fits":
        from astropy.io import fits

        return np.asarray(fits.getdata(path))[..., ::-1, :]  # the first row of a FITS image is the lowest
    if suffix in (".tif", ".tiff"):
        from tifffile import TiffFile

        with damage_is_an_error(path), TiffFile(path) as file:
            return read_planes(file, 0, file.series[0].axes, {}, path)
    from skimage.io import imread

    return imread(path)


def _square(pixels: np.ndarray, npix: int, path: Path) -> np.ndarray:
    from skimage.transform import resize

    if not np.isfinite(pixels).all():
        raise FileFormatError(f"{path} must have finite pixels")
    side = min(pixels.shape)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    small = resize(pixels[top : top + side, left : left + side], (npix, npix), order=1, anti_aliasing=side > npix)
    mean = small.mean()
    if not mean > 0:
        raise FileFormatError(f"{path} must have a positive mean, got a mean of {mean:.3g}")
    return (small / mean).astype(np.float32)
