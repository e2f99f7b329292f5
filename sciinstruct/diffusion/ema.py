"""Averages of the weights along training: what sampling uses."""

import math

import torch
from torch import Tensor, nn


def exponential_decay(step: int, decay: float) -> float:
    """Decay at `step` (1, 2, ...) of an exponential average that starts short: min(decay, 1 - 1/(1 + step/20))."""
    return min(decay, 1 - 1 / (1 + 0.05 * step))


def power_decay(step: int, width: float) -> float:
    """Decay at `step` of a power-function average whose profile has standard deviation `width` times the run so far.

    Source: Karras et al. 2024 (EDM2), section 3.1; `width` below 0.289, the value of a plain mean.
    """
    return (1 - 1 / step) ** (power_exponent(width) + 1)


def power_exponent(width: float) -> float:
    """Exponent gamma whose profile t^gamma on [0, 1] has standard deviation `width`: root of a cubic, by bisection."""
    if not 0 < width < math.sqrt(1 / 12):
        raise ValueError(f"width must be between 0 and {math.sqrt(1 / 12):.3f}, got {width}")
    low, high = 0.0, 4 / width
    for _ in range(100):
        gamma = (low + high) / 2
        spread = math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
        low, high = (gamma, high) if spread > width else (low, gamma)
    return (low + high) / 2


class EMA:
    """A running average of a module's parameters; buffers are not averaged.

    Parameters
    ----------
    module : Module
        Whose parameters are followed; the average starts at them.
    decay : float
        Exponential average's decay, below 1.
    width : float, optional
        If given, a power-function average of this relative width instead.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, width: float | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        if width is not None:
            power_exponent(width)  # refuse a bad width now
        self.decay, self.width, self.step = decay, width, 0
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's parameters after one training step."""
        self.step += 1
        decay = exponential_decay(self.step, self.decay) if self.width is None else power_decay(self.step, self.width)
        current = dict(module.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [current[k].detach() for k in self.average], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the average into `module`, which has the same parameters."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.average[name])

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """Number of updates, and the average."""
        return {"step": self.step, "average": self.average}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Inverse of `state_dict`, in place."""
        self.step = int(state["step"])  # type: ignore[arg-type]
        for name, value in self.average.items():
            value.copy_(state["average"][name])  # type: ignore[index]
