"""How a variational law is asked for, and how it starts on a given problem."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sciinstruct.core import InverseProblem
from sciinstruct.inference.annealing import AnnealedGaussNewton
from sciinstruct.inference.auxiliary import Auxiliary, GaussianFit, NetworkScore, ParticleScore, auxiliary_network
from sciinstruct.inference.families.base import Family
from sciinstruct.inference.families.mixture import FullGaussianMixture, GaussianMixtureFamily, LowRankGaussianMixture
from sciinstruct.inference.families.networks import residual_network
from sciinstruct.inference.families.particles import GeneratorFamily, ParticleFamily
from sciinstruct.inference.frames import Frames, isotropic_frames, laplace_frames
from sciinstruct.inference.scale import Scale, more_draws
from sciinstruct.inference.weights import settle_weights


class Law(NamedTuple):
    """A variational law and what gives its score: None where the law itself does."""

    family: Family
    auxiliary: Auxiliary | None


def spread(problem: InverseProblem, scale: Scale, k: int, generator: torch.Generator | None) -> Tensor:
    """Choose `k` of the prior's draws far from each other, as k-means++ seeds clusters.

    Distances are between denoised draws, so that they tell modes apart rather than noise.
    """
    with torch.no_grad():
        blurred = problem.prior.denoise(scale.draws, scale.sd).flatten(1)
    if k > len(blurred):
        raise ValueError(f"at most {len(blurred)} components can start from the draws at hand, got {k}")
    chosen = [int(torch.randint(len(blurred), (1,), generator=generator, device=blurred.device))]
    nearest = torch.full((len(blurred),), float("inf"), dtype=blurred.dtype, device=blurred.device)
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, (blurred - blurred[chosen[-1]]).square().sum(1))
        chosen.append(int(torch.multinomial(nearest, 1, generator=generator)))
    return scale.draws[chosen]


@contextlib.contextmanager
def _layers_from(generator: torch.Generator) -> Iterator[None]:
    """New layers start from torch's global generator: seed it from `generator`, and put it back after."""
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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
        Noise levels, in units of the prior's standard deviation, at which the prior is made locally Gaussian to start
        each component from a Laplace approximation; empty starts from draws of the prior with a spherical covariance.
    """

    components: int = 32
    rank: int | None = 32
    laplace_levels: tuple[float, ...] = (0.6, 0.2)

    def build(
        self,
        problem: InverseProblem,
        scale: Scale,
        sigma_min: float,
        generator: torch.Generator,
        starts: Tensor | None = None,
    ) -> Law:
        """Make the law at its start; `starts` (K, *event) replaces draws of the prior."""
        return Law(self.build_mixture(problem, scale, sigma_min, generator, starts), None)

    def build_mixture(
        self,
        problem: InverseProblem,
        scale: Scale,
        sigma_min: float,
        generator: torch.Generator | None,
        starts: Tensor | None,
    ) -> GaussianMixtureFamily:
        """The mixture itself, for other laws to start from."""
        event = tuple(problem.prior.event_shape)
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
        return laplace_frames(problem, x, levels, smallest=0.5 * sigma_min, widest=3 * sd, generator=generator)


@dataclass(frozen=True)
class Particles:
    """Particles with a kernel of width `tau` and an auxiliary score of chosen smoothness.

    Parameters
    ----------
    count : int
        Number of particles.
    tau : float
        Kernel width in units of the prior's standard deviation; unused with the Gaussian fit.
    auxiliary : {"gaussian", "network", "exact"}
        Score of the law: a Gaussian fit, an online network (a copy of a trained prior's, where there is one), or the
        exact kernel mixture, which under-disperses above a few dimensions.
    warmup, auxiliary_steps : int
        Fits of the auxiliary network before the first step, and per step.
    start : AnnealedGaussNewton, optional
        How `PPM` starts the particles; None starts at draws of the prior.
    """

    count: int = 64
    tau: float = 0.02
    auxiliary: Literal["gaussian", "network", "exact"] = "gaussian"
    warmup: int = 300
    auxiliary_steps: int = 2
    start: AnnealedGaussNewton | None = None

    def build(
        self,
        problem: InverseProblem,
        scale: Scale,
        sigma_min: float,
        generator: torch.Generator,
        starts: Tensor | None = None,
    ) -> Law:
        """Make the law at its start, or at `starts` (K, *event)."""
        points = starts if starts is not None else more_draws(problem, scale, self.count, generator)
        tau = 0.0 if self.auxiliary == "gaussian" else self.tau * scale.sd
        family = ParticleFamily(points, scale.sd, tau)
        if self.auxiliary == "gaussian":
            return Law(family, GaussianFit(self.count))
        if self.auxiliary == "exact":
            return Law(family, ParticleScore(family))
        trained = isinstance(getattr(problem.prior, "denoiser", None), nn.Module)
        with contextlib.nullcontext() if trained else _layers_from(generator):
            network = auxiliary_network(problem.prior, family.event_shape, scale.sd, points)
        rate = 5e-4 if trained else 2e-3  # a trained copy only has to follow
        score = NetworkScore(network, scale.sd, steps=self.auxiliary_steps, warmup=self.warmup, learning_rate=rate)
        return Law(family, score)


@dataclass(frozen=True)
class Generator:
    """A residual network on draws of a Gaussian-mixture start, with an auxiliary network for its score.

    The network bends the start's law but moves no weight between far modes: the start's weights are settled first.

    Parameters
    ----------
    start : Mixture
        Where it starts.
    width : int
        Hidden units (vectors) or channels (images) of the generator.
    auxiliary_steps, warmup : int
        Fits of the auxiliary network per generator step, and before the first.
    weight_rounds : int
        Evaluations that settle the weights of a start from Laplace frames; a start without them keeps equal weights.
    """

    start: Mixture = field(default_factory=Mixture)
    width: int = 64
    auxiliary_steps: int = 3
    warmup: int = 500
    weight_rounds: int = 384

    def build(
        self,
        problem: InverseProblem,
        scale: Scale,
        sigma_min: float,
        generator: torch.Generator,
        starts: Tensor | None = None,
    ) -> Law:
        """Make the law at its start."""
        base = self.start.build_mixture(problem, scale, sigma_min, generator, starts)
        if self.start.laplace_levels and base.n_components > 1 and self.weight_rounds > 0:
            settle_weights(problem, base, scale, sigma_min, self.weight_rounds, 8, generator)
        unit, like = scale.sd, scale.draws
        with _layers_from(generator):
            network: nn.Module = residual_network(base.event_shape, self.width).to(like)
            score = auxiliary_network(problem.prior, base.event_shape, unit, like)
        auxiliary = NetworkScore(score, unit, steps=self.auxiliary_steps, warmup=self.warmup)
        return Law(GeneratorFamily(base, network, unit), auxiliary)
