"""DPM-Solver++(2M) and its stochastic form."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sciinstruct.diffusion.solvers.base import Denoise, DiffusionSolver


@dataclass(frozen=True)
class DPMpp2M(DiffusionSolver):
    r"""Two-step exponential integrator in :math:`\lambda = -\log\sigma`, one evaluation a step, order 2.

    The best solver at 6 to 10 evaluations.

    Parameters
    ----------
    sigmas : sequence of float or Tensor
        Noise levels, strictly falling.
    eta : float
        Noise strength: 0 is the published deterministic solver, 1 the usual reverse diffusion (SDE-DPM-Solver++(2M),
        midpoint form). It is SA-Solver's :math:`\tau^2`.
    denoise_final : bool
        End with ``D(x, sigmas[-1])``.

    Raises
    ------
    ValueError
        If `eta` is negative or not finite.

    References
    ----------
    Lu et al. 2022, "DPM-Solver++", algorithm 2 and appendix on the SDE solvers.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta must be finite and not negative, got {self.eta}")

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser one run costs."""
        return self.steps + self.denoise_final

    def path(self, denoise: Denoise, x: Tensor, noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield x at each next level; see `DiffusionSolver.path`."""
        previous, h_previous = None, 0.0
        for high, low in pairwise(self.levels):
            h = math.log(high / low)
            clean = denoise(x, high)
            target = clean if previous is None else clean + (0.5 * h / h_previous) * (clean - previous)
            x = math.exp(-(1 + self.eta) * h) * x - math.expm1(-(1 + self.eta) * h) * target
            if self.eta > 0:
                x = x + low * math.sqrt(-math.expm1(-2 * self.eta * h)) * noise()
            previous, h_previous = clean, h
            yield x
