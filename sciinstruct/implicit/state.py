"""All that changes while an implicit sampler is trained."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError
from sciinstruct.diffusion import EMA

_BETAS = (0.5, 0.99)


class TrainingState:
    """Both networks, their optimisers, the averaged generator, the random state and the curves.

    Parameters
    ----------
    network, score : nn.Module
        Generator and score network.
    generator : torch.Generator
        Source of all randomness.
    ema : float
        Decay of the average of the generator's weights.
    clip : float
        Longest gradient.
    """

    def __init__(
        self, network: nn.Module, score: nn.Module, generator: torch.Generator, *, ema: float, clip: float
    ) -> None:
        self.network, self.score, self.generator, self.clip = network, score, generator, clip
        self.optimiser = torch.optim.Adam(network.parameters(), lr=0.0, betas=_BETAS)
        self.score_optimiser = torch.optim.Adam(score.parameters(), lr=0.0, betas=_BETAS)
        self.average = EMA(network, ema)
        self.step = 0
        self.skipped = 0  # generator steps without a usable gradient, in all
        self.in_a_row = 0
        self.bad_rows = 0
        self.evaluations = 0
        self.seconds = 0.0
        self.curves: dict[str, list[float]] = {}
        self.first: list[float] = []  # the check before the first step
        self.best: dict[str, Any] | None = None  # the discrepancy and weights of the best check

    def draw(self, n: int) -> Tensor:
        """Points of the present generator, (n, d), with their graph."""
        return self.network(self.network.draw_latent(n, self.generator))  # type: ignore[operator]

    def record(self, **values: float) -> None:
        """Append one value to each curve."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(float(value))

    def follow(self, loss: Tensor, rate: float) -> None:
        """One step of the score network; raises SolverError if its loss is not finite."""
        if not torch.isfinite(loss):
            raise SolverError(f"the score network's loss became NaN or infinite at step {self.step}; lower score_rate")
        _descend(loss, self.score, self.score_optimiser, rate, self.clip)

    def descend(self, loss: Tensor, rate: float) -> float:
        """One step of the generator, left out if loss or gradient is not finite; returns the gradient's norm."""
        norm = _descend(loss, self.network, self.optimiser, rate, self.clip) if torch.isfinite(loss) else math.nan
        self.in_a_row = 0 if math.isfinite(norm) else self.in_a_row + 1
        self.skipped += not math.isfinite(norm)
        return norm

    def dump(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        plain = {k: getattr(self, k) for k in _PLAIN}
        parts = {k: getattr(self, k).state_dict() for k in _PARTS}
        return plain | parts | {"generator": self.generator.get_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`; raises SolverError if it belongs to another target or other settings."""
        try:
            for k in _PARTS:
                getattr(self, k).load_state_dict(saved[k])
            for k in _PLAIN:
                setattr(self, k, saved[k])
            self.generator.set_state(saved["generator"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise SolverError(
                "the checkpoint belongs to another target or other settings; delete it to start afresh"
            ) from error


_PARTS = ("network", "score", "optimiser", "score_optimiser", "average")
_PLAIN = ("step", "skipped", "in_a_row", "bad_rows", "evaluations", "seconds", "curves", "first", "best")


def _descend(loss: Tensor, module: nn.Module, optimiser: torch.optim.Optimizer, rate: float, clip: float) -> float:
    """One clipped Adam step on the module's parameters alone; NaN and no step if a gradient is not finite."""
    parameters = list(module.parameters())
    for p, grad in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True)):
        p.grad = grad
    norm = float(nn.utils.clip_grad_norm_(parameters, clip))
    if math.isfinite(norm):
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    return norm
