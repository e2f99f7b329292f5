r"""Conformal intervals: widened on held-out truths until they hold. A repair, never evidence that a posterior is right.

Everything here is called conformal, in names and in what it writes, so that its coverage is not taken for that of the
posterior: any samples, however wrong, can be widened until they cover.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite


class ConformalInterval(NamedTuple):
    """Conformal bounds per pixel."""

    low: Tensor  # (*event_shape)
    high: Tensor  # (*event_shape)


@dataclass(frozen=True)
class ConformalPixels:
    """Conformal risk control per pixel; made by `conformal_pixels`.

    Parameters
    ----------
    alpha : float
        Expected share of missed pixels.
    scale : float
        Factor on the posterior's own intervals. Far from 1: the posterior was wrong.
    posterior_coverage : float
        What the posterior's own intervals covered on the calibration images.
    n : int
        Calibration images.
    """

    alpha: float
    scale: float
    posterior_coverage: float
    n: int

    def interval(self, samples: Tensor) -> ConformalInterval:
        """Conformal interval of a new image from its posterior samples (S, *event_shape)."""
        low, centre, high = _quantiles(samples, self.alpha)
        return ConformalInterval(centre - self.scale * (centre - low), centre + self.scale * (high - centre))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, every key named conformal but the posterior's own coverage."""
        return {
            "conformal": "risk control per pixel",
            "conformal_alpha": self.alpha,
            "conformal_scale": self.scale,
            "conformal_n": self.n,
            "conformal_guarantee": "expected share of missed pixels, over new images exchangeable with the calibration "
            "images; not per image, not per pixel, not jointly",
            "posterior_coverage": self.posterior_coverage,
        }


@dataclass(frozen=True)
class ConformalBand:
    """Conformal band that holds a whole image; made by `conformal_band`.

    Parameters
    ----------
    alpha : float
        Probability that any pixel of a new image is outside.
    radius : float
        Half width in posterior standard deviations.
    posterior_radius : float
        What the posterior's own samples ask for: the same quantile with a sample in the truth's place. A radius far
        from it says that the posterior was wrong.
    n : int
        Calibration images.
    """

    alpha: float
    radius: float
    posterior_radius: float
    n: int

    def interval(self, samples: Tensor) -> ConformalInterval:
        """Conformal band of a new image from its posterior samples (S, *event_shape)."""
        mean, half = samples.mean(0), self.radius * samples.std(0)
        return ConformalInterval(mean - half, mean + half)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, every key named conformal but the posterior's own radius."""
        return {
            "conformal": "simultaneous band",
            "conformal_alpha": self.alpha,
            "conformal_radius": self.radius,
            "conformal_n": self.n,
            "conformal_guarantee": "a new image exchangeable with the calibration images lies inside as a whole with "
            "probability 1 - alpha, on average over calibration sets",
            "posterior_radius": self.posterior_radius,
        }


def conformal_pixels(samples: Tensor, truth: Tensor, alpha: float = 0.1) -> ConformalPixels:
    r"""Scale the posterior's pixel intervals so that few pixels of new images are missed.

    The interval is :math:`[m - \lambda (m - q_-),\; m + \lambda (q_+ - m)]` with the samples' median m (inside the
    bounds whatever the law, so that intervals grow with :math:`\lambda`) and their own :math:`1 - \alpha` interval;
    :math:`\lambda` is the smallest with :math:`\frac{n}{n+1} \hat R(\lambda) + \frac{1}{n+1} \le \alpha`,
    :math:`\hat R` the mean share of missed pixels.

    Parameters
    ----------
    samples : Tensor, shape (n, S, *event_shape)
        Posterior samples of calibration images, which no training has seen.
    truth : Tensor, shape (n, *event_shape)
    alpha : float
        Expected share of missed pixels.

    Returns
    -------
    ConformalPixels

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than ``1/alpha - 1`` images, or no factor suffices because samples have no
        spread where truths differ.

    References
    ----------
    Angelopoulos, Bates, Fisch, Lei, Schuster 2024, "Conformal risk control", Theorem 1.
    """
    n = _check(samples, truth, alpha)
    needed = torch.stack([_factor(x, t, alpha).flatten() for x, t in zip(samples, truth)]).flatten()
    allowed = math.floor((alpha * (n + 1) - 1) / n * needed.numel() + 1e-9)
    scale = float(needed.sort(descending=True).values[allowed]) if allowed < needed.numel() else 0.0
    if math.isinf(scale):
        share = float(needed.isinf().double().mean())
        raise ValueError(
            f"samples have no spread at {share:.1%} of pixels whose truth differs: no factor can cover them"
        )
    return ConformalPixels(alpha, scale, float((needed <= 1).double().mean()), n)


def conformal_band(samples: Tensor, truth: Tensor, alpha: float = 0.1) -> ConformalBand:
    r"""Half width, in posterior standard deviations, of a band that holds all pixels of a new image at once.

    The score of an image is :math:`\max |x^* - m| / s` over its pixels; the radius is the
    :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest score.

    Parameters
    ----------
    samples, truth, alpha
        As in `conformal_pixels`; `alpha` is the probability that any pixel is outside.

    Returns
    -------
    ConformalBand

    Raises
    ------
    ValueError
        As `conformal_pixels`.

    References
    ----------
    Split conformal prediction: Vovk, Gammerman, Shafer 2005; Lei et al. 2018, with the maximum as score.
    """
    n = _check(samples, truth, alpha)
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    pairs = (samples, truth), (samples[:, 1:], samples[:, 0])
    radius, own = (float(_scores(x, t).sort().values[k - 1]) for x, t in pairs)
    if math.isinf(radius):
        raise ValueError("samples have no spread at a pixel whose truth differs: no band can hold such images")
    return ConformalBand(alpha, radius, own, n)


def _check(samples: Tensor, truth: Tensor, alpha: float) -> int:
    if samples.ndim < 3 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise ValueError(
            f"samples (n, S, *event) and truth (n, *event) must match, got {tuple(samples.shape)}, {tuple(truth.shape)}"
        )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    check_finite("samples", samples)
    check_finite("truth", truth)
    n, least = len(truth), math.ceil(1 / alpha - 1 - 1e-9)
    if n < least:
        raise ValueError(f"alpha = {alpha:g} needs at least {least} calibration images, got {n}")
    return n


def _quantiles(samples: Tensor, alpha: float) -> Tensor:
    """Lower bound, median and upper bound over samples, (3, *event_shape), at the positions of `sample_interval`.

    There a right posterior misses a share alpha at every S, and needs the factor 1.
    """
    s, ordered = len(samples), samples.sort(0).values
    bounds = []
    for level in (alpha / 2, 0.5, 1 - alpha / 2):
        place = min(max(level * (s + 1) - 1, 0.0), s - 1.0)
        below = min(int(place), max(s - 2, 0))
        bounds.append(torch.lerp(ordered[below], ordered[min(below + 1, s - 1)], place - below))
    return torch.stack(bounds)


def _factor(samples: Tensor, truth: Tensor, alpha: float) -> Tensor:
    """Smallest scale at which each pixel is covered; infinite where a side has no width."""
    low, centre, high = _quantiles(samples, alpha)
    off = truth - centre
    width = torch.where(off >= 0, high - centre, centre - low)
    return torch.where(off == 0, 0.0, off.abs() / width)


def _scores(samples: Tensor, truth: Tensor) -> Tensor:
    """Largest error of each image in posterior standard deviations, (n,)."""
    off, sd = (truth - samples.mean(1)).abs(), samples.std(1)
    return torch.where((off == 0) & (sd == 0), 0.0, off / sd).flatten(1).amax(1)
