"""The state of joint training, and one step of it."""

import hashlib
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core import SolverError
from sciinstruct.inference.flowdiff_checks import chi_square
from sciinstruct.inference.flowdiff_estep import EStep, FlowStep
from sciinstruct.inference.flowdiff_gaussian import Gaussian
from sciinstruct.inference.flowdiff_learner import Learner, fit_denoiser
from sciinstruct.inference.flowdiff_prior import LearnedPrior
from sciinstruct.inference.flowdiff_target import GaussianTarget, LearnedTarget, Target
from sciinstruct.inference.simulator import Simulator

if TYPE_CHECKING:
    from sciinstruct.inference.flowdiff import FlowDiff

_EVALUATIONS = 20  # of the held-out objective, in a run
_SEED = 51607  # of its noise: the same at every evaluation


class FlowDiffRun:
    """Posterior, prior, optimisers, averages, the random state and the recorded curves.

    Parameters
    ----------
    settings : FlowDiff
    law : Simulator
    y, held_out : Tensor, shapes (n, *range_shape) and (m, *range_shape)
        Measurements to learn from, and to watch the objective on.
    gaussian : Gaussian
        The start, in the prior's units.
    prior : LearnedPrior
        Trained in place.
    estep : EStep
    clean : Tensor or None
        Clean events in the prior's units.
    generator : torch.Generator
        Source of all randomness.
    """

    def __init__(
        self,
        settings: "FlowDiff",
        law: Simulator,
        y: Tensor,
        held_out: Tensor,
        gaussian: Gaussian,
        prior: LearnedPrior,
        estep: EStep,
        clean: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.law, self.y, self.held_out = settings, law, y, held_out
        self.gaussian, self.prior, self.estep, self.clean, self.generator = gaussian, prior, estep, clean, generator
        self.reference = GaussianTarget(gaussian, prior.event_shape, prior.sigma_range, prior.scale, prior.shift)
        self.learned = LearnedTarget(prior, self.reference, settings.n_t, settings.prior_gradient == "exact")
        self.learner = Learner(prior.denoiser, rate=settings.prior_rate, clip=settings.clip, ema=settings.ema)
        self.step, self.seconds = 0, 0.0
        self.curves: dict[str, list[float]] = {}

    @property
    def joint(self) -> int:
        """Steps before the posterior is frozen."""
        return self.settings.steps - round(self.settings.finish * self.settings.steps)

    def advance(self) -> dict[str, float]:
        """One step; raises SolverError on a loss that is not finite."""
        began, s = time.perf_counter(), self.settings
        try:
            warming = self.step < s.warmup and self.estep.started
            info = self._both() if self.step < self.joint and not warming else self._prior_alone()
            if (self.step + 1) % max(1, s.steps // _EVALUATIONS) == 0:
                info |= self._evaluate()
        except SolverError as error:
            raise SolverError(
                f"{error} at step {self.step}; lower the learning rates, or check that measurements and instrument "
                "are in the units they claim"
            ) from error
        self.step += 1
        for name, value in info.items():
            self.curves.setdefault(name, []).append(value)
        self.seconds += time.perf_counter() - began
        return info

    def target(self) -> Target:
        """The Gaussian start during the warm-up, the learner after it."""
        return self.reference if self.step < self.settings.warmup else self.learned

    def _both(self) -> dict[str, float]:
        """A step of the posterior, the prior frozen, then of the prior, on the posterior's draws taken as given."""
        y = self._batch()
        self.prior.requires_grad_(False)
        found = self.estep.advance(y, self.target(), self.step / self.joint, self.generator)
        info = found.info
        if 2 * self.step >= self.settings.warmup:
            info = info | {"denoising": self._fit_prior(found.x)}
        if (chi2 := chi_square(self.law, y, self.prior.to_physical(found.x))) is not None:
            info = info | {"chi2": float(chi2.mean())}
        return info

    def _prior_alone(self) -> dict[str, float]:
        if self.step == self.joint:
            self.estep.settle()
        return {"denoising": self._fit_prior(self.estep.draw(self._batch(), self.generator))}

    def _batch(self) -> Tensor:
        index = torch.randint(len(self.y), (self.settings.batch,), generator=self.generator, device=self.y.device)
        return self.y[index]

    def _fit_prior(self, x: Tensor) -> float:
        """One step of denoising score matching on draws x, some of them replaced by clean events."""
        self.prior.requires_grad_(True)
        progress = self.step / self.settings.steps
        return fit_denoiser(self.learner, self._with_clean(x), self.settings.levels, progress, self.generator)

    def _with_clean(self, x: Tensor) -> Tensor:
        if self.clean is None:
            return x
        n = round(self.settings.clean_share * len(x))
        index = torch.randint(len(self.clean), (n,), generator=self.generator, device=x.device)
        return torch.cat([self.clean[index], x[n:]])

    def _evaluate(self) -> dict[str, float]:
        """The objective on measurements not learned from, with the same noise at every evaluation."""
        if not isinstance(self.estep, FlowStep) or not self.settings.warmup <= self.step < self.joint:
            return {}
        g = torch.Generator(self.held_out.device).manual_seed(_SEED)
        self.prior.requires_grad_(False)
        with torch.no_grad():
            x, parts = self.estep.terms(self.held_out, self.target(), g)
        return {"held_out_objective": float(sum(parts.values()).mean()) / x[0].numel()}  # type: ignore[union-attr]

    def dump(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and numbers."""
        return {
            "settings": asdict(self.settings),
            "data": fingerprint(self.y),
            "gaussian": list(self.gaussian),
            "units": [self.prior.scale, self.prior.shift],
            "estep": self.estep.dump(),
            "prior": self.learner.dump(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "curves": self.curves,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`; raises SolverError if it belongs to other settings, measurements or networks."""
        check_same_run(self.settings, self.y, saved)
        try:
            self.estep.restore(saved["estep"])
            self.learner.restore(saved["prior"])
            self.generator.set_state(saved["generator"])
            self.step, self.seconds, self.curves = saved["step"], saved["seconds"], saved["curves"]
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise SolverError(
                "the checkpoint belongs to another problem or network; delete it to start afresh"
            ) from error


def fingerprint(y: Tensor) -> str:
    """Hash of measurements."""
    return hashlib.sha256(y.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def check_same_run(settings: "FlowDiff", y: Tensor, saved: dict[str, Any]) -> None:
    """Raise SolverError unless a checkpoint belongs to these settings and measurements."""
    if saved.get("settings") != asdict(settings):
        raise SolverError("the checkpoint was made with other settings; use those, or delete it to start afresh")
    if saved.get("data") != fingerprint(y):
        raise SolverError("the checkpoint was made from other measurements; delete it to start afresh")


def finite_tail(curve: list[float], share: float = 0.1) -> float:
    """Mean of the last part of a curve; NaN if there is none."""
    tail = curve[-max(1, round(share * len(curve))) :]
    return sum(tail) / len(tail) if tail else math.nan
