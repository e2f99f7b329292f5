r"""The f-divergences :math:`D_f(q \| p) = E_p f(r)`, r = q/p, as integrals over noise levels.

With p the generator's law and q the target,
:math:`D_f = \int E_{p_\sigma}[h(r) \|e_p - e_q\|^2] \, d\log\sigma`, :math:`h = r^2 f''`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class FWeights(NamedTuple):
    """What the gradient of an f-divergence needs of f."""

    h: Callable[[Tensor], Tensor]  # r^2 f''(r)
    residue: Callable[[Tensor], Tensor]  # h - r h'(r)


F_DIVERGENCES: dict[str, FWeights] = {
    "rkl": FWeights(torch.ones_like, torch.ones_like),  # KL(p || q)
    "fkl": FWeights(lambda r: r, torch.zeros_like),  # KL(q || p)
    "jeffreys": FWeights(lambda r: 1 + r, torch.ones_like),  # their sum
    "js": FWeights(lambda r: r / (1 + r), lambda r: (r / (1 + r)).square()),  # twice Jensen-Shannon
    "chi2": FWeights(lambda r: 2 * r.square(), lambda r: -2 * r.square()),  # f = (r - 1)^2
    "hellinger": FWeights(lambda r: r.sqrt() / 2, lambda r: r.sqrt() / 4),  # f = (sqrt r - 1)^2
}


class RatioRule(NamedTuple):
    """How an estimated log-ratio is made safe.

    clamp : float
        Log-ratios are cut to [-clamp, clamp]; ``math.inf`` for exact ratios.
    normalise : bool
        Divide by the batch mean: E_p r = 1 at every level.
    """

    clamp: float = 4.0
    normalise: bool = True


def path_ratio(log_ratio: Tensor, difference: Tensor, x: Tensor, rule: RatioRule) -> Tensor:
    """Ratio r (B,) whose gradient in x is r times the score difference, whatever network gave its value.

    Parameters
    ----------
    log_ratio : Tensor, shape (B,)
        log q/p at x.
    difference : Tensor, shape (B, *event)
        Score of q minus score of p at x.
    x : Tensor, shape (B, *event)
        Noisy images with the graph to be differentiated.
    """
    value = log_ratio.detach().clamp(-rule.clamp, rule.clamp)
    if rule.normalise:
        value = value - (torch.logsumexp(value, 0) - torch.log(torch.tensor(float(len(value)))))
    tangent = (difference.detach() * (x - x.detach())).flatten(1).sum(1)  # zero, with the right derivative
    return torch.exp(value + tangent)
