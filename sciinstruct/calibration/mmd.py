"""Maximum mean discrepancy of two sets of samples."""

from typing import NamedTuple

import torch
from torch import Tensor

_WIDEST, _WIDTHS = 2.0, 4  # kernels of 2, 1, 1/2 and 1/4 of the scale
_MEDIAN_OF = 1000
_ROWS = 1024  # of a kernel matrix held at once


class MeanDiscrepancy(NamedTuple):
    """Two estimates from the same samples, averages over four widths of a Gaussian kernel."""

    squared: float  # U-statistic: unbiased, around zero for samples of one law
    v: float  # root of the V-statistic: positive even then, comparable with that of two exact sets of these sizes


def median_distance(x: Tensor) -> float:
    """Median distance between the first 1000 points of (n, d)."""
    few = x[:_MEDIAN_OF].double()
    return float(torch.pdist(few).median())


def mean_discrepancy(a: Tensor, b: Tensor, scale: float | None = None) -> MeanDiscrepancy:
    """Maximum mean discrepancy between samples, kernel exp(-|x - y|^2 / (2 w^2)).

    Parameters
    ----------
    a, b : Tensor, shapes (n, d) and (m, d)
        At least two each.
    scale : float, optional
        Widths w are 1/4, 1/2, 1 and 2 times this; the median distance within `b` by default. Give one number to
        distances that are to be compared.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Gretton et al. 2012, "A kernel two-sample test".
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"a and b must be (n, d), (m, d) of two rows at least, got {tuple(a.shape)}, {tuple(b.shape)}")
    a, b = a.double(), b.double()
    widest = _WIDEST * (median_distance(b) if scale is None else scale)
    n, m = len(a), len(b)
    aa, bb, ab = _kernel_sum(a, a, widest), _kernel_sum(b, b, widest), _kernel_sum(a, b, widest)
    unbiased = (aa - n) / (n * (n - 1)) + (bb - m) / (m * (m - 1)) - 2 * ab / (n * m)
    return MeanDiscrepancy(unbiased, max(0.0, aa / n**2 + bb / m**2 - 2 * ab / (n * m)) ** 0.5)


def _kernel_sum(a: Tensor, b: Tensor, widest: float) -> float:
    """Sum over pairs of the kernel's average over widths; half the width is the fourth power."""
    total = 0.0
    for rows in a.split(_ROWS):
        kernel = torch.cdist(rows, b).square().mul_(-0.5 / widest**2).exp_()
        for i in range(_WIDTHS):
            kernel = kernel.square_().square_() if i else kernel
            total += float(kernel.sum()) / _WIDTHS
    return total
