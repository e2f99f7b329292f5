"""Numbers that compare samples with a truth, or two sets of samples."""

from typing import NamedTuple

import torch
from torch import Tensor


def _check_sets(samples: Tensor, truth: Tensor) -> None:
    if samples.ndim < 2 or len(samples) < 2 or samples.shape[1:] != truth.shape:
        raise ValueError(
            f"samples (S >= 2, ...) and truth (...) must match, got {tuple(samples.shape)} and {tuple(truth.shape)}"
        )


def fair_crps(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Continuous ranked probability score, unbiased for every number of samples.

    :math:`\frac1S \sum_s |x_s - x^*| - \frac{1}{S(S-1)} \sum_{s<t} |x_s - x_t|`, the second sum by sorting.

    Parameters
    ----------
    samples : Tensor, shape (S, ...)
    truth : Tensor, shape (...)

    Returns
    -------
    Tensor, shape (...)
        In units of the samples; lower is better.

    References
    ----------
    Ferro 2014, "Fair scores for ensemble forecasts".
    """
    _check_sets(samples, truth)
    s = len(samples)
    ordered = samples.sort(0).values
    weight = 2 * torch.arange(s, dtype=samples.dtype, device=samples.device) - s + 1
    spread = torch.tensordot(weight, ordered, 1) / (s * (s - 1))
    return (samples - truth).abs().mean(0) - spread


def fair_energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """Fair CRPS with the Euclidean norm over the whole image, (S, ...) and (...) to a number, in the samples' units."""
    _check_sets(samples, truth)
    s = len(samples)
    flat, target = samples.flatten(1), truth.flatten()
    # differences, not the Gram identity: float32 samples close to each other would cancel
    pairs = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum() / 2
    return (flat - target).norm(dim=1).mean() - pairs / (s * (s - 1))


def z_map(samples: Tensor, truth: Tensor) -> Tensor:
    r"""Error of the sample mean in predicted standard deviations, :math:`(x^* - m) / (s \sqrt{1 + 1/S})`.

    For a Gaussian posterior E z^2 = (S - 1)/(S - 3). Zero where neither the samples nor the truth vary.
    """
    _check_sets(samples, truth)
    error = truth - samples.mean(0)
    spread = samples.std(0) * (1 + 1 / len(samples)) ** 0.5
    return torch.where((error == 0) & (spread == 0), 0.0, error / spread)


class SpreadSkill(NamedTuple):
    """Predicted against actual error in bins of equal count; calibrated means ``rmse == spread``."""

    spread: Tensor  # (bins,) predicted rms error
    rmse: Tensor  # (bins,) actual rms error
    slope: float  # of rmse against spread through the origin
    ence: float  # mean |rmse - spread| / spread over bins


def spread_skill(samples: Tensor, truth: Tensor, bins: int = 10) -> SpreadSkill:
    """Bin all pixels of all observations by predicted sd and compare with the error made.

    Parameters
    ----------
    samples : Tensor, shape (N, S, ...)
    truth : Tensor, shape (N, ...)
    """
    s = samples.shape[1]
    variance = samples.var(1).flatten() * (1 + 1 / s)
    square = (samples.mean(1) - truth).square().flatten()
    order = variance.argsort()
    spread = torch.stack([part.mean() for part in variance[order].tensor_split(bins)]).sqrt()
    rmse = torch.stack([part.mean() for part in square[order].tensor_split(bins)]).sqrt()
    slope = float((spread * rmse).sum() / spread.square().sum())
    used = spread > 0
    return SpreadSkill(spread, rmse, slope, float(((rmse - spread).abs()[used] / spread[used]).mean()))


def sliced_w2(a: Tensor, b: Tensor, n_projections: int = 256, generator: torch.Generator | None = None) -> Tensor:
    r"""Sliced Wasserstein-2 distance between two sets of samples, exact along every random direction.

    :math:`\left(E_\theta\, W_2^2(\theta^T a, \theta^T b)\right)^{1/2}` over directions uniform on the sphere.

    Parameters
    ----------
    a : Tensor, shape (N, ...)
    b : Tensor, shape (M, ...)
        Same event shape; N and M may differ.
    n_projections : int
        Number of random directions.

    Returns
    -------
    Tensor, shape ()
        In units of the samples.

    Raises
    ------
    ValueError
        If the event shapes differ.

    References
    ----------
    Rabin et al. 2011; Bonneel et al. 2015.
    """
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a and b must hold events of one shape, got {tuple(a.shape[1:])} and {tuple(b.shape[1:])}")
    a, b = a.flatten(1), b.flatten(1)
    directions = torch.randn(a.shape[1], n_projections, generator=generator, dtype=a.dtype, device=a.device)
    directions = directions / directions.norm(dim=0)
    u, v = (a @ directions).sort(0).values, (b @ directions).sort(0).values
    n, m = len(u), len(v)
    # both quantile functions are steps: integrate over the union of their jumps, in exact integer units of 1/(n m)
    jumps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique().to(a.device)
    width = jumps.diff().to(a.dtype) / (n * m)
    gap = u[jumps[:-1] // m] - v[jumps[:-1] // n]
    return (width[:, None] * gap.square()).sum(0).mean().sqrt()


def normalised_cross_correlation(image: Tensor, truth: Tensor) -> Tensor:
    """Correlation coefficient of pixel values, (B, ...) with (...) -> (B,); 1 is equal up to scale and offset."""
    centred = image.flatten(1) - image.flatten(1).mean(1, keepdim=True)
    target = truth.flatten() - truth.mean()
    return (centred @ target) / (centred.norm(dim=1) * target.norm())
