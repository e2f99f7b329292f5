"""Euler's method on the probability-flow equation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sciinstruct.diffusion.solvers.base import Denoise, DiffusionSolver


@dataclass(frozen=True)
class Euler(DiffusionSolver):
    r"""Solve :math:`dx/d\sigma = (x - D)/\sigma` with straight steps, which is DDIM; order 1.

    Parameters
    ----------
    sigmas : sequence of float or Tensor
        Noise levels, strictly falling.
    denoise_final : bool
        End with ``D(x, sigmas[-1])``.

    References
    ----------
    Song, Meng and Ermon 2021, "DDIM", equation 13.
    """

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser one run costs."""
        return self.steps + self.denoise_final

    def path(self, denoise: Denoise, x: Tensor, noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield x at each next level; see `DiffusionSolver.path`."""
        for high, low in pairwise(self.levels):
            clean = denoise(x, high)
            x = clean + (low / high) * (x - clean)
            yield x
