"""What chance alone does to the pixel coverage error: every sample takes its turn as the truth."""

import torch
from torch import Tensor

from sciinstruct.calibration.ranks import LEVELS

MAX_PIXELS = 512


def coverage_error_by_chance(samples: Tensor, generator: torch.Generator | None = None, share: float = 0.95) -> float:
    """Mean coverage error that a calibrated method stays below with probability `share`, at this N, S and correlation.

    Under calibration truth and samples are exchangeable, so sample s of every observation, ranked among the other
    S - 1, is one study with right answers: S of them give the law of the error. Pixels of one image keep their
    correlation, which is what makes the error of few observations large.

    Parameters
    ----------
    samples : Tensor, shape (N, S, P)
        Up to 512 of the pixels are used, evenly spread.

    Returns
    -------
    float
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
    errors = (inside / n - levels).abs().mean(1)
    return float(torch.quantile(errors, share))
