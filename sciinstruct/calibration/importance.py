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

from sciinstruct.implicit.bank import Bank

_FEWEST = 500
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
    width: float  # of the kernels, their median


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
    Vehtari et al. 2024, "Pareto smoothed importance sampling".
    """
    from sciinstruct.inference.baselines.chains import require_arviz

    if n < _FEWEST:
        raise ValueError(f"n must be at least {_FEWEST}, got {n}")
    arviz = require_arviz()
    mixture = Bank(bank.double(), log_prob, generator)
    x, log_w = mixture.draw(n, generator)
    width = float(mixture.widths.median())
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
