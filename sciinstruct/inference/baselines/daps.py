"""Decoupled annealing posterior sampling: noise, denoise, draw an image near the denoised one that the data allow.

Zhang, Chu, Berner, Meng, Anandkumar and Song 2024, "Improving diffusion inverse problem solving with decoupled noise
annealing".
"""

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, SolverError, make_generator, randn_like, track
from sciinstruct.diffusion import log_uniform
from sciinstruct.inference.scale import prior_scale

_WANTED = 0.7  # acceptance of proposals
_LOW = 0.2  # acceptance below which a run is reported as doubtful


@dataclass(frozen=True)
class DAPS:
    r"""Decoupled noise annealing, one chain per sample, all in one batch.

    At each noise level :math:`\sigma` three draws:

    1. :math:`\hat{x}`, the end of the probability-flow equation from the noisy image, in a few Euler steps;
    2. the clean image from :math:`N(\hat{x}, r^2 I) \, p(y | x)`, by Hamiltonian Monte Carlo;
    3. the noisy image at the next level from the clean one, by fresh noise,

    with :math:`r^2 = \sigma^2 s^2 / (\sigma^2 + s^2)`, s the prior's standard deviation times `spread`.

    Parameters
    ----------
    spread : float
        s in units of the prior's standard deviation, root mean square over pixels; infinite for the paper's
        :math:`r = \sigma`.
    levels : int
        Noise levels, uniform in the logarithm from the prior's largest to its smallest.
    ode_steps : int
        Calls of the denoiser per level. One gives :math:`\hat{x} = D(x; \sigma)`.
    moves : int
        Proposals per level, each accepted or rejected.
    leapfrogs : int
        Steps of the dynamics per proposal, each a gradient of the likelihood; 1 is Langevin sampling.

    Notes
    -----
    Exact, but for the length of the chains, where the clean image given the noisy one has the law assumed: an
    uncorrelated Gaussian prior of one variance, with ``spread=1`` and ``ode_steps=1``. The operator need not be linear
    and the likelihood needs no residuals. Elsewhere one variance for all directions is a guess, and its errors do not
    fade with more levels; a chain too short to leave a side minimum of the misfit stays there. The end of a flow of
    many steps already has the prior's spread, and the draw around it adds more: where data say nothing, the variance of
    a Gaussian doubles.

    As published: ``DAPS(spread=float("inf"), levels=200, ode_steps=5)``, 1000 calls, and Langevin steps from
    :math:`\hat{x}` without rejection, of a tuned size. Here the steps' size is adapted to an acceptance of 0.7 as the
    run goes, and chains start from draws around :math:`\hat{x}`.

    The defaults have the smallest sliced Wasserstein distance to exact posteriors of `sciinstruct.priors.problems`
    (mixtures in the plane and of 16x16 fields), relative to that between exact draws, among `spread` of 0.5, 1, 2 and
    infinity with `ode_steps` of 1 and 5 (50 levels), then of 50, 100 and 200 levels; ``spread=2`` does as well.

    References
    ----------
    Zhang et al. 2024, Algorithm 1 and section 3.2.
    """

    spread: float = 1.0
    levels: int = 200
    ode_steps: int = 1
    moves: int = 10
    leapfrogs: int = 5

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, got {self.levels}")
        if min(self.ode_steps, self.moves, self.leapfrogs) < 1:
            raise ValueError(f"ode_steps, moves and leapfrogs must be at least 1, got {self}")
        if not self.spread > 0:
            raise ValueError(f"spread must be positive, got {self.spread}")

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
        """Draw `n_samples` images, all in one batch.

        Parameters
        ----------
        problem : InverseProblem
            Prior and likelihood; the operator may be non-linear.
        n_samples : int
            Number of samples.
        generator : torch.Generator or int, optional
            Source of randomness, on the problem's device.
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step, {"data": ..., "acceptance": ..., "level": ...})``: mean negative log-likelihood, share of
            proposals accepted, and noise level.
        dtype : torch.dtype
            Precision of the images.

        Returns
        -------
        Posterior
            In physical units; ``attributes["network_calls"]`` counts calls of the denoiser per sample,
            ``diagnostics["acceptance"]`` the share of proposals accepted over the lower half of the levels.

        Raises
        ------
        ValueError
            If `n_samples` is not positive.
        SolverError
            If an image turns NaN or infinite, or the likelihood is at all images; the text names the step.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be positive, got {n_samples}")
        began, source = time.perf_counter(), make_generator(generator)
        scale = prior_scale(problem, 128, source, torch.zeros((), dtype=dtype, device=source.device))
        low, high = problem.prior.sigma_range
        levels, s = log_uniform(self.levels, low, high).tolist(), self.spread * scale.sd
        image = torch.zeros_like(scale.draws[:1]).expand(n_samples, *problem.prior.event_shape)
        chains, accepted, calls = Chains(problem, self.moves, self.leapfrogs, source), [], 0
        for step, sigma in enumerate(track(levels, progress=progress, description="decoupled annealing")):
            grid = self._grid(sigma, low)
            end = flow(problem, image + sigma * randn_like(image, source), grid)
            calls += len(grid)
            image, energy = chains.draw(end, 1 / (1 / sigma**2 + 1 / s**2) ** 0.5)
            if not (torch.isfinite(image).all() and torch.isfinite(energy).any()):
                raise SolverError(f"decoupled annealing: image or likelihood NaN or infinite at step {step}")
            accepted.append(chains.acceptance)
            if callback is not None:
                data = float(energy[torch.isfinite(energy)].mean())
                callback(step, {"data": data, "acceptance": chains.acceptance, "level": sigma})
        attributes = {"solver": "DAPS", "settings": asdict(self), "network_calls": calls}
        attributes["seconds"] = time.perf_counter() - began
        return Posterior(problem.prior.to_physical(image), problem.coordinates, attributes, _diagnostics(accepted))

    def _grid(self, sigma: float, low: float) -> list[float]:
        """Levels at which the flow from `sigma` calls the denoiser."""
        if self.ode_steps == 1 or sigma <= low:
            return [sigma]
        return log_uniform(self.ode_steps, low, sigma).tolist()


class _Point(NamedTuple):
    """A place of every chain, in units of the radius around the centre."""

    at: Tensor  # (B, *event)
    data: Tensor  # (B,): -log p(y | x)
    slope: Tensor  # (B, *event): gradient of the whole energy in `at`

    @property
    def energy(self) -> Tensor:
        """Of the law sampled, (B,)."""
        return self.data + _half_square(self.at)


class Chains:
    """Hamiltonian Monte Carlo of clean images, one chain each; the size of its steps is carried from level to level."""

    def __init__(self, problem: InverseProblem, moves: int, leapfrogs: int, generator: torch.Generator) -> None:
        self._problem, self._moves, self._leapfrogs, self._generator = problem, moves, leapfrogs, generator
        self._step = 0.1
        self.acceptance = 0.0  # of the last draw's proposals

    def draw(self, centre: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """Images (B, *event) from N(centre, radius^2 I) times the likelihood, and their -log p(y | x), (B,)."""
        point, total = self._point(centre, radius, randn_like(centre, self._generator)), 0.0
        for _ in range(self._moves):
            momentum = randn_like(centre, self._generator)
            jitter = 0.8 + 0.4 * float(torch.rand((), generator=self._generator, device=centre.device))
            proposal, end = self._leap(centre, radius, point, momentum, jitter * self._step)
            change = proposal.energy + _half_square(end) - point.energy - _half_square(momentum)
            chance = torch.where(point.energy.isfinite(), (-change).exp().clamp(max=1.0), 1.0)  # out of nowhere: always
            chance = torch.where(proposal.energy.isfinite(), chance, 0.0)
            keep = (
                torch.rand(chance.shape, generator=self._generator, dtype=chance.dtype, device=chance.device) < chance
            )
            point = _Point(*(torch.where(_like(keep, new), new, old) for new, old in zip(proposal, point)))
            share = float(chance.mean())
            self._step = min(self._step * 2.0 ** (share - _WANTED), 1.0)
            total += share
        self.acceptance = total / self._moves
        return centre + radius * point.at, point.data

    def _leap(
        self, centre: Tensor, radius: float, point: _Point, momentum: Tensor, step: float
    ) -> tuple[_Point, Tensor]:
        """End of the dynamics from `point`, and its momentum."""
        for _ in range(self._leapfrogs):
            momentum = momentum - 0.5 * step * point.slope
            point = self._point(centre, radius, point.at + step * momentum)
            momentum = momentum - 0.5 * step * point.slope
        return point, momentum

    def _point(self, centre: Tensor, radius: float, at: Tensor) -> _Point:
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            data = -self._problem.log_likelihood(centre + radius * leaf)
            (slope,) = torch.autograd.grad(data.sum(), leaf)
        return _Point(at, data.detach(), at + slope)


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.flatten(1).square().sum(1)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (x.ndim - 1))


def flow(problem: InverseProblem, x: Tensor, levels: list[float]) -> Tensor:
    """End at level zero of the probability-flow equation from `x` at the first of `levels`, by Euler's method."""
    with torch.no_grad():
        for high, low in pairwise([*levels, 0.0]):
            clean = problem.prior.denoise(x, high)
            x = clean + (low / high) * (x - clean)
    return x


def _diagnostics(acceptance: list[float]) -> dict[str, Any]:
    lower = acceptance[len(acceptance) // 2 :]
    mean = sum(lower) / len(lower)
    warnings = [f"only {mean:.0%} of proposals accepted: raise leapfrogs or moves"] if mean < _LOW else []
    return {"acceptance": mean, "warnings": warnings}
