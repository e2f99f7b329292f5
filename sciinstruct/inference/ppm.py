"""Principled posterior matching (PPM): a variational posterior under the exact KL divergence to prior times likelihood.

Bai, Gu, Wang, Luo and Sun 2026, arXiv 2605.25042. The prior enters through its denoiser at all noise levels, the likelihood
exactly and only at the clean image.
"""

import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, SolverError, make_generator, randn_like, track
from sciinstruct.inference.checkpoint import load_checkpoint, save_checkpoint
from sciinstruct.inference.families import Draw, Family, Mixture
from sciinstruct.inference.matching import component_cost, draw_levels, match, match_score
from sciinstruct.inference.trace import Trace
from sciinstruct.inference.weights import estimate_weights, make_reference


@dataclass(frozen=True)
class PPM:
    """Variational posterior matching for one measurement.

    Parameters
    ----------
    family : Mixture, Particles or Generator
        The variational law; see `sciinstruct.inference.families`.
    steps, batch, groups : int
        Gradient steps, draws per step, and noise levels per step among which the draws are shared.
    learning_rate : float
        Of Adam, in units of the start's standard deviations.
    damping : float
        Adam's epsilon: gradients below it (per standard deviation, nats) are followed in proportion, not in sign.
    sigma_min, sigma_max : float, optional
        Range of noise levels in the prior's units; the prior's own range if None. Structure below sigma_min is not inferred.
    anneal_from : float
        Lowest noise level at the first step, in units of sigma_max/1; falls geometrically to sigma_min. None: no annealing.
    anneal_share : float
        Share of the steps over which it falls.
    weight_rounds : int
        Evaluations after the last step that settle the component weights.

    References
    ----------
    Bai et al. 2026, eq. 8-19 and Algorithm 1 with the level weight of eq. 13.
    """

    family: Any = field(default_factory=Mixture)
    steps: int = 600
    batch: int = 64
    groups: int = 8
    learning_rate: float = 0.02
    damping: float = 0.1
    sigma_min: float | None = None
    sigma_max: float | None = None
    anneal_from: float | None = None
    anneal_share: float = 0.6
    weight_rounds: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 1 <= self.groups <= self.batch:
            raise ValueError(f"steps and batch must be positive and groups in 1..batch, got {self}")
        if not 0 <= self.anneal_share < 1:
            raise ValueError(f"anneal_share must lie in [0, 1), got {self.anneal_share}")

    def run(
        self,
        problem: InverseProblem,
        n_samples: int = 256,
        *,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Posterior:
        """Fit the law and draw from it.

        Parameters
        ----------
        problem : InverseProblem
            Prior and likelihood.
        n_samples : int
            Posterior samples to draw; more cost nothing.
        generator : torch.Generator or int, optional
            Source of randomness, on the problem's device.
        checkpoint : path, optional
            Where the state is kept, written every tenth of the run and on interruption; with ``resume=True`` the run goes on from it.

        Returns
        -------
        Posterior
            In physical units; `diagnostics` holds the trace, mode weights and warnings.

        Raises
        ------
        SolverError
            If the objective turns NaN: the text names step and term, and the last good state is in `checkpoint`.
        """
        fit = self.fit(
            problem,
            generator=generator,
            progress=progress,
            callback=callback,
            checkpoint=checkpoint,
            resume=resume,
            dtype=dtype,
        )
        return fit.posterior(n_samples)

    def fit(
        self,
        problem: InverseProblem,
        *,
        starts: Tensor | None = None,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> "PPMFit":
        """As `run`, but return the fitted law; `starts` (K, *event), in the prior's units, replace draws of the prior."""
        state = self._start(problem, starts, make_generator(generator), dtype)
        if resume and checkpoint is not None:
            state.restore(load_checkpoint(checkpoint))
        began = time.perf_counter()
        try:
            for step in track(range(state.step, self.steps), progress=progress, description="posterior matching"):
                info = self._step(problem, state)
                if callback is not None:
                    callback(step, info)
                if checkpoint is not None and state.step % max(1, self.steps // 10) == 0:
                    save_checkpoint(checkpoint, state.dump())
        except (KeyboardInterrupt, SolverError):
            if checkpoint is not None:
                save_checkpoint(checkpoint, state.dump())
            raise
        state.use_average()
        return PPMFit(self, problem, state, time.perf_counter() - began)

    def _start(self, problem: InverseProblem, starts: Tensor | None, generator: torch.Generator, dtype: torch.dtype) -> "State":
        smin, smax = self._range(problem)
        like = torch.zeros((), dtype=dtype, device=generator.device)
        family = self.family.build(problem, smin, generator, like, starts)
        return State(family, generator, smin, smax, self)

    def _range(self, problem: InverseProblem) -> tuple[float, float]:
        low, high = problem.prior.sigma_range
        smin = self.sigma_min if self.sigma_min is not None else low
        smax = self.sigma_max if self.sigma_max is not None else high
        if not 0 < smin < smax:
            raise ValueError(f"noise levels must satisfy 0 < sigma_min < sigma_max, got {smin} and {smax}")
        return smin, smax

    def _lowest(self, state: "State") -> float:
        """Lowest noise level of this step: falls geometrically over the first part of the run."""
        if self.anneal_from is None or self.anneal_share == 0:
            return state.smin
        left = max(0.0, 1 - state.step / (self.anneal_share * self.steps))
        return state.smin * (max(self.anneal_from, state.smin) / state.smin) ** left

    def _step(self, problem: InverseProblem, state: "State") -> dict[str, float]:
        g, family, lo = state.generator, state.family, self._lowest(state)
        draw = family.draw(self.groups, self.batch // self.groups, g)
        if lo > state.smin:
            info = self._match_levels(problem, state, draw, lo)
        else:
            info = self._match_scores(problem, state, draw)
        state.trace.record(lowest_level=lo, **info)
        state.step += 1
        return info

    def _match_levels(self, problem: InverseProblem, state: "State", draw: Draw, lo: float) -> dict[str, float]:
        """One step on the integral over noise levels: pulls from afar, and settles weights while modes form."""
        g, family = state.generator, state.family
        levels = draw_levels(lo, state.smax, self.groups, g, draw.x0)
        terms = match(problem, draw, family.eps, levels, state.smin, attached=True, generator=g)
        self._check(state.step, prior=terms.prior, data=terms.data)
        norm = state.descend(((terms.prior + terms.data) * draw.weight).sum(1).mean(), self._rate(state.step))
        family.update_weights(component_cost(terms.cost, draw, family.n_components), 0.02)
        data = (terms.data.detach() * draw.weight).sum(1).mean()
        return {"kl": levels.span * float(terms.gap.mean()), "data": float(data), "gradient_norm": norm}

    def _match_scores(self, problem: InverseProblem, state: "State", draw: Draw) -> dict[str, float]:
        """One step on the scores at the lowest level: no noise at the optimum, and no pass back through the prior."""
        family = state.family
        terms = match_score(problem, draw, family.eps, family.whiten, state.smin, state.generator)
        self._check(state.step, prior=terms.loss, data=terms.data)
        norm = state.descend((terms.loss * draw.weight.detach()).sum(1).mean(), self._rate(state.step))
        weight = draw.weight.detach()
        per_axis = float((terms.mismatch * weight).sum(1).mean()) / family.dim
        return {"mismatch": per_axis, "data": float((terms.data * weight).sum(1).mean()), "gradient_norm": norm}

    @staticmethod
    def _check(step: int, **terms: Tensor) -> None:
        for name, value in terms.items():
            if not torch.isfinite(value).all():
                raise SolverError(f"the {name} term became NaN or infinite at step {step}; lower learning_rate")

    def _rate(self, step: int) -> float:
        """Constant, then a cosine to zero over the last 40 %."""
        left = min(1.0, (self.steps - step) / (0.4 * self.steps))
        return self.learning_rate * 0.5 * (1 - math.cos(math.pi * left))


class State:
    """All that changes during a run: the law, its optimiser and average, the random state and the trace."""

    def __init__(self, family: Family, generator: torch.Generator, smin: float, smax: float, config: PPM) -> None:
        self.family, self.generator, self.smin, self.smax = family, generator, smin, smax
        self.step = 0
        self.trace = Trace()
        self.optimiser = torch.optim.Adam(family.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), eps=config.damping)
        self.decay = 1 - 1 / max(2.0, 0.05 * config.steps)
        self.average = [p.detach().clone() for p in family.parameters()]

    def descend(self, loss: Tensor, rate: float) -> float:
        """One Adam step on the law's parameters alone; returns the gradient's norm."""
        parameters = list(self.family.parameters())
        for p, grad in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.grad = self.family.rescale(grad)
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        for mean, p in zip(self.average, parameters):
            mean.lerp_(p.detach(), 1 - self.decay)
        return float(norm)

    def use_average(self) -> None:
        """Put the averaged parameters into the law: the end of the run."""
        with torch.no_grad():
            for mean, p in zip(self.average, self.family.parameters()):
                p.copy_(mean)

    def dump(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        return {
            "family": self.family.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
            "generator": self.generator.get_state(),
            "step": self.step,
            "curves": self.trace.curves,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`; raises SolverError if it belongs to another problem or family."""
        try:
            self.family.load_state_dict(saved["family"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.average = [a.to(b) for a, b in zip(saved["average"], self.average)]
            self.generator.set_state(saved["generator"])
            self.step, self.trace.curves = saved["step"], saved["curves"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise SolverError("the checkpoint belongs to another problem or family; delete it to start afresh") from error


@dataclass
class PPMFit:
    """A fitted variational posterior."""

    config: PPM
    problem: InverseProblem
    state: State
    seconds: float

    def posterior(self, n_samples: int) -> Posterior:
        """Draw `n_samples`, add the smallest noise (the law matched is the smoothed one) and map to physical units."""
        s = self.state
        weights = estimate_weights(
            self.problem, s.family, make_reference(self.problem, s.family, 0.2 * 0.5, 2.0, s.smin), s.smin, s.smax, rounds=self.config.weight_rounds, groups=self.config.groups, generator=s.generator
        )
        x = s.family.sample(n_samples, s.generator)
        x = x + s.smin * randn_like(x, s.generator)
        return Posterior(
            self.problem.prior.to_physical(x),
            coordinates=self.problem.coordinates,
            attributes={"solver": "PPM", "settings": repr(self.config), "seconds": self.seconds},
            diagnostics={
                "trace": s.trace.curves,
                "mode_weights": weights.weights.tolist(),
                "mode_weights_sd": weights.sd.tolist(),
            },
        )
