"""Point-spread functions for deblurring: Gaussian, motion, defocus, box. All sum to 1, float64."""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive


def gaussian_kernel(sigma: float | tuple[float, float], *, angle: float = 0.0, side: int | None = None) -> Tensor:
    r"""Gaussian, sampled at the pixel centres, (side, side).

    Parameters
    ----------
    sigma : float or pair of float
        Standard deviation in pixels; a pair is (along the rows' direction y, along x) before the turn.
    angle : float
        Turn of the axes in radians, from x towards y (downwards).
    side : int, optional
        Odd side; by default four standard deviations to each side of the centre.

    Raises
    ------
    ValueError
        If `sigma` is not positive, or `side` is not odd.
    """
    sy, sx = (sigma, sigma) if isinstance(sigma, (int, float)) else sigma
    check_positive("sigma", torch.tensor([sy, sx]))
    y, x = _grid(2 * math.ceil(4 * max(sy, sx)) + 1 if side is None else side)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    kernel = torch.exp(-0.5 * ((along / sx).square() + (across / sy).square()))
    return kernel / kernel.sum()


def disc_kernel(radius: float, *, side: int | None = None) -> Tensor:
    r"""Defocus of a round aperture: a uniform disc, (side, side).

    A pixel at distance r from the centre weighs :math:`\mathrm{clip}(R - r + 1/2, 0, 1)`: nearly its covered area.

    Parameters
    ----------
    radius : float
        Radius R in pixels.
    side : int, optional
        Odd side; by default the smallest that holds the disc.

    Raises
    ------
    ValueError
        If `radius` is not positive, or `side` is not odd.
    """
    check_positive("radius", radius)
    y, x = _grid(2 * math.ceil(radius + 0.5) + 1 if side is None else side)
    kernel = (radius + 0.5 - torch.hypot(y, x)).clamp(0, 1)
    return kernel / kernel.sum()


def box_kernel(side: int) -> Tensor:
    """Uniform square, (side, side); raises ValueError unless `side` is odd."""
    y, _ = _grid(side)
    return torch.full((len(y), len(y)), 1 / side**2, dtype=torch.float64)


def motion_kernel(
    length: float, intensity: float = 0.5, *, side: int = 61, generator: torch.Generator | None = None
) -> Tensor:
    r"""Camera shake: exposure along a random smooth path, (side, side).

    The camera moves at constant speed. Its heading is a random walk with inertia, :math:`d\theta = \omega\,ds`,
    :math:`d\omega = -\omega\,ds/\ell + 2\pi\,\text{intensity}\,\sqrt{2/\ell}\,dW`, over a path of unit length with
    :math:`\ell = 0.2`, so that `intensity` is the standard deviation of the turning rate in turns per path. The path
    is drawn with bilinear weights, its centroid on the centre of the kernel, so that the blur does not shift.

    Parameters
    ----------
    length : float
        Length of the path, in pixels; at most ``side - 3``, so that any path fits.
    intensity : float
        0 is a straight line; 0.5 bends, 2 curls up.
    side : int
        Odd side of the kernel.
    generator : torch.Generator, optional
        Source of the path.

    Raises
    ------
    ValueError
        If `length` is not positive or does not fit, `intensity` is negative, or `side` is not odd.
    """
    check_positive("length", length)
    centre = _grid(side)[0].abs().max()
    if length > side - 3:
        raise ValueError(f"length must be at most side - 3 = {side - 3} pixels, got {length}; give a larger side")
    if not 0 <= intensity < math.inf:
        raise ValueError(f"intensity must be at least 0 and finite, got {intensity}")
    steps = max(64, math.ceil(8 * length))
    heading = _headings(steps, intensity, generator)
    path = length / steps * torch.stack([heading.sin(), heading.cos()]).cumsum(1)
    return _splat(path - path.mean(1, keepdim=True) + centre, side)


def _headings(steps: int, intensity: float, generator: torch.Generator | None) -> Tensor:
    """Directions along the path, (steps,): an integrated Ornstein-Uhlenbeck process from a stationary start."""
    first = 2 * math.pi * torch.rand((), generator=generator, dtype=torch.float64)
    kicks = torch.randn(steps, generator=generator, dtype=torch.float64)
    keep = math.exp(-1 / (0.2 * steps))  # correlation of the turning rate over one step
    lag = torch.arange(steps, dtype=torch.float64)
    weights = math.sqrt(1 - keep**2) * keep ** (lag[:, None] - lag).clamp(min=0) * (lag[:, None] >= lag)
    weights[:, 0] = keep**lag
    return first + 2 * math.pi * intensity / steps * (weights @ kicks).cumsum(0)


def _splat(points: Tensor, side: int) -> Tensor:
    """Histogram of points (2, n), in pixels, with bilinear weights; sums to 1."""
    corner = points.floor().long()
    part = points - corner
    kernel = points.new_zeros(side * side)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (part[0] if dy else 1 - part[0]) * (part[1] if dx else 1 - part[1])
            kernel.index_add_(0, (corner[0] + dy) * side + corner[1] + dx, weight)
    return (kernel / points.shape[1]).reshape(side, side)


def _grid(side: int) -> tuple[Tensor, Tensor]:
    """Row and column coordinates from the centre, (side, 1) and (1, side)."""
    if side < 1 or side % 2 == 0:
        raise ValueError(f"side must be odd and positive, got {side}")
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    return axis[:, None], axis[None]
