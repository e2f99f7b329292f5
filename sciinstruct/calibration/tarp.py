"""Tests of accuracy with random points: ranks of distances to a reference."""

import torch
from torch import Tensor

from sciinstruct.calibration.ranks import randomised_ranks


def tarp_ranks(samples: Tensor, truth: Tensor, reference: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rank of the truth's distance to a reference among the samples' distances; uniform for an exact posterior.

    Parameters
    ----------
    samples : Tensor, shape (N, S, ...)
    truth : Tensor, shape (N, ...)
    reference : Tensor, shape (N, ...)
        One point per observation that depends on the data alone, never on the truth or the samples. A cheap
        reconstruction (Wiener, dirty image) is by far the most powerful; other truths are a sanity check only.

    Returns
    -------
    Tensor, shape (N,), float64

    References
    ----------
    Lemos et al. 2023, "Sampling-based accuracy testing of posterior estimators".
    """
    if reference.shape != truth.shape:
        raise ValueError(f"reference must have the truth's shape {tuple(truth.shape)}, got {tuple(reference.shape)}")
    distance = torch.stack([(x - r).flatten(1).norm(dim=1) for x, r in zip(samples, reference)])
    return randomised_ranks(distance, (truth - reference).flatten(1).norm(dim=1), generator)


def split_tarp_ranks(samples: Tensor, truth: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """TARP around the mean of half of the samples, ranked among the other half; shapes as in `tarp_ranks`.

    Given the data, independent samples of the first half say nothing about truth and second half, so the ranks of an
    exact posterior are uniform; and no cheap reference lies closer to the truth.
    """
    half = samples.shape[1] // 2
    return tarp_ranks(samples[:, half:], truth, samples[:, :half].mean(1), generator)


def other_truths(truth: Tensor) -> Tensor:
    """Reference points for the random version: each observation gets the next one's truth. Shape of `truth`."""
    return truth.roll(1, 0)
