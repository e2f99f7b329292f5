"""A network that learns: Adam, a falling rate, clipped gradients, averaged weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError
from sciinstruct.diffusion.edm import NoiseLevels, denoising_loss
from sciinstruct.diffusion.ema import EMA
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA


class Learner:
    """What steps down a loss.

    Parameters
    ----------
    network : nn.Module
        Trained in place.
    rate, clip, ema : float
        Adam's peak learning rate, largest gradient norm, decay of the average.
    """

    def __init__(self, network: nn.Module, *, rate: float, clip: float, ema: float) -> None:
        self.network, self.rate, self.clip = network, rate, clip
        self.optimiser = torch.optim.Adam(network.parameters(), lr=rate)
        self.average = EMA(network, ema)

    def descend(self, loss: Tensor, progress: float) -> float:
        """One Adam step at `progress` in [0, 1) of the run; returns the gradient's norm before clipping.

        Raises
        ------
        SolverError
            If the gradient is not finite; the network is then as it was.
        """
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        if not torch.isfinite(norm):
            raise SolverError(f"the gradient of {type(self.network).__name__} became NaN or infinite")
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * cosine_tail(progress)
        self.optimiser.step()
        self.average.update(self.network)
        return float(norm)

    def settle(self) -> None:
        """Put the average into the network: nothing is learned after that."""
        self.average.copy_to(self.network)

    def dump(self) -> dict[str, Any]:
        """Weights, optimiser, average."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `dump`."""
        for name in ("network", "optimiser", "average"):
            getattr(self, name).load_state_dict(saved[name])


def fit_denoiser(
    learner: Learner, x: Tensor, levels: NoiseLevels, progress: float, generator: torch.Generator
) -> float:
    """One step of denoising score matching on events x (B, *event) in the prior's units; returns the loss.

    Raises
    ------
    SolverError
        If the loss is not finite.
    """
    sigma = levels.sample(len(x), generator, x.device).to(x)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    loss = denoising_loss(learner.network, x, sigma, noise, SIGMA_DATA).mean()
    if not torch.isfinite(loss):
        raise SolverError("the denoising loss became NaN or infinite")
    learner.descend(loss, progress)
    return float(loss.detach())


def cosine_tail(progress: float) -> float:
    """Factor on a learning rate: one over the first half, then half a cosine down to 1 %."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * progress - 1)))
