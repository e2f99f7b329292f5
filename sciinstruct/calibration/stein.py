"""The Stein ratio: width of the samples against the posterior's own score, without a truth."""

import math

import torch
from torch import Tensor


def _centred(samples: Tensor, score: Tensor) -> Tensor:
    """Samples minus the mean of the *other* samples, S/(S-1) (x_s - m)."""
    if samples.shape != score.shape or len(samples) < 2:
        raise ValueError(
            f"samples and score must have one shape (S >= 2, ...), got {tuple(samples.shape)} and {tuple(score.shape)}"
        )
    s = len(samples)
    return (samples - samples.mean(0)) * (s / (s - 1))


def stein_ratio(samples: Tensor, score: Tensor) -> Tensor:
    r"""Per-sample terms of :math:`E[-s(x) \cdot (x - r)] / d`, whose mean is 1 if the samples follow the score's law.

    Below 1 too narrow (c^2 for a Gaussian scaled by c), above 1 too wide, noisy or off the posterior. r is the mean of
    the other samples. Blind to the weights of separate modes, like every score-based number.

    Parameters
    ----------
    samples : Tensor, shape (S, ...)
    score : Tensor, shape (S, ...)
        Posterior score at the samples, in 1/units of the samples. With a learned prior: add noise sigma_0 to the
        samples and give the score at sigma_0.

    Returns
    -------
    Tensor, shape (S,)
    """
    product = -score * _centred(samples, score)
    return product.flatten(1).mean(1)


def stein_ratio_by_band(samples: Tensor, score: Tensor, bands: int = 4) -> Tensor:
    """Stein ratio in shells of spatial frequency, from smooth to fine: which scales are too narrow.

    Parameters
    ----------
    samples, score : Tensor, shape (S, ..., H, W)
    bands : int
        Number of shells of equal width in frequency, up to the corner.

    Returns
    -------
    Tensor, shape (bands,)
    """
    h, w = samples.shape[-2:]
    fy, fx = torch.fft.fftfreq(h), torch.fft.fftfreq(w)
    radius = (fy[:, None].square() + fx.square()).sqrt() / math.sqrt(0.5)
    shell = (radius * bands).long().clamp(max=bands - 1).to(samples.device)
    left = torch.fft.fft2(_centred(samples, score), norm="ortho")
    right = torch.fft.fft2(score, norm="ortho")
    density = -(left.conj() * right).real.flatten(0, -3).mean(0)
    total = torch.zeros(bands, dtype=density.dtype, device=density.device).index_add(
        0, shell.flatten(), density.flatten()
    )
    return total / torch.bincount(shell.flatten(), minlength=bands)
