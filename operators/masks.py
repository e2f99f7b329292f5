"""Patterns of measured pixels: a missing box, random pixels, stripes. True means measured."""

import math

import torch
from torch import Tensor


def box_mask(
    image_shape: tuple[int, ...],
    box: tuple[int, int],
    corner: tuple[int, int] | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Everything is measured but one box per image.

    Parameters
    ----------
    image_shape : tuple of int, (..., H, W)
        Shape of the mask. Leading axes are images, each with its own box where they are random.
    box : tuple of int, (height, width)
        Size of the missing box, in pixels.
    corner : tuple of int, (row, column), optional
        Its first pixel. By default the box is centred, or, with a `generator`, put anywhere inside the image.
    generator : torch.Generator, optional
        Source of random places.

    Returns
    -------
    Tensor of bool, shape image_shape

    Raises
    ------
    ValueError
        If the box is empty, not inside the image, or all of it, or both `corner` and `generator` are given.
    """
    sides = _sides(image_shape)
    free = [n - b for n, b in zip(sides, box)]
    if min(box) < 1 or min(free) < 0 or max(free) == 0:
        raise ValueError(f"box must be at least (1, 1) and leave a part of the image {sides} measured, got {box}")
    if corner is not None and generator is not None:
        raise ValueError("give a corner or a generator for random corners, not both")
    place = corner if corner is not None else [f // 2 for f in free]
    if any(not 0 <= p <= f for p, f in zip(place, free)):
        raise ValueError(f"corner must keep the box {box} inside the image {sides}, got {tuple(place)}")
    inside = [_interval(image_shape, n, b, p, f, generator) for n, b, p, f in zip(sides, box, place, free)]
    return ~(inside[0][..., :, None] & inside[1][..., None, :])


def random_mask(image_shape: tuple[int, ...], fraction: float, generator: torch.Generator | None = None) -> Tensor:
    """Pixels measured at random places, the same number in each image.

    Parameters
    ----------
    image_shape : tuple of int, (..., H, W)
        Shape of the mask. Leading axes are images, each with its own places.
    fraction : float
        Fraction of the pixels that is measured, in (0, 1]; rounded to a number of pixels, at least one.
    generator : torch.Generator, optional
        Source of the places.

    Returns
    -------
    Tensor of bool, shape image_shape

    Raises
    ------
    ValueError
        If `fraction` is not in (0, 1].
    """
    height, width = _sides(image_shape)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], got {fraction}")
    count = max(1, round(fraction * height * width))
    places = torch.rand(*image_shape[:-2], height * width, generator=generator, dtype=torch.float64).argsort(-1)
    mask = torch.zeros(places.shape, dtype=torch.bool).scatter(-1, places[..., :count], True)
    return mask.reshape(image_shape)


def stripe_mask(
    image_shape: tuple[int, ...], period: int, measured: int, *, offset: int = 0, columns: bool = False
) -> Tensor:
    """Measured stripes at a constant distance, as of a scanner that skips lines.

    Parameters
    ----------
    image_shape : tuple of int, (..., H, W)
        Shape of the mask.
    period : int
        Distance of the stripes, in pixels.
    measured : int
        Rows of each stripe, the first at row `offset`; the other ``period - measured`` are missing.
    offset : int
        First measured row.
    columns : bool
        Stripes of columns in place of rows.

    Returns
    -------
    Tensor of bool, shape image_shape

    Raises
    ------
    ValueError
        Unless 1 <= measured < period, and `period` fits into the image.
    """
    sides = _sides(image_shape)
    side = sides[1] if columns else sides[0]
    if not 1 <= measured < period or period > side:
        raise ValueError(f"need 1 <= measured < period <= {side}, got measured {measured} and period {period}")
    line = (torch.arange(side) - offset) % period < measured
    return (line if columns else line[:, None]).expand(image_shape).clone()


def _sides(image_shape: tuple[int, ...]) -> tuple[int, int]:
    if len(image_shape) < 2 or math.prod(image_shape) < 1:
        raise ValueError(f"image_shape must be (..., H, W), got {tuple(image_shape)}")
    return image_shape[-2], image_shape[-1]


def _interval(
    image_shape: tuple[int, ...], side: int, length: int, start: int, free: int, generator: torch.Generator | None
) -> Tensor:
    """True on `length` pixels of an axis, (..., side), from `start` or from random pixels 0 ... free."""
    first = torch.full(image_shape[:-2], start)
    if generator is not None:
        first = torch.randint(free + 1, image_shape[:-2], generator=generator)
    after = torch.arange(side) - first[..., None]
    return (after >= 0) & (after < length)
