"""Particles drawn anew from a mixture around them, by importance weights: few dimensions only."""

import math

import torch
from torch import Tensor

from sciinstruct.implicit.bank import Bank, effective_share
from sciinstruct.implicit.pilot import covariance_root, systematic
from sciinstruct.implicit.targets import Target
from sciinstruct.implicit.whitened import WhitenedTarget

_LONGEST = 100.0
_BANK, _COVERED = 2048, 0.2  # kernels of the mixture, and effective share of its draws that counts as cover
_ROUNDS = (2, 2, 4)  # draws of the mixture per particle


def settle(target: Target, x: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    """Draw particles anew by importance weights, where a mixture around the old ones covers the target.

    Tempered SMC leaves the resampling's noise in the weights of separate modes, and its short moves do not fill heavy
    tails. The weights are exact but for the largest, which are cut; each of three rounds reaches farther out than the
    one before, since kernels widen with the distance to their neighbours.

    Parameters
    ----------
    target : Target
    x : Tensor, shape (P, d)
        The pilot's particles.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape (N, d)
        As many particles as the last mixture's draws are worth, up to 4 P; those of the round before (`x` itself in
        the first) where a mixture does not cover the target.
    int
        How often the target was evaluated.

    References
    ----------
    Cappé et al. 2004 (population Monte Carlo); Ionides 2008 (cut weights).
    """
    evaluations = 0
    n = len(x)
    for per_particle in _ROUNDS:
        white = WhitenedTarget(target, x.mean(0), covariance_root(x), _LONGEST)
        few = x[torch.randperm(len(x), generator=generator, device=x.device)[:_BANK]]
        w, log_w = Bank(white.from_target(few), white.log_prob, generator).draw(per_particle * n, generator)
        evaluations += white.evaluations
        log_w = cut_weights(log_w)
        share = effective_share(log_w)
        if share < _COVERED:
            break
        drawn = w[systematic(log_w.softmax(0), generator)]
        worth = torch.randperm(len(drawn), generator=generator, device=x.device)[: int(share * len(drawn))]
        x = white.to_target(drawn[worth])
    return x, evaluations


def cut_weights(log_weights: Tensor) -> Tensor:
    """Log weights, none above the average weight times the root of their number.

    One draw far out in a tail that the mixture hardly reaches would outweigh thousands; cut, it counts as what it is, a
    hint. The bias vanishes as draws become many (Ionides 2008).
    """
    n = len(log_weights)
    most = log_weights.logsumexp(0) - 0.5 * math.log(n)
    return torch.minimum(log_weights, most)
