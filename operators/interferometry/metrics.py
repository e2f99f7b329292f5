"""Compare images that are known up to a shift: cross-correlation, alignment, restoring blur."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive


class Match(NamedTuple):
    """Best agreement of images with a reference over all shifts; every entry has shape (n,).

    Attributes
    ----------
    nxcorr : Tensor
        Normalised cross-correlation at the best shift, at most 1.
    rows, columns : Tensor
        Shift in pixels, downwards and to the right, that moves the image onto the reference.
    """

    nxcorr: Tensor
    rows: Tensor
    columns: Tensor


def match(images: Tensor, reference: Tensor, *, subpixel: bool = False) -> Match:
    r"""Normalised cross-correlation with a reference, maximised over shifts.

    Parameters
    ----------
    images : Tensor, shape (n, 1, H, W) or (n, H, W)
        Images to compare.
    reference : Tensor, shape (H, W), (1, H, W), or that of `images`
        One reference for all, or one for each.
    subpixel : bool
        Refine the shift by a parabola through the correlation around its peak. The value stays that of the whole pixel.

    Returns
    -------
    Match

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or an image is constant (its correlation is 0/0).

    Notes
    -----
    :math:`\rho = \sum (a - \bar a)(b - \bar b) / (N \sigma_a \sigma_b)` (EHT Collaboration 2019, ApJL 875, L4) with the
    image moved periodically, as it is by `shift_image`.
    """
    flat, reference = _flatten("images", images), _flatten("reference", reference)
    if reference.shape[-2:] != flat.shape[-2:] or len(reference) not in (1, len(flat)):
        raise ValueError(
            f"reference must have shape {tuple(flat.shape[-2:])} or one image for each of {len(flat)}, "
            f"got {tuple(reference.shape)}"
        )
    a, b = (_standardise(name, image) for name, image in (("images", flat), ("reference", reference)))
    shape = flat.shape[-2:]
    correlation = torch.fft.irfft2(torch.fft.rfft2(b) * torch.fft.rfft2(a).conj(), s=shape)
    value, place = correlation.flatten(1).max(1)
    rows, columns = place // shape[1], place % shape[1]
    if subpixel:
        rows, columns = _refine(correlation, rows, columns)
    return Match(value, _centred(rows, shape[0]).to(flat.dtype), _centred(columns, shape[1]).to(flat.dtype))


def nxcorr(images: Tensor, reference: Tensor) -> Tensor:
    """Return the normalised cross-correlation maximised over whole-pixel shifts, shape (n,); see `match`."""
    return match(images, reference).nxcorr


def shift_image(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Move every image down by `rows` and right by `columns` pixels, periodically.

    Parameters
    ----------
    images : Tensor, shape (n, ..., H, W)
        Images.
    rows, columns : Tensor, shape (n,)
        Whole numbers permute the pixels exactly; fractions interpolate by Fourier series, which rings at sharp edges.

    Returns
    -------
    Tensor, shape of images
    """
    height, width = images.shape[-2:]
    whole = bool((rows == rows.round()).all() and (columns == columns.round()).all())
    lead = (len(images), *[1] * (images.ndim - 1))
    rows, columns = rows.reshape(lead), columns.reshape(lead)
    if whole:
        row = (torch.arange(height, device=images.device)[:, None] - rows.long()) % height
        column = (torch.arange(width, device=images.device) - columns.long()) % width
        images = images.gather(-2, row.expand(images.shape))
        return images.gather(-1, column.expand(images.shape))
    ky = torch.fft.fftfreq(height, device=images.device, dtype=images.dtype)[:, None]
    kx = torch.fft.rfftfreq(width, device=images.device, dtype=images.dtype)
    turn = torch.exp(-2j * math.pi * (ky * rows + kx * columns))
    return torch.fft.irfft2(torch.fft.rfft2(images) * turn, s=(height, width))


def align(
    images: Tensor, reference: Tensor | None = None, *, subpixel: bool = False, max_iterations: int = 10
) -> Tensor:
    """Move images onto each other, since closure phases do not know where the source is.

    Parameters
    ----------
    images : Tensor, shape (n, 1, H, W) or (n, H, W)
        Samples of one sky.
    reference : Tensor, shape (H, W) or (1, H, W), optional
        Image to move them onto. Without one they are moved onto their own mean, again and again until no image moves.
    subpixel : bool
        Allow fractions of a pixel; see `shift_image`.
    max_iterations : int
        Rounds at most, when there is no reference.

    Returns
    -------
    Tensor, shape of images

    Raises
    ------
    ValueError
        As `match`.
    """
    if reference is not None:
        found = match(images, reference, subpixel=subpixel)
        return shift_image(images, found.rows, found.columns)
    rows = columns = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    aligned = images
    for _ in range(max_iterations):
        found = match(aligned, aligned.mean(0), subpixel=subpixel)
        moved = torch.maximum(found.rows.abs().max(), found.columns.abs().max())
        if moved < (0.01 if subpixel else 0.5):
            break
        rows, columns = rows + found.rows, columns + found.columns
        aligned = shift_image(images, rows, columns)  # from the originals: interpolation errors do not add up
    return aligned


def blur(images: Tensor, fwhm_uas: float, fov_uas: float) -> Tensor:
    r"""Convolve images with a circular Gaussian of `fwhm_uas`; flux is kept.

    Parameters
    ----------
    images : Tensor, shape (..., H, W)
        Images with square pixels.
    fwhm_uas : float
        Full width at half maximum, at least 0, uas.
    fov_uas : float
        Width of the images, uas.

    Returns
    -------
    Tensor, shape of images

    Raises
    ------
    ValueError
        If `fwhm_uas` is negative or `fov_uas` not positive.

    Notes
    -----
    Multiplies the transform by :math:`e^{-(\pi w \rho)^2 / 4 \ln 2}`, after padding with zeros to twice the size, so
    that flux leaving one edge does not return at the other.
    """
    check_positive("fov_uas", fov_uas)
    if not 0 <= fwhm_uas < math.inf:
        raise ValueError(f"fwhm_uas must be at least 0 and finite, got {fwhm_uas}")
    height, width = images.shape[-2:]
    pixel = fov_uas / width
    ky = torch.fft.fftfreq(2 * height, d=pixel, device=images.device, dtype=images.dtype)[:, None]
    kx = torch.fft.rfftfreq(2 * width, d=pixel, device=images.device, dtype=images.dtype)
    transfer = torch.exp(-((math.pi * fwhm_uas) ** 2) * (ky.square() + kx.square()) / (4 * math.log(2)))
    size = (2 * height, 2 * width)
    return torch.fft.irfft2(torch.fft.rfft2(images, s=size) * transfer, s=size)[..., :height, :width]


def _flatten(name: str, images: Tensor) -> Tensor:
    """Return (n, H, W), or raise ValueError."""
    flat = images.squeeze(-3) if images.ndim == 4 and images.shape[-3] == 1 else images
    flat = flat[None] if flat.ndim == 2 else flat
    if flat.ndim != 3 or not flat.is_floating_point():
        raise ValueError(f"{name} must be floating (n, 1, H, W) or (n, H, W), got {images.dtype} {tuple(images.shape)}")
    check_finite(name, flat)
    return flat


def _standardise(name: str, images: Tensor) -> Tensor:
    """Subtract the mean and divide by the norm."""
    centred = images - images.mean((-1, -2), keepdim=True)
    norm = torch.linalg.vector_norm(centred, dim=(-1, -2), keepdim=True)
    rounding = 4 * torch.finfo(images.dtype).eps * math.sqrt(images[0].numel())
    if bool((norm <= rounding * images.abs().amax((-1, -2), keepdim=True)).any()):
        raise ValueError(f"{name} holds a constant image, whose correlation is undefined")
    return centred / norm


def _refine(correlation: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Move whole-pixel peaks (n,) to the tops of parabolas along rows and columns."""
    height, width = correlation.shape[-2:]
    n = torch.arange(len(rows), device=rows.device)
    here = correlation[n, rows, columns]

    def top(before: Tensor, after: Tensor) -> Tensor:
        bend = before - 2 * here + after
        return torch.where(bend < 0, 0.5 * (before - after) / torch.where(bend < 0, bend, -1), 0)

    up, down = (correlation[n, (rows + k) % height, columns] for k in (-1, 1))
    left, right = (correlation[n, rows, (columns + k) % width] for k in (-1, 1))
    return rows + top(up, down), columns + top(left, right)


def _centred(shift: Tensor, size: int) -> Tensor:
    """Turn periodic shifts into the shortest ones."""
    return torch.where(shift > size / 2, shift - size, shift)
