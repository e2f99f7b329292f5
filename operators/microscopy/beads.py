"""Beads in an image stack: which ones can measure a point-spread function, and how wide each one is."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations


class BeadFit(NamedTuple):
    """Least-squares Gaussian of one bead, axes z, y, x."""

    centre: tuple[float, float, float]  # voxels
    fwhm: tuple[float, float, float]  # voxels
    height: float  # counts above the background
    background: float  # counts, a free parameter of the fit


def find_beads(
    stack: np.ndarray, box: tuple[int, int, int], *, min_height: float = 0.2, saturation: float | None = None
) -> np.ndarray:
    """Voxels of isolated, unsaturated maxima whose window lies inside the stack.

    Parameters
    ----------
    stack : ndarray, shape (Z, Y, X)
        Counts.
    box : tuple of int
        Odd sides of the window around a bead, in voxels.
    min_height : float
        Smallest height over the background, in units of the highest maximum's, after a slight smoothing.
    saturation : float, optional
        Counts at which the detector clips.

    Returns
    -------
    ndarray of int, shape (n, 3)
        Brightest first.

    Raises
    ------
    ValueError
        If no bead is left; the message says why the candidates were refused.
    """
    from scipy.ndimage import gaussian_filter, maximum_filter

    smooth = gaussian_filter(stack.astype(float), [side / 16 for side in box])
    base = float(np.median(smooth))
    peaks = (smooth == maximum_filter(smooth, [side // 2 for side in box])) & (smooth > base)
    peaks &= smooth - base >= min_height * float(smooth.max() - base)
    places = np.argwhere(peaks)
    places = places[np.argsort(-smooth[tuple(places.T)], kind="stable")]
    reasons = [_refusal(place, places, stack, box, saturation) for place in places]
    kept = [place for place, reason in zip(places, reasons) if reason is None]
    if not kept:
        counts = Counter(reason for reason in reasons if reason)
        why = ", ".join(f"{n} {reason}" for reason, n in counts.items()) or "there is no maximum"
        raise ValueError(f"stack has no usable bead in a box of {box} voxels: {why}; try a smaller box_um")
    return np.array(kept)


def _refusal(
    place: np.ndarray, places: np.ndarray, stack: np.ndarray, box: tuple[int, int, int], saturation: float | None
) -> str | None:
    """Why a candidate is not used, None if it is."""
    half = np.array(box) // 2
    if (place < half).any() or (place + half >= stack.shape).any():
        return "too close to the border"
    if (np.abs(places - place) <= half).all(1).sum() > 1:
        return "with a neighbour in the box"
    window = stack[tuple(slice(p - h, p + h + 1) for p, h in zip(place, half))]
    if saturation is not None and window.max() >= saturation:
        return "saturated"
    return None


def fit_bead(stack: np.ndarray, place: np.ndarray, box: tuple[int, int, int]) -> BeadFit:
    """Fit a three-dimensional Gaussian with axes along the stack's, and a background, to the window at a maximum.

    Raises
    ------
    ValueError
        If the fit does not settle inside the window: the maximum is no bead.
    """
    from scipy.optimize import least_squares

    half = np.array(box) // 2
    window = stack[tuple(slice(p - h, p + h + 1) for p, h in zip(place, half))].astype(float)
    grid = np.stack(np.meshgrid(*[np.arange(-h, h + 1.0) for h in half], indexing="ij")).reshape(3, -1)
    background = border_median(window)
    start = np.array([background, window.max() - background, 0, 0, 0, *np.log(np.array(box) / 10)])
    fit = least_squares(
        lambda q: _gaussian(q, grid)[0] - window.ravel(),
        start,
        jac=lambda q: _gaussian(q, grid)[1],
        method="lm",
        x_scale=np.array([1, start[1], 1, 1, 1, 0.1, 0.1, 0.1]),
    )
    shift, widths = fit.x[2:5], FWHM * np.exp(fit.x[5:8])
    if not fit.success or (np.abs(shift) > half / 2).any() or (widths > box).any() or fit.x[1] <= 0:
        raise ValueError(f"the maximum at voxel {tuple(place.tolist())} is no bead: no Gaussian fits it; crop it away")
    return BeadFit(tuple((place + shift).tolist()), tuple(widths.tolist()), float(fit.x[1]), float(fit.x[0]))


def _gaussian(q: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Background q0 plus a Gaussian of height q1, centre q2-4, log widths q5-7: counts (n,), Jacobian (n, 8)."""
    u = (grid - q[2:5, None]) / np.exp(q[5:8, None])
    shape = np.exp(-0.5 * (u**2).sum(0))
    counts = q[1] * shape
    slopes = np.concatenate([[np.ones_like(shape), shape], counts * u / np.exp(q[5:8, None]), counts * u**2])
    return q[0] + counts, slopes.T


def border_median(window: np.ndarray) -> float:
    """Median of a window's outer voxels along its last two axes."""
    edge = np.ones(window.shape[-2:], dtype=bool)
    edge[1:-1, 1:-1] = False
    return float(np.median(window[..., edge]))
