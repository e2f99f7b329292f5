"""The pilot: particles by tempered sequential Monte Carlo, which find a target's place, widths and separate modes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import SolverError, make_generator, randn_like
from sciinstruct.implicit.targets.base import Target

_ACCEPTANCE = 0.574  # optimal for Langevin proposals in high dimension
_MAX_STAGES = 500
_STEP_SPREAD = 0.7  # of log step over particles
_EFFECTIVE = 0.8  # share of particles that stay effective from one temperature to the next


class Particles(NamedTuple):
    """What tempered SMC returns."""

    x: Tensor  # (n, d), unconstrained coordinates
    log_normalizer: float  # estimate of the log of the integral of exp(log_prob)
    temperatures: tuple[float, ...]  # ends with 1
    acceptance: float  # of the moves on the target itself
    evaluations: int  # gradients of the target


class _Cloud:
    """Particles with their log densities and scores under start law and target."""

    def __init__(self, target: Target, x: Tensor, scale: float) -> None:
        self.target, self.scale, self.evaluations = target, scale, 0
        self.x = x
        self.log_q, self.score_q = self.evaluate(x)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and score of the target; rows that are not finite count as impossible."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            value = self.target.log_prob(leaf)
            score = torch.autograd.grad(value.sum(), leaf)[0]
        self.evaluations += len(x)
        if (value == math.inf).any():
            raise SolverError(
                f"log_prob of {self.target.name!r} reaches +infinity: the density is unbounded; check its formula"
            )
        ok = value.isfinite() & score.isfinite().all(1)
        return torch.where(ok, value.detach(), -math.inf), torch.where(ok[:, None], score, 0.0)

    def log_start(self, x: Tensor) -> Tensor:
        """Log density of the start law N(0, scale^2)."""
        d = x.shape[1]
        return -0.5 * (x / self.scale).square().sum(1) - d * math.log(self.scale * math.sqrt(2 * math.pi))

    def take(self, index: Tensor) -> None:
        """Resample."""
        self.x, self.log_q, self.score_q = self.x[index], self.log_q[index], self.score_q[index]

    def move(self, t: float, root: Tensor, size: float, generator: torch.Generator) -> float:
        """One Metropolis-adjusted Langevin step on start^(1-t) target^t; returns the acceptance."""
        noise = randn_like(self.x, generator)
        jitter = torch.randn(len(self.x), 1, generator=generator, dtype=self.x.dtype, device=self.x.device)
        step = size * (_STEP_SPREAD * jitter).exp()  # long steps along ridges, short ones across
        drift = 0.5 * step * (self._score(t, self.x, self.score_q) @ root)  # in coordinates where the step is round
        new = self.x + (step * (drift + noise)) @ root.T
        log_q, score_q = self.evaluate(new)
        back = 0.5 * step * (self._score(t, new, score_q) @ root)
        log_ratio = t * (log_q - self.log_q) + (1 - t) * (self.log_start(new) - self.log_start(self.x))
        log_ratio = log_ratio + 0.5 * noise.square().sum(1) - 0.5 * (noise + drift + back).square().sum(1)
        u = torch.rand(len(new), generator=generator, dtype=new.dtype, device=new.device)
        accept = u.log() < log_ratio
        self.x = torch.where(accept[:, None], new, self.x)
        self.score_q = torch.where(accept[:, None], score_q, self.score_q)
        self.log_q = torch.where(accept, log_q, self.log_q)
        return float(accept.double().mean())

    def _score(self, t: float, x: Tensor, score_q: Tensor) -> Tensor:
        return t * score_q - (1 - t) * x / self.scale**2


def tempered_smc(
    target: Target,
    n: int = 1024,
    *,
    scale: float = 5.0,
    moves: int = 10,
    final_moves: int = 25,
    generator: torch.Generator | int | None = None,
    like: Tensor | None = None,
) -> Particles:
    """Move particles from N(0, scale^2) to the target through powers of the density chosen on the way.

    Parameters
    ----------
    target : Target
    n : int
        Particles.
    scale : float
        Width of the start law in the target's unconstrained coordinates; it should cover the target.
    moves, final_moves : int
        Langevin moves at every temperature, and at the end.
    generator : torch.Generator or int, optional
    like : Tensor, optional
        Dtype and device.

    Returns
    -------
    Particles

    Raises
    ------
    SolverError
        If the density is unbounded, nowhere finite, or the temperatures do not reach the target.

    Notes
    -----
    The next temperature keeps the effective sample size at 80 % of the particles. Steps are preconditioned with the
    particles' covariance, random in length and adapted to the acceptance. Modes farther than a few `scale` from the
    origin are missed; mode masses have the resampling's noise, siblings lie side by side in the result.

    References
    ----------
    Del Moral, Doucet and Jasra 2006; Jasra et al. 2011 (temperatures).
    """
    g = make_generator(generator)
    like = torch.empty(0, device=g.device) if like is None else like
    x = scale * torch.randn(n, target.dim, generator=g, dtype=like.dtype, device=like.device)
    cloud = _Cloud(target, x, scale)
    if not cloud.log_q.isfinite().any():
        raise SolverError(f"log_prob of {target.name!r} is finite at none of {n} points N(0, {scale:g}^2)")
    t, log_z, step, temperatures = 0.0, 0.0, 1.0, [0.0]
    acceptance = 1.0
    while t < 1:
        log_ratio = cloud.log_q - cloud.log_start(cloud.x)
        new = _next_temperature(log_ratio, t, _EFFECTIVE * n)
        log_w = torch.where(log_ratio.isfinite(), (new - t) * log_ratio, -math.inf)
        log_z += float(log_w.logsumexp(0)) - math.log(n)
        cloud.take(systematic(log_w.softmax(0), g))
        t = new
        temperatures.append(t)
        if len(temperatures) > _MAX_STAGES:
            raise SolverError(
                f"{_MAX_STAGES} temperatures did not lead from N(0, {scale:g}^2) to {target.name!r} (at {t:.3g}): "
                "give a scale that fits it"
            )
        for _ in range(moves if t < 1 else final_moves):
            acceptance = cloud.move(t, covariance_root(cloud.x), step, g)
            step = min(2.0, step * math.exp(0.5 * (acceptance - _ACCEPTANCE)))
    return Particles(cloud.x, log_z, tuple(temperatures[1:]), acceptance, cloud.evaluations)


def refine(
    target: Target, x: Tensor, root: Tensor, *, steps: int = 30, generator: torch.Generator | int | None = None
) -> Tensor:
    """Improve draws by Metropolis-adjusted Langevin steps on the target, every row a chain of its own.

    Repairs shapes, not the masses of separate modes.

    Parameters
    ----------
    target : Target
    x : Tensor, shape (B, d)
        Draws of a sampler, in the target's unconstrained coordinates.
    root : Tensor, shape (d, d)
        Root of the covariance that steps are preconditioned with: ``sampler.root``.
    steps : int

    Returns
    -------
    Tensor, shape (B, d)

    Raises
    ------
    SolverError
        If the density is unbounded.
    """
    g = make_generator(generator, x.device)
    cloud, step = _Cloud(target, x, 1.0), 0.5
    for _ in range(steps):
        acceptance = cloud.move(1.0, root, step, g)
        step = min(2.0, step * math.exp(0.5 * (acceptance - _ACCEPTANCE)))
    return cloud.x


def covariance_root(x: Tensor) -> Tensor:
    """Lower root (d, d) of the particles' covariance; diagonal where they are fewer than ten per dimension."""
    centred = x - x.mean(0)
    n, d = x.shape
    variance = centred.square().sum(0) / max(1, n - 1)
    floor = 1e-12 + 1e-6 * float(variance.mean())
    if n < 10 * d:
        return torch.diag((variance + floor).sqrt())
    covariance = centred.T @ centred / (n - 1)
    root, info = torch.linalg.cholesky_ex(covariance + floor * torch.eye(d, dtype=x.dtype, device=x.device))
    return torch.diag((variance + floor).sqrt()) if int(info) else root


def _next_temperature(log_ratio: Tensor, t: float, wanted: float) -> float:
    """Largest step that leaves `wanted` effective particles, by bisection."""

    def effective(new: float) -> float:
        w = torch.where(log_ratio.isfinite(), (new - t) * log_ratio, -math.inf).softmax(0)
        return float(1 / w.square().sum())

    if effective(1.0) >= wanted:
        return 1.0
    low, high = t, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= wanted else (low, middle)
    return max(low, t + 1e-9)


def systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of systematic resampling."""
    n = len(weights)
    u = torch.rand((), generator=generator, dtype=torch.float64, device=weights.device)
    places = (torch.arange(n, dtype=torch.float64, device=weights.device) + u) / n
    return torch.searchsorted(weights.double().cumsum(0), places).clamp(max=n - 1)
