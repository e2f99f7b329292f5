"""All that changes while a variational law is fitted, and how it is kept on disk."""

import math
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import SolverError
from sciinstruct.inference.auxiliary import Auxiliary
from sciinstruct.inference.families import Family


class RunState:
    """The law, its auxiliary score, optimiser and average, the random state and the recorded curves.

    Parameters
    ----------
    family, auxiliary : Family, Auxiliary or None
        The law and what gives its score, if it does not itself.
    generator : torch.Generator
        Source of all randomness.
    smin, smax : float
        Noise levels, in the prior's units.
    window : float
        Steps over which the parameters are averaged.
    damping : float
        Adam's epsilon.
    """

    def __init__(
        self,
        family: Family,
        auxiliary: Auxiliary | None,
        generator: torch.Generator,
        smin: float,
        smax: float,
        *,
        window: float,
        damping: float,
    ) -> None:
        self.family, self.auxiliary, self.generator = family, auxiliary, generator
        self.smin, self.smax, self.step = smin, smax, 0
        self.curves: dict[str, list[float]] = {}
        self.parameters = [p for p in family.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(self.parameters, lr=0.0, betas=(0.9, 0.99), eps=damping)
        self.decay = 1 - 1 / max(2.0, window)
        self.average = [p.detach().clone() for p in self.parameters]

    def record(self, **values: float) -> None:
        """Append one value to each curve."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(float(value))

    def descend(self, loss: Tensor, rate: float) -> float:
        """One Adam step on the law's parameters alone; returns the gradient's norm."""
        for p, grad in zip(self.parameters, torch.autograd.grad(loss, self.parameters)):
            p.grad = self.family.rescale(grad)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, math.inf)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.decay)
        return float(norm)

    def use_average(self) -> None:
        """Put the averaged parameters into the law: the end of the run."""
        with torch.no_grad():
            for mean, p in zip(self.average, self.parameters):
                p.copy_(mean)

    def dump(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        saved: dict[str, Any] = {
            "family": self.family.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "generator": self.generator.get_state(),
            "step": self.step,
            "curves": self.curves,
        }
        if self.auxiliary is not None:
            saved["auxiliary"] = self.auxiliary.dump()
        return saved

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`; raises SolverError if it belongs to another problem or law."""
        try:
            self.family.load_state_dict(saved["family"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.average = [a.to(b) for a, b in zip(saved["average"], self.average)]
            self.generator.set_state(saved["generator"])
            self.step, self.curves = saved["step"], saved["curves"]
            if self.auxiliary is not None:
                self.auxiliary.restore(saved["auxiliary"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise SolverError("the checkpoint belongs to another problem or law; delete it to start afresh") from error
