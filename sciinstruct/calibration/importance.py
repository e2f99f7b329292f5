"""Importance-corrected estimates for samplers whose own density nobody knows, where a proposal made of them allows it.

The density of an implicit sampler is an intractable integral. A bank of its draws, blurred by a Gaussian kernel, is a
mixture whose density is known: weights against *that* are exact. How far it covers the target decides whether they can
be used, and the weights themselves tell.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import randn_like

_WIDTHS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of the kernel, in whitened units
_DEFENCE, _WIDE = 0.1, 2.0  # share and width of a broad Gaussian that keeps weights bounded
_TRIAL = 500  # draws that choose the width; thrown away
_ROWS = 1000
_K_HAT = 0.7  # Vehtari et al. 2024
_LEAST_SHARE, _LEAST = 0.02, 100


class Importance(NamedTuple):
    """Weighted draws, and whether they are to be used."""

    x: Tensor  # (n, d), whitened
    weights: Tensor  # (n,), sum 1
    trusted: bool
    reason: str  # why not; empty if trusted
    k_hat: float  # shape of the weights' tail (Pareto); above 0.7 averages do not settle
    effective: float  # effective share of the draws
    log_normalizer: float  # log of the integral of exp(log_prob), whitened coordinates
    log_normalizer_error: float  # its standard error
    width: float  # of the kernel


def importance_check(
    bank: Tensor, log_prob: Callable[[Tensor], Tensor], n: int, generator: torch.Generator
) -> Importance:
    """Weigh draws of a mixture around a sampler's draws by the target.

    Parameters
    ----------
    bank : Tensor, shape (M, d)
        Draws of the sampler, whitened; they become the centres of the mixture.
    log_prob : callable
        Unnormalised log density of whitened points, (B, d) -> (B,).
    n : int
        Draws of the mixture, at least 500.
    generator : torch.Generator

    Returns
    -------
    Importance
        Not trusted where the Pareto shape exceeds 0.7 or less than 2 % of the draws are effective.

    Raises
    ------
    ValueError
        If `n` is too small.
    ImportError
        Without arviz.

    References
    ----------
    Hesterberg 1995 (defensive mixtures); Vehtari et al. 2024, "Pareto smoothed importance sampling".
    """
    from sciinstruct.inference.baselines.chains import require_arviz

    if n < _TRIAL:
        raise ValueError(f"n must be at least {_TRIAL}, got {n}")
    arviz = require_arviz()
    bank = bank.double()
    width = max(_WIDTHS, key=lambda h: _effective(_log_weights(_draw(bank, h, _TRIAL, generator), bank, h, log_prob)))
    x = _draw(bank, width, n, generator)
    log_w = _log_weights(x, bank, width, log_prob)
    if not log_w.isfinite().any():
        nan = math.nan
        return Importance(x, torch.full_like(log_w, 1 / n), False, "no draw has a density", nan, nan, nan, nan, width)
    least = float(log_w[log_w.isfinite()].min())
    smooth, k = arviz.psislw(log_w.clamp(min=least - 50).numpy())
    weights = torch.as_tensor(smooth).double().softmax(0)
    ratio = (log_w - log_w.max()).exp()
    log_z = float(log_w.logsumexp(0)) - math.log(n)
    error = float(ratio.std() / ratio.mean()) / n**0.5
    share = float(1 / weights.square().sum() / n)
    reason = _refusal(float(k), share, n, x.shape[1])
    return Importance(x, weights, not reason, reason, float(k), share, log_z, error, width)


def _refusal(k: float, share: float, n: int, d: int) -> str:
    if not k <= _K_HAT:
        return f"the weights' tail is too heavy (Pareto shape {k:.2f}, above {_K_HAT}) in {d} dimensions"
    if share < _LEAST_SHARE or share * n < _LEAST:
        return f"only {share:.1%} of {n} draws are effective in {d} dimensions"
    return ""


def _draw(bank: Tensor, width: float, n: int, generator: torch.Generator) -> Tensor:
    index = torch.randint(len(bank), (n,), generator=generator, device=bank.device)
    defend = torch.rand(n, 1, generator=generator, dtype=bank.dtype, device=bank.device) < _DEFENCE
    noise = randn_like(bank[index], generator)
    return torch.where(defend, _WIDE * noise, bank[index] + width * noise)


def _log_weights(x: Tensor, bank: Tensor, width: float, log_prob: Callable[[Tensor], Tensor]) -> Tensor:
    d = x.shape[1]
    constant = 0.5 * d * math.log(2 * math.pi)
    parts = [
        (torch.cdist(rows, bank).square() * (-0.5 / width**2)).logsumexp(1) - math.log(len(bank)) - d * math.log(width)
        for rows in x.split(_ROWS)
    ]
    broad = -0.5 * (x / _WIDE).square().sum(1) - d * math.log(_WIDE)
    mixture = torch.logaddexp(torch.cat(parts) + math.log1p(-_DEFENCE), broad + math.log(_DEFENCE)) - constant
    with torch.no_grad():
        value = log_prob(x).double()
    return torch.where(value.isfinite(), value - mixture, -math.inf)


def _effective(log_w: Tensor) -> float:
    """Effective share, zero where no weight is finite."""
    if not log_w.isfinite().any():
        return 0.0
    return float(1 / log_w.softmax(0).square().sum() / len(log_w))
