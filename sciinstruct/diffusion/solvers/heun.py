"""The EDM sampler: Heun's method, with optional churn."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from sciinstruct.diffusion.solvers.base import Denoise, DiffusionSolver

MAX_GAIN = math.sqrt(2) - 1  # largest relative rise of the noise level in one step


@dataclass(frozen=True)
class Heun(DiffusionSolver):
    r"""Solve :math:`dx/d\sigma = (x - D)/\sigma` with Heun steps, order 2 at two evaluations a step.

    Parameters
    ----------
    sigmas : sequence of float or Tensor
        Noise levels, strictly falling.
    churn : float
        Noise added before the steps inside `churn_range` raises the level by ``churn / len(sigmas)`` of itself, at most
        :math:`\sqrt 2 - 1`; 0 gives the deterministic sampler.
    churn_range : tuple of float
        Smallest and largest level churned.
    churn_std : float
        Standard deviation of the noise added, relative to what keeps the law; 1 is the consistent choice.
    denoise_final : bool
        End with ``D(x, sigmas[-1])``, which is the published sampler's last step to zero.

    Raises
    ------
    ValueError
        If `churn` is negative, `churn_range` does not rise, or `churn_std` is not positive.

    References
    ----------
    Karras et al. 2022, algorithm 1 (``churn=0``) and algorithm 2.
    """

    churn: float = field(default=0.0, kw_only=True)
    churn_range: tuple[float, float] = field(default=(0.0, math.inf), kw_only=True)
    churn_std: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.churn < math.inf:
            raise ValueError(f"churn must be finite and not negative, got {self.churn}")
        if not self.churn_range[0] < self.churn_range[1]:
            raise ValueError(f"churn_range must rise, got {self.churn_range}")
        if not 0 < self.churn_std < math.inf:
            raise ValueError(f"churn_std must be positive, got {self.churn_std}")

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser one run costs."""
        return 2 * self.steps + self.denoise_final

    def path(self, denoise: Denoise, x: Tensor, noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield x at each next level; see `DiffusionSolver.path`."""
        gain = min(self.churn / len(self.levels), MAX_GAIN)
        lowest, highest = self.churn_range
        for high, low in pairwise(self.levels):
            if gain > 0 and lowest <= high <= highest:
                raised = high * (1 + gain)
                x = x + self.churn_std * math.sqrt(raised**2 - high**2) * noise()
                high = raised
            slope = (x - denoise(x, high)) / high
            guess = x + (low - high) * slope
            x = x + (low - high) * 0.5 * (slope + (guess - denoise(guess, low)) / low)
            yield x
