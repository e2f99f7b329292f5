"""How a variational law is asked for, and how it starts on a given problem."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem
from sciinstruct.inference.families.mixture import FullGaussianMixture, GaussianMixtureFamily, LowRankGaussianMixture
from sciinstruct.inference.frames import Frames, isotropic_frames, laplace_frames


class Scale(NamedTuple):
    """Draws of the prior and their overall standard deviation."""

    draws: Tensor  # (n, *event)
    sd: float  # root mean variance per coordinate


def prior_scale(problem: InverseProblem, n: int, generator: torch.Generator | None, like: Tensor) -> Scale:
    """Draw `n` images of the prior (at least two) and measure their spread."""
    draws = problem.prior.sample(max(n, 64), generator=generator, dtype=like.dtype, device=like.device)
    return Scale(draws, float(draws.var(0).mean().sqrt()))


def spread(problem: InverseProblem, scale: Scale, k: int, generator: torch.Generator | None) -> Tensor:
    """Choose `k` of the prior's draws far from each other, as k-means++ seeds clusters; `k` at most the number of draws.

    Distances are between denoised draws, so that they tell modes apart rather than noise.
    """
    with torch.no_grad():
        blurred = problem.prior.denoise(scale.draws, scale.sd).flatten(1)
    chosen = [int(torch.randint(len(blurred), (1,), generator=generator, device=blurred.device))]
    nearest = torch.full((len(blurred),), float("inf"), dtype=blurred.dtype, device=blurred.device)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, (blurred - blurred[chosen[-1]]).square().sum(1))
        chosen.append(int(torch.multinomial(nearest, 1, generator=generator)))
    return scale.draws[chosen]


@dataclass(frozen=True)
class Mixture:
    """Gaussian mixture with learned weights; its diffused score is closed-form.

    Parameters
    ----------
    components : int
        Number of Gaussians, each from its own start: also the number of restarts.
    rank : int, optional
        Rank of the low-rank part of each covariance; None learns full covariances.
    laplace_levels : tuple of float
        Noise levels, in units of the prior's standard deviation, at which the prior is made locally Gaussian to start each component
        from a Laplace approximation; empty starts from draws of the prior with a spherical covariance.
    """

    components: int = 8
    rank: int | None = 32
    laplace_levels: tuple[float, ...] = (1.0, 0.3, 0.1)

    def build(
        self, problem: InverseProblem, sigma_min: float, generator: torch.Generator | None, like: Tensor, starts: Tensor | None = None
    ) -> GaussianMixtureFamily:
        """Make the family at its start; `starts` (K, *event) replaces draws of the prior."""
        event = tuple(problem.prior.event_shape)
        scale = prior_scale(problem, 16 * self.components, generator, like)
        x = starts if starts is not None else spread(problem, scale, self.components, generator)
        frames = self._frames(problem, x, scale.sd, sigma_min, generator)
        if self.rank is None:
            return FullGaussianMixture(frames, event)
        return LowRankGaussianMixture(frames, event, min(self.rank, frames.mean.shape[1]))

    def _frames(
        self, problem: InverseProblem, x: Tensor, sd: float, sigma_min: float, generator: torch.Generator | None
    ) -> Frames:
        if not self.laplace_levels:
            return isotropic_frames(x, 0.5 * sd)
        levels = tuple(level * sd for level in self.laplace_levels)
        frames, _ = laplace_frames(problem, x, levels, smallest=0.5 * sigma_min, widest=3 * sd, generator=generator)
        return frames
