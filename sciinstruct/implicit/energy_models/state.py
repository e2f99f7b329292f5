"""All that changes while an energy is trained."""

from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError
from sciinstruct.diffusion import EMA

_BETAS = (0.9, 0.99)
_CLIP = 10.0


class EnergyState:
    """The network, its optimiser and average, the persistent chains and the random state.

    Parameters
    ----------
    network : nn.Module
    chains : Tensor, shape (P, d)
        Of ``pcd``.
    generator : torch.Generator
        Source of all randomness.
    ema : float
        Decay of the average of weights.
    """

    def __init__(self, network: nn.Module, chains: Tensor, generator: torch.Generator, *, ema: float) -> None:
        self.network, self.chains, self.generator = network, chains, generator
        self.optimiser = torch.optim.Adam(network.parameters(), lr=0.0, betas=_BETAS)
        self.average = EMA(network, ema)
        self.step = 0

    def descend(self, loss: Tensor, rate: float) -> None:
        """One clipped Adam step."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self.optimiser.step()
        self.average.update(self.network)
        self.step += 1

    def dump(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        parts = {k: getattr(self, k).state_dict() for k in _PARTS}
        return parts | {"step": self.step, "chains": self.chains, "generator": self.generator.get_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`; raises SolverError if it belongs to other data or other settings."""
        try:
            for k in _PARTS:
                getattr(self, k).load_state_dict(saved[k])
            self.step = saved["step"]
            self.chains.copy_(saved["chains"])
            self.generator.set_state(saved["generator"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise SolverError(
                "the checkpoint belongs to other data or other settings; delete it to start afresh"
            ) from error


_PARTS = ("network", "optimiser", "average")
