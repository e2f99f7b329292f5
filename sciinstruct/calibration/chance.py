"""What chance alone does to the pixel coverage error: every sample takes its turn as the truth."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.calibration.ranks import LEVELS

MAX_PIXELS = 512


class ChanceCoverage(NamedTuple):
    """What calibrated methods show at this N, S and correlation."""

    error: float  # mean coverage error that 95 % of them stay below
    band: Tensor  # (2, levels): between these lies the coverage of 95 % of them, level by level


def coverage_by_chance(samples: Tensor, generator: torch.Generator | None = None) -> ChanceCoverage:
    """Coverage of pixels that chance alone gives a calibrated method.

    Under calibration truth and samples are exchangeable, so sample s of every observation, ranked among the other
    S - 1, is one study with right answers: S of them give the law of the error. Pixels of one image keep their
    correlation, which is what makes the error of few observations large.

    Parameters
    ----------
    samples : Tensor, shape (N, S, P)
        Up to 512 of the pixels are used, evenly spread.

    Returns
    -------
    ChanceCoverage
    """
    n, s = samples.shape[:2]
    samples = samples[..., :: -(-samples.shape[2] // MAX_PIXELS)]
    levels = torch.tensor(LEVELS, dtype=torch.float64, device=samples.device)
    inside = levels.new_zeros(s, len(levels))
    for x in samples:
        columns = x.T.contiguous()
        ordered = columns.sort(1).values
        low = torch.searchsorted(ordered, columns)
        ties = torch.searchsorted(ordered, columns, right=True) - low
        jitter = torch.rand(low.shape, generator=generator, dtype=torch.float64, device=x.device)
        distance = (2 * (low + jitter * ties) / s - 1).abs()
        inside += (distance[..., None] <= levels).double().mean(0)
    coverage = inside / n
    error = float(torch.quantile((coverage - levels).abs().mean(1), 0.95))
    return ChanceCoverage(error, torch.quantile(coverage, levels.new_tensor([0.025, 0.975]), 0))
