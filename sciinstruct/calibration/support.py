"""Pixels that break the assumptions behind ranks and z-scores: constant, without spread, truths out of reach."""

from typing import NamedTuple

import torch
from torch import Tensor

_PILE = 0.01  # share of samples at one bound above which they were clamped there


class PixelState(NamedTuple):
    """What `pixel_state` found."""

    constant: Tensor  # (*event_shape) bool: one and the same value in all truths and samples
    stuck: (
        float  # share of the other pixels, over observations, whose samples all agree on another value than the truth
    )
    clamped: float  # share of truths beyond a bound at which samples pile up
    bounds: tuple[float | None, float | None]  # those bounds


def pixel_state(samples: Tensor, truth: Tensor) -> PixelState:
    """Look for pixels that carry no information and truths the samples cannot reach.

    Parameters
    ----------
    samples : Tensor, shape (N, S, *event_shape)
    truth : Tensor, shape (N, *event_shape)
    """
    low, high = samples.amin(1), samples.amax(1)
    value = truth[0]
    constant = (torch.stack([low, high, truth]) == value).all(0).all(0)
    used = ~constant
    if not used.any():
        return PixelState(constant, 0.0, 0.0, (None, None))
    low, high, kept = low[:, used], high[:, used], truth[:, used]
    stuck = float(((low == high) & (kept != low)).double().mean())
    pixels = samples[:, :, used]
    bottom, top = low.min(), high.max()
    at_bottom, at_top = (float((pixels == bound).double().mean()) for bound in (bottom, top))
    # a spread of zero is another failure: two bounds need room between them
    spread = bool(bottom < top)
    bounds = (
        float(bottom) if spread and at_bottom > _PILE else None,
        float(top) if spread and at_top > _PILE else None,
    )
    beyond = (kept < bottom) & (bounds[0] is not None) | (kept > top) & (bounds[1] is not None)
    return PixelState(constant, stuck, float(beyond.double().mean()), bounds)
