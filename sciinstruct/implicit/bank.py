"""A mixture around a cloud of points: a proposal of known density, whose weights are exact where it covers a target."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core import randn_like

_WIDTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of the kernel, in whitened units
_DEFENCE, _WIDE = 0.1, 2.0  # share and width of a broad Gaussian that keeps weights bounded
_TRIAL = 500  # draws that choose the width; thrown away
_ROWS = 1000


class Bank:
    """Gaussian kernels on whitened points, with a tenth of the draws from a broad Gaussian.

    The kernel's width is the one of six with the most effective draws; those that choose it are thrown away.

    Parameters
    ----------
    points : Tensor, shape (M, d)
        Whitened centres.
    log_prob : callable
        Unnormalised log density of whitened points, (B, d) -> (B,).
    generator : torch.Generator

    References
    ----------
    Hesterberg 1995 (defensive mixtures).
    """

    def __init__(self, points: Tensor, log_prob: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        self.points, self.log_prob, self.width = points, log_prob, 0.0
        best = -1.0
        for width in _WIDTHS:
            share = effective_share(self._log_weights(self._points(_TRIAL, width, generator), width))
            if share > best:
                self.width, best = width, share

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n, d) of the mixture and their log weights (n,), -infinity where the target has no density."""
        x = self._points(n, self.width, generator)
        return x, self._log_weights(x, self.width)

    def _points(self, n: int, width: float, generator: torch.Generator) -> Tensor:
        like = self.points
        index = torch.randint(len(like), (n,), generator=generator, device=like.device)
        defend = torch.rand(n, 1, generator=generator, dtype=like.dtype, device=like.device) < _DEFENCE
        noise = randn_like(like[index], generator)
        return torch.where(defend, _WIDE * noise, like[index] + width * noise)

    def _log_weights(self, x: Tensor, width: float) -> Tensor:
        d, centres = x.shape[1], self.points
        parts = [(torch.cdist(rows, centres).square() * (-0.5 / width**2)).logsumexp(1) for rows in x.split(_ROWS)]
        kernels = torch.cat(parts) - math.log(len(centres)) - d * math.log(width) + math.log1p(-_DEFENCE)
        broad = -0.5 * (x / _WIDE).square().sum(1) - d * math.log(_WIDE) + math.log(_DEFENCE)
        mixture = torch.logaddexp(kernels, broad) - 0.5 * d * math.log(2 * math.pi)
        with torch.no_grad():
            value = self.log_prob(x)
        return torch.where(value.isfinite(), value - mixture, -math.inf)


def effective_share(log_weights: Tensor) -> float:
    """Effective share of weighted draws, zero where no weight is finite."""
    if not log_weights.isfinite().any():
        return 0.0
    return float(1 / log_weights.softmax(0).square().sum() / len(log_weights))
