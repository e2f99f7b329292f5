"""Plug-and-play diffusion models: a Gibbs sampler between the data and the prior, their coupling tightened as it runs.

Wu, Sun, Chen, Zhang, Yue and Bouman 2024, "Principled probabilistic imaging using diffusion models as plug-and-play
priors".
"""

import math
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, SolverError, make_generator, randn_like, track
from sciinstruct.diffusion import SASolver, log_uniform
from sciinstruct.inference.annealing import randomised_optimum
from sciinstruct.inference.baselines.chains import FEWEST_DRAWS, chain_diagnostics, require_arviz
from sciinstruct.inference.baselines.curvature import Curvature, data_curvature
from sciinstruct.inference.error_law import ErrorLaw
from sciinstruct.inference.scale import prior_scale

_NEWTON_STEPS = 2


@dataclass(frozen=True)
class PnPDM:
    r"""Split Gibbs sampling of an image and its noisy double, one chain per sample, all in one batch.

    At each coupling :math:`\rho`, falling geometrically, two draws in turn:

    .. math:: z \sim p(y | z) \, N(z; x, \rho^2 I), \qquad x \sim p(x) \, N(x; z, \rho^2 I) ,

    the second by the reverse diffusion (SA-Solver with noise) started from z at level :math:`\rho`.

    Parameters
    ----------
    top, bottom : float
        First and last :math:`\rho`, in units of the prior's standard deviation. The last is raised to the prior's
        smallest noise level if it is below.
    decay : float
        Ratio of one :math:`\rho` to the one before.
    steps_per_fold : float
        Steps of the reverse diffusion per factor e of noise level.
    record : int
        Further iterations at the last :math:`\rho`, whose images give R-hat and sample sizes of the chains (with
        arviz); 0 leaves that out, otherwise at least 4.

    Notes
    -----
    At a fixed :math:`\rho` the chain's law of x is :math:`p(x) \int p(y | z) N(z; x, \rho^2 I) dz`: for linear data
    with Gaussian noise the posterior with the noise's covariance raised by :math:`\rho^2 A A^T`. A chain moves by about
    :math:`\rho` per iteration and falls behind as :math:`\rho` falls: what measured directions keep is worth a noise
    variance larger by about 2 ln(1/decay) of itself, 10 % by default, and the weights of modes are those of the
    :math:`\rho` at which they part. Coarse steps of the reverse diffusion narrow the law, and by default make up for
    part of that. Data that are not linear get z from randomise-then-optimise, two Gauss-Newton steps, which is close to
    the law asked for and not equal to it.

    The defaults were chosen once, at about 1000 calls of the prior, by the sliced Wasserstein distance to exact
    posteriors of `sciinstruct.priors.problems` (seeds 100 to 103), from top 2 and 10, decay 0.85 to 0.97 and 1.5 to 6
    steps per fold. Slower decay comes nearer, at its cost.

    References
    ----------
    Wu et al. 2024, Algorithm 1.
    """

    top: float = 2.0
    bottom: float = 0.02
    decay: float = 0.95
    steps_per_fold: float = 3.0
    record: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bottom < self.top < math.inf:
            raise ValueError(f"expected 0 < bottom < top, got {self.bottom} and {self.top}")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, got {self.decay}")
        if not 0 < self.steps_per_fold < math.inf:
            raise ValueError(f"steps_per_fold must be positive and finite, got {self.steps_per_fold}")
        if self.record != 0 and self.record < FEWEST_DRAWS:
            raise ValueError(f"record must be 0 or at least {FEWEST_DRAWS}, got {self.record}")

    def run(
        self,
        problem: InverseProblem,
        n_samples: int = 256,
        *,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Posterior:
        r"""Run `n_samples` chains, all in one batch; the last image of each is its sample.

        Parameters
        ----------
        problem : InverseProblem
            Prior and likelihood; the operator may be non-linear, the likelihood must have whitened residuals.
        n_samples : int
            Number of samples; at least 2 if iterations are recorded.
        generator : torch.Generator or int, optional
            Source of randomness, on the problem's device.
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step, {"level": ..., "distance": ...})``: :math:`\rho`, and the root mean square of x - z.
        dtype : torch.dtype
            Precision of the images.

        Returns
        -------
        Posterior
            In physical units.

        Raises
        ------
        ValueError
            If `n_samples` is too small.
        NotImplementedError
            If the likelihood has no whitened residuals.
        SolverError
            If an image turns NaN or infinite; the text names the step.
        """
        if n_samples < (2 if self.record else 1):
            raise ValueError(f"n_samples must be positive, and at least 2 to record chains, got {n_samples}")
        if self.record:
            require_arviz()
        began = time.perf_counter()
        source = make_generator(generator)
        scale = prior_scale(problem, 128, source, torch.zeros((), dtype=dtype, device=source.device))
        data = data_curvature(problem, scale.draws)
        low = problem.prior.sigma_range[0]
        levels = self._levels(scale.sd, low)
        x = levels[0] * randn_like(scale.draws[:1].expand(n_samples, *scale.draws.shape[1:]), source)
        calls, kept = 0, []
        for step, rho in enumerate(track(levels, progress=progress, description="PnP-DM")):
            z = data_step(problem, data, x, rho, source)
            if not torch.isfinite(z).all():
                raise SolverError(f"PnP-DM became NaN or infinite at step {step}, in the draw given the data")
            solver = reverse_diffusion(rho, low, self.steps_per_fold)
            try:
                x = prior_step(problem, z, rho, solver, source)
            except SolverError as error:
                raise SolverError(f"PnP-DM stopped at step {step}, in the draw given the prior: {error}") from error
            calls += solver.evaluations if solver else 1
            kept += [x] if step >= len(levels) - self.record else []
            if callback is not None:
                callback(step, {"level": rho, "distance": float((x - z).square().mean().sqrt())})
        attributes = {
            "solver": "PnP-DM",
            "settings": asdict(self),
            "network_calls": calls,
            "seconds": time.perf_counter() - began,
        }
        diagnostics = chain_diagnostics(torch.stack(kept, 1)) if kept else {}
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes, diagnostics)

    def _levels(self, s: float, low: float) -> list[float]:
        top = max(self.top * s, 2 * low)
        bottom = min(max(self.bottom * s, low), 0.99 * top)
        n = max(2, 1 + math.ceil(math.log(bottom / top) / math.log(self.decay)))
        levels: list[float] = log_uniform(n, bottom, top).tolist()
        return levels + [bottom] * self.record


def data_step(problem: InverseProblem, data: Curvature, x: Tensor, rho: float, generator: torch.Generator) -> Tensor:
    """Draw z of density p(y | z) N(z; x, rho^2 I), exactly if the data are affine in z with Gaussian noise."""
    if data.slope is None:
        centre = x + rho * randn_like(x, generator)
        law = ErrorLaw(torch.full_like(x[0], rho), None)
        return randomised_optimum(problem, centre, law, _NEWTON_STEPS, generator)
    tight = rho**-2
    white = randn_like(x, generator).flatten(1)
    mean = data.apply(lambda e: 1 / (e + tight), tight * x.flatten(1) - data.slope)
    return (mean + data.apply(lambda e: (e + tight).rsqrt(), white)).reshape(x.shape)


def reverse_diffusion(rho: float, low: float, steps_per_fold: float) -> SASolver | None:
    """Solver from level `rho` to a denoised image; None if `rho` is within half a step of the lowest level."""
    steps = round(steps_per_fold * math.log(rho / low))
    return SASolver(log_uniform(steps + 1, low, rho), 2, 2, tau=1.0) if steps else None


@torch.no_grad()
def prior_step(
    problem: InverseProblem, z: Tensor, rho: float, solver: SASolver | None, generator: torch.Generator
) -> Tensor:
    """Draw x of density p(x) N(x; z, rho^2 I), in the limit of many steps of `solver`.

    The clean image given the one at the last level is taken for the denoised one plus noise of that level, right where
    the prior is much wider. Without that noise each draw would be too narrow, and the chain as a whole by as much.
    """
    if solver is None:
        clean, last = problem.prior.denoise(z, rho), rho
    else:
        clean, last = solver(problem.prior.denoise, z, generator=generator), solver.levels[-1]
    if not torch.isfinite(clean).all():
        raise SolverError("the denoised image is NaN or infinite")
    return clean + last * randn_like(clean, generator)
