"""A mixture around a cloud of points: a proposal of known density, whose weights are exact where it covers a target."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core import randn_like

_WIDTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of kernels that are alike, in whitened units
_SHARES, _NEIGHBOUR = (0.25, 0.5, 1.0, 2.0), 16  # of the distance to the 16th neighbour, for kernels that are not
_NARROWEST = 1e-5  # where neighbours coincide
_DEFENCE, _WIDE = 0.1, 2.0  # share and width of a broad Gaussian that keeps weights bounded
_TRIAL = 500  # draws that choose the widths; thrown away
_ROWS = 1000


class Bank:
    """Gaussian kernels on whitened points, with a tenth of the draws from a broad Gaussian.

    All kernels have one of six widths, or every kernel has a share of the distance to its 16th neighbour: narrow in a
    funnel's neck, wide in its mouth and in tails. That choice is taken which has the most effective draws; those that
    choose are thrown away.

    Parameters
    ----------
    points : Tensor, shape (M, d)
        Whitened centres.
    log_prob : callable
        Unnormalised log density of whitened points, (B, d) -> (B,).
    generator : torch.Generator

    Attributes
    ----------
    widths : Tensor, shape (M,)
        Of the kernels.

    References
    ----------
    Hesterberg 1995 (defensive mixtures); Breiman, Meisel and Purcell 1977 (widths from neighbours).
    """

    def __init__(self, points: Tensor, log_prob: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        self.points, self.log_prob = points, log_prob
        best = -1.0
        for widths in self._choices():
            share = effective_share(self._log_weights(self._points(_TRIAL, widths, generator), widths))
            if share > best:
                self.widths, best = widths, share

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n, d) of the mixture and their log weights (n,), -infinity where the target has no density."""
        x = self._points(n, self.widths, generator)
        return x, self._log_weights(x, self.widths)

    def _choices(self) -> list[Tensor]:
        centres = self.points
        alike = [torch.full_like(centres[:, 0], width) for width in _WIDTHS]
        if len(centres) <= _NEIGHBOUR:
            return alike
        nearest = [torch.cdist(rows, centres).kthvalue(_NEIGHBOUR + 1, dim=1).values for rows in centres.split(_ROWS)]
        return alike + [(share * torch.cat(nearest)).clamp(min=_NARROWEST) for share in _SHARES]

    def _points(self, n: int, widths: Tensor, generator: torch.Generator) -> Tensor:
        like = self.points
        index = torch.randint(len(like), (n,), generator=generator, device=like.device)
        defend = torch.rand(n, 1, generator=generator, dtype=like.dtype, device=like.device) < _DEFENCE
        noise = randn_like(like[index], generator)
        return torch.where(defend, _WIDE * noise, like[index] + widths[index, None] * noise)

    def _log_weights(self, x: Tensor, widths: Tensor) -> Tensor:
        d, centres = x.shape[1], self.points
        scale, offset = -0.5 / widths.square(), d * widths.log()
        parts = [(torch.cdist(rows, centres).square() * scale - offset).logsumexp(1) for rows in x.split(_ROWS)]
        kernels = torch.cat(parts) - math.log(len(centres)) + math.log1p(-_DEFENCE)
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
