"""What an energy is trained by: diffusion contrastive divergence, and the contrastive divergence beside it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]  # (B, d) -> (B,)


def diffusion_contrastive_loss(energy: Energy, x: Tensor, noise: Tensor, proposals: Tensor, tau: float) -> Tensor:
    r"""Diffusion contrastive divergence with variance-exploding noise: no chains, no second derivatives.

    A diffusion brings data and model closer in KL; by how much is, for noise of width tau, up to a constant

    .. math:: E_x[E(x)] + E_{y = x + \tau\epsilon}\left[\log E_\xi e^{-E(y + \tau\xi)}\right],

    in which the normaliser cancels. With M proposals the logarithm is that of their average, and a 1 in their sum
    bounds it.

    Parameters
    ----------
    energy : callable
    x : Tensor, shape (B, d)
        Data.
    noise : Tensor, shape (B, d)
        Standard normal epsilon, one per datum.
    proposals : Tensor, shape (M, B, d)
        Standard normal xi.
    tau : float
        About the width of the finest structure, in units of x. Small: score matching; large: maximum likelihood, for
        which M must grow fast.

    Returns
    -------
    Tensor, shape ()

    References
    ----------
    Luo et al. 2023, arXiv 2307.01668; Schröder et al. 2023, arXiv 2307.06431 (energy discrepancy, the same functional).
    """
    m = len(proposals)
    near = x + tau * noise + tau * proposals
    here, there = energy(x), energy(near.flatten(0, 1)).reshape(m, len(x))
    gaps = torch.cat([torch.zeros_like(here)[None], here - there])  # exp(0) = 1 is the bound
    return (gaps.logsumexp(0) - math.log(m)).mean()


def contrastive_loss(energy: Energy, x: Tensor, negatives: Tensor, weight: float) -> Tensor:
    """Contrastive divergence: energies of data down, of chains up.

    Parameters
    ----------
    energy : callable
    x, negatives : Tensor, shape (B, d)
        Data, and ends of short chains.
    weight : float
        Of the mean squared energies, which keeps them from drifting off together.

    References
    ----------
    Hinton 2002; Tieleman 2008 (persistent chains); Du and Mordatch 2019 (the penalty).
    """
    up, down = energy(x), energy(negatives.detach())
    return (up - down).mean() + weight * (up.square() + down.square()).mean()
