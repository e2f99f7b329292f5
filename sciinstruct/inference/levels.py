"""Random noise levels of one step."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Levels(NamedTuple):
    """Noise levels of one step and the weight that turns their mean into the integral over log sigma."""

    sigma: Tensor  # (G,)
    span: float  # log(hi/lo)


def draw_levels(lo: float, hi: float, groups: int, generator: torch.Generator | None, like: Tensor) -> Levels:
    """One noise level in each of `groups` equal strata of log sigma between `lo` and `hi`."""
    u = torch.rand(groups, generator=generator, dtype=like.dtype, device=like.device)
    span = math.log(hi / lo)
    place = (torch.arange(groups, dtype=like.dtype, device=like.device) + u) / groups
    return Levels(lo * (span * place).exp(), span)
