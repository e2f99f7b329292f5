r"""FlowDiff: a diffusion prior and an amortised posterior learned together, from corrupted data alone.

A flow q(x|y) and a diffusion prior p(x) minimise
:math:`E_y E_{x \sim q(.|y)} [-\log p(y|x) - \log p(x) + \log q(x|y)]`, which is the entropy of the data plus
:math:`KL(p(y) \| p_\theta(y)) + E_y KL(q(x|y) \| p_\theta(x|y))`: variational expectation maximisation. The posterior's
step keeps the prior fixed and needs the diffusion's likelihood bound; the prior's step takes the posterior's draws as
data.
"""

import copy
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sciinstruct.core import Callback, Likelihood, SolverError, make_generator, track
from sciinstruct.core.checkpoint import load_checkpoint, save_checkpoint
from sciinstruct.core.interrupt import deferred_interrupt
from sciinstruct.diffusion.edm import NoiseLevels
from sciinstruct.flows.flow import ConditionalFlow
from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.flowdiff_build import Problem, build_run, finished
from sciinstruct.inference.flowdiff_checks import admit, check_shapes
from sciinstruct.inference.flowdiff_prior import Network
from sciinstruct.inference.flowdiff_result import FlowDiffResult
from sciinstruct.inference.flowdiff_run import FlowDiffRun, check_same_run
from sciinstruct.inference.simulator import Simulator


@dataclass(frozen=True)
class FlowDiff:
    """Settings of joint training.

    Parameters
    ----------
    steps, batch : int
        Steps, the last `finish` share of them with the posterior frozen, and measurements per step.
    warmup : int
        Steps at the beginning under the Gaussian start. Where the posterior begins as that of the start, exactly, only
        the prior learns in them; else the posterior does, and the prior joins half-way.
    finish : float
        Share of the steps, at the end, that train the prior alone on the finished posterior's draws.
    n_t : int
        Noise levels per draw in the prior's bound.
    flow_rate, prior_rate : float
        Adam's peak learning rates; both fall along a cosine over the last half to 1 %.
    clip : float
        Largest gradient norm of either network.
    ema : float
        Decay of the averages that are returned.
    levels : NoiseLevels
        Of the prior; its units give events a standard deviation of 0.5.
    clean_share : float
        Share of clean images in the prior's batches, if some are given.
    sticking_the_landing : bool
        Take the entropy's gradient through the draws alone: unbiased, and without noise at the posterior, for twice
        the cost of the flow.
    prior_weight, entropy_weight : float
        1. Others are for showing what they break.
    prior_gradient : {"exact", "sds"}
        "sds" leaves out the denoiser's Jacobian, as score distillation does: another objective.

    References
    ----------
    Wang, Bai, Luo, Chen, Sun 2024, arXiv 2407.11162; Song, Durkan, Murray, Ermon 2021 (the bound).
    """

    steps: int = 4000
    batch: int = 512
    warmup: int = 200
    finish: float = 0.15
    n_t: int = 4
    flow_rate: float = 2e-3
    prior_rate: float = 2e-3
    clip: float = 1.0
    ema: float = 0.999
    levels: NoiseLevels = field(default_factory=lambda: NoiseLevels(0.01, 20.0))
    clean_share: float = 0.2
    sticking_the_landing: bool = False
    prior_weight: float = 1.0
    entropy_weight: float = 1.0
    prior_gradient: Literal["exact", "sds"] = "exact"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("n_t", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("flow_rate", "prior_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("finish", "clean_share", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not self.warmup < self.steps - round(self.finish * self.steps):
            raise ValueError(
                f"warmup must end before the last {self.finish:.0%} of the {self.steps} steps, or the posterior learns "
                f"nothing, got {self.warmup}"
            )
        if min(self.prior_weight, self.entropy_weight) < 0:
            raise ValueError("prior_weight and entropy_weight must not be negative")
        if self.prior_gradient not in ("exact", "sds"):
            raise ValueError(f'prior_gradient must be "exact" or "sds", got {self.prior_gradient!r}')

    @classmethod
    def for_images(cls, steps: int = 4000, **settings: Any) -> "FlowDiff":
        """Settings for images; any other than these may be given.

        Parameters
        ----------
        steps : int
            Steps.
        settings
            As of the class.
        """
        chosen: dict[str, Any] = {
            "batch": 32,
            "warmup": min(500, steps // 4),
            "n_t": 4,
            "flow_rate": 5e-4,
            "prior_rate": 1e-3,
        }
        return cls(**{"steps": steps, "clip": 10.0, **chosen, **settings})

    def train(
        self,
        measurements: Tensor | Sequence[Tensor],
        simulator: Simulator | Likelihood,
        *,
        flow: ConditionalFlow | None = None,
        denoiser: Network | None = None,
        matching: AmortizedPPM | None = None,
        guess: tuple[float, float] | None = None,
        clean_images: Tensor | None = None,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> FlowDiffResult:
        """Learn the law of clean events from corrupted ones.

        Parameters
        ----------
        measurements : Tensor, shape (n, *range_shape), or sequence of tensors of one shape
            All there is.
        simulator : Simulator or Likelihood
            The law of the measurements; of a `Likelihood` its operator and noise are taken, its data ignored. What
            changes from item to item is in y, see `sciinstruct.inference.simulator`.
        flow : ConditionalFlow, optional
            Of events of the simulator's domain, in white units; copied. Its condition is what
            `sciinstruct.inference.flowdiff_posterior.Conditioner` gives.
        denoiser : VectorDenoiser or EDMPrecond, optional
            The prior's network, standard deviation of the data 0.5; copied.
        matching : AmortizedPPM, optional
            Follow posteriors by amortised matching with these settings instead of by a flow.
        guess : tuple of float, optional
            Mean and standard deviation of the clean events' numbers, physical units: needed where data are not affine
            in the event, or the event is too large for dense algebra.
        clean_images : Tensor, shape (m, *event_shape), optional
            A few clean events, physical units, mixed into the prior's batches.
        callback : callable, optional
            ``callback(step, info)`` after every step.
        checkpoint : path, optional
            Where the state is kept, written every tenth of the run and on interruption; with ``resume=True`` the run
            goes on from it, bit for bit on a CPU.

        Returns
        -------
        FlowDiffResult

        Raises
        ------
        TypeError, ValueError
            On measurements that are not finite, constant, of mixed or other shapes; on an operator without gradient.
        PriorError
            If data vary no more than their noise, or nothing tells the scale of the clean events.
        SolverError
            If a loss is not finite: the text names step and term, the state before that step is in `checkpoint`.
        """
        law, y = admit(measurements, simulator)
        check_shapes(law.domain_shape, clean_images)
        g = make_generator(generator, y.device)
        saved = load_checkpoint(checkpoint) if resume and checkpoint is not None else None
        if saved is not None:
            check_same_run(self, y[_held_out(y) :], saved)
        networks = {"flow": copy.deepcopy(flow), "denoiser": copy.deepcopy(denoiser), "matching": matching}
        problem = Problem.prepare(law, y, _held_out(y), guess, clean_images, saved, g)
        run = build_run(self, problem, networks, g)
        if saved is not None:
            run.restore(saved)
        self._loop(run, progress, callback, checkpoint)
        return finished(self, problem, run, asdict(self))

    def _loop(
        self,
        run: FlowDiffRun,
        progress: bool,
        callback: Callback | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        try:
            with deferred_interrupt() as interrupted:
                for step in track(range(run.step, self.steps), progress=progress, description="joint training"):
                    info = run.advance()
                    if callback is not None:
                        callback(step, info)
                    if interrupted():
                        raise KeyboardInterrupt
                    if checkpoint is not None and run.step % max(1, self.steps // 10) == 0:
                        save_checkpoint(checkpoint, run.dump())
        except (KeyboardInterrupt, SolverError):
            if checkpoint is not None:
                save_checkpoint(checkpoint, run.dump())
            raise


def _held_out(y: Tensor) -> int:
    """Measurements the objective is watched on."""
    return max(1, min(128, len(y) // 20))
