"""An inverse problem: a prior and a likelihood; and what every solver of one looks like."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from sciinstruct.core.denoiser import Denoiser
from sciinstruct.core.errors import PriorError
from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.core.posterior import Posterior

Callback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class InverseProblem:
    """Prior times likelihood: what every solver takes.

    Parameters
    ----------
    prior : Denoiser
        In its own units; ``prior.to_physical`` maps to the likelihood's.
    likelihood : BaseLikelihood
        In physical units.
    coordinates : dict
        Pixel coordinates of the image axes for the results, ``{"y": (values, unit), "x": (values, unit)}``.
    name : str
        For reports.

    Raises
    ------
    PriorError
        If the prior's images have another shape than the likelihood expects.
    """

    prior: Denoiser
    likelihood: BaseLikelihood
    coordinates: dict[str, tuple[Any, str]] = field(default_factory=dict)
    name: str = "inverse problem"

    def __post_init__(self) -> None:
        if tuple(self.prior.event_shape) != tuple(self.likelihood.domain_shape):
            raise PriorError(
                f"the prior makes images of shape {tuple(self.prior.event_shape)} but the operator expects "
                f"{tuple(self.likelihood.domain_shape)}; choose a prior of that size or rebuild the operator"
            )

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log p(y | x), (B,), for `x` in the prior's units."""
        return self.likelihood.log_prob(self.prior.to_physical(x))


class Solver(Protocol):
    """Every solver's one verb."""

    def run(
        self,
        problem: InverseProblem,
        n_samples: int = 256,
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Posterior:
        """Return posterior samples in physical units."""
        ...
