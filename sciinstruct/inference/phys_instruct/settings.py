"""Settings of a distillation and the one verb that carries it out."""

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Callback, Denoiser, PriorError, SolverError, make_generator, track
from sciinstruct.core.checkpoint import load_checkpoint, save_checkpoint
from sciinstruct.core.checks import check_event, check_finite
from sciinstruct.core.interrupt import deferred_interrupt
from sciinstruct.diffusion.edm import Precision, resolve_precision
from sciinstruct.inference.phys_instruct.objective import KINDS, WEIGHTINGS, Kind, Weighting
from sciinstruct.inference.phys_instruct.run import DistillationRun
from sciinstruct.inference.phys_instruct.student import Student
from sciinstruct.inference.phys_instruct.teacher import data_spread
from sciinstruct.operators.pde.equation import Equation
from sciinstruct.operators.pde.errors import SCALE_MODES, ScaleMode

_SELF_TEST = 64  # true fields it looks at
_LAST_RATE = 0.05
_FAR = 3.0  # factor between the spread of normalised true fields and the teacher's that cannot be chance


@dataclass(frozen=True)
class PhysInstruct:
    r"""Distil a diffusion prior of PDE fields into a generator of a few calls that obeys the equation.

    The generator minimises, by its gradient,
    :math:`D(q \| p) / \text{pixels} + \lambda\, E\,[r^2] / E\,[m^2]`: divergence from the teacher, and residual r of
    the equation relative to its own magnitude m. The residual acts in training alone.

    Parameters
    ----------
    levels : tuple of float
        Noise levels of the generator's calls, falling, for images of standard deviation 0.5; scaled with the teacher's.
        After a warm start the first call has the large scales right; the others take roughness off, which residuals
        punish, each best at a level of about that roughness.
    divergence : {"ikl", "sid", "sim", "exact_kl"}
        See `sciinstruct.divergences`. The first costs least: no gradient passes through teacher and auxiliary.
    weighting : {"dmd", "sigma2", "one"}, optional
        Of the levels, see `matching_divergence`; "dmd" by default. A value of `lam` means nothing without it.
    lam : float
        Weight of the residual. 0: plain distillation.
    auto_lambda : float, optional
        Rescale the weight so that the residual's gradient in the fields is this many times the divergence's, in rms;
        replaces `lam`, whose right size differs by orders of magnitude between equations. The residual's gradient is
        mostly in the finest detail, so that values near 20 are moderate: ``lam=1`` comes to 20 for Burgers' equation.
    scale_mode : {"batch", "smaller", "data"}
        What residuals are relative to: the generated fields' own magnitude (which rewards inflation, where the
        network's roughness makes the residual), the smaller of it and the data's (neither inflation nor shrinking), or
        the data's (which rewards shrinking). The first gains most before it inflates, which the selection of the state
        to keep stops; the second is for long runs. None of them sees a loss of contrast in equations whose magnitude
        is constant, as Darcy's is.
    diffused_residual : bool
        Instead of a penalty on the fields, tilt the teacher's score at every level by the residual of its denoised
        fields, ``exp(-lam * pixels * R)``. Only with "ikl".
    pairs : int
        Fields of the teacher's own deterministic sampler that the generator first learns by regression, see
        `warm_start`: after them one call gives fields of the right amplitude, which matching alone takes thousands of
        iterations for. 0: start as the teacher.
    anchor : float
        Weight of the same regression beside the divergence afterwards; it keeps the law from wandering while the
        auxiliary lags behind. Idle without `pairs`.
    iterations, batch : int
        Generator steps, and fields per step: a batch // K of latents, each giving a field after every one of K calls.
    n_aux : int
        Steps of the auxiliary denoiser, which learns the generator's law, per generator step.
    law_steps : int
        Steps that fit the auxiliary denoiser to the state that is kept, which makes it a prior, `Student.denoiser`.
    learning_rate, auxiliary_rate : float
        Of Adam(0, 0.999); both fall along a cosine to 5 % over the last half of the run.
    warmup, ramp : float
        Shares of the run without residual, and over which its weight then rises to `lam`.
    clip : float
        Largest norm of the generator's gradient.
    ema : float
        Decay of the average of the generator's weights that the student gets.
    precision : {"auto", "float32", "bfloat16"}
        Of teacher and auxiliary. Generator and residual are always in float32: rounding a field to bfloat16 alone
        gives a relative residual of 0.5 and more.
    eval_every, eval_samples : int
        Iterations between measurements on the reference, and fields each takes.
    select_k : int, optional
        Number of calls whose measurements choose the state to keep; all levels by default.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range, or two do not go together.

    References
    ----------
    Kong et al. 2026, Phys-Instruct, arXiv 2602.03627; Luo et al. 2023, Diff-Instruct; Yin et al. 2024, DMD2. Rates,
    levels and weights are our own.
    """

    levels: tuple[float, ...] = (2.5, 0.1, 0.05, 0.03)
    divergence: Kind = "ikl"
    weighting: Weighting | None = None
    lam: float = 1.0
    auto_lambda: float | None = None
    scale_mode: ScaleMode = "batch"
    diffused_residual: bool = False
    pairs: int = 2048
    anchor: float = 1.0
    iterations: int = 600
    batch: int = 64
    n_aux: int = 1
    law_steps: int = 300
    learning_rate: float = 1.5e-4
    auxiliary_rate: float = 6e-4
    warmup: float = 0.05
    ramp: float = 0.1
    clip: float = 1.0
    ema: float = 0.99
    precision: Precision = "auto"
    eval_every: int = 100
    eval_samples: int = 512
    select_k: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(float(s) for s in self.levels))
        if self.weighting is None and self.divergence != "exact_kl":
            object.__setattr__(self, "weighting", "dmd")
        resolve_precision(self.precision, "cpu")
        for wrong, text in self._mistakes():
            if wrong:
                raise ValueError(text)

    def _mistakes(self) -> list[tuple[bool, str]]:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:]))
        counts = {n: getattr(self, n) for n in ("iterations", "n_aux", "eval_every", "eval_samples")}
        rates = {n: getattr(self, n) for n in ("learning_rate", "auxiliary_rate", "clip")}
        return [
            (
                not (self.levels and falling and self.levels[-1] > 0),
                f"levels must fall and be positive, got {self.levels}",
            ),
            (self.divergence not in KINDS, f"divergence must be one of {KINDS}, got {self.divergence!r}"),
            (
                self.divergence == "exact_kl" and self.weighting is not None,
                f"the exact KL fixes its weighting, got {self.weighting!r}; leave it out",
            ),
            (
                self.divergence != "exact_kl" and self.weighting not in WEIGHTINGS,
                f"weighting must be one of {WEIGHTINGS}, got {self.weighting!r}",
            ),
            (
                self.scale_mode not in SCALE_MODES,
                f"scale_mode must be one of {SCALE_MODES}, got {self.scale_mode!r}",
            ),
            (not 0 <= self.lam < math.inf, f"lam must be finite and not negative, got {self.lam}"),
            (
                self.auto_lambda is not None and not 0 < self.auto_lambda < math.inf,
                f"auto_lambda must be positive, got {self.auto_lambda}",
            ),
            (
                self.diffused_residual and (self.divergence != "ikl" or self.auto_lambda is not None),
                "diffused_residual goes with divergence='ikl' and a fixed lam: the tilt has no gradient of its own",
            ),
            (
                self.batch < len(self.levels),
                f"batch must be at least {len(self.levels)}, one per call, got {self.batch}",
            ),
            *((v < 1, f"{n} must be at least 1, got {v}") for n, v in counts.items()),
            *((not 0 < v < math.inf, f"{n} must be positive and finite, got {v}") for n, v in rates.items()),
            (
                not (0 <= self.warmup and 0 <= self.ramp and self.warmup + self.ramp <= 1),
                f"warmup and ramp are shares of the run, got {self.warmup} and {self.ramp}",
            ),
            (not 0 <= self.anchor < math.inf, f"anchor must be finite and not negative, got {self.anchor}"),
            (self.law_steps < 0, f"law_steps must not be negative, got {self.law_steps}"),
            (self.pairs < 0, f"pairs must not be negative, got {self.pairs}"),
            (not 0 <= self.ema < 1, f"ema must be at least 0 and below 1, got {self.ema}"),
            (
                self.select_k is not None and not 1 <= self.select_k <= len(self.levels),
                f"select_k must be between 1 and {len(self.levels)}, got {self.select_k}",
            ),
        ]

    def weight_at(self, step: int) -> float:
        """Share of the residual's weight at iteration `step`: 0 in the warm-up, then a ramp to 1."""
        done = step / self.iterations - self.warmup
        if done < 0:
            return 0.0
        return min(1.0, done / self.ramp) if self.ramp > 0 else 1.0

    def rate_at(self, step: int) -> float:
        """Factor on both learning rates at iteration `step`."""
        left = min(1.0, 2 * (1 - step / self.iterations))
        return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 - math.cos(math.pi * left))

    def train(
        self,
        teacher: Denoiser,
        equation: Equation,
        reference: Tensor | None = None,
        *,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        device: torch.device | str = "cpu",
    ) -> Student:
        """Distil.

        Parameters
        ----------
        teacher : Denoiser
            Trained prior of complete fields; copied, never changed.
        equation : Equation
            Of the same fields in physical units.
        reference : Tensor, shape (n, *event_shape), optional
            Held-out true fields in physical units, 500 or more, that the state to keep is chosen with. Without them
            the last state is returned and nothing guards it.
        checkpoint : path, optional
            Where the state is kept, at every measurement, on Ctrl-C and when a loss breaks down, but not before the
            first iteration; with ``resume=True``
            the run goes on from it, bit for bit.

        Raises
        ------
        EquationError
            If the equation does not know the reference (or its own solver's fields): wrong spacing, sign or units.
        PriorError
            If teacher and equation disagree on the shape of a field, or the teacher has no weights to copy.
        ValueError
            If `reference` has another shape, is not finite, or is not in physical units.
        SolverError
            If a term turns NaN: the text names step and term; the last good state is in `checkpoint`.
        """
        _check_problem(teacher, equation, reference)
        rng = make_generator(generator, device)
        run = DistillationRun(self, teacher, equation, reference, rng, torch.device(device))
        if resume and checkpoint is not None:
            run.restore(load_checkpoint(checkpoint))
        began = time.perf_counter()
        self._loop(run, progress, callback, checkpoint)
        return run.student(began, progress)

    def _loop(
        self,
        run: DistillationRun,
        progress: bool,
        callback: Callback | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        def save() -> None:
            if checkpoint is not None and run.begun:
                save_checkpoint(checkpoint, run.dump())

        try:
            with deferred_interrupt() as interrupted:
                run.begin(progress, interrupted)
                for step in track(range(run.step, self.iterations), progress=progress, description="distillation"):
                    info = run.advance()
                    if callback is not None:
                        callback(step, info)
                    if run.step % self.eval_every == 0 or run.step == self.iterations:
                        save()
                    if interrupted():
                        raise KeyboardInterrupt
        except (KeyboardInterrupt, SolverError):
            save()
            raise

    def card(self) -> dict[str, Any]:
        """Settings as plain numbers and words."""
        return asdict(self) | {"levels": list(self.levels)}


def _check_problem(teacher: Denoiser, equation: Equation, reference: Tensor | None) -> None:
    if tuple(teacher.event_shape) != tuple(equation.event_shape):
        raise PriorError(
            f"the teacher makes fields of shape {tuple(teacher.event_shape)}, the equation {equation.name} expects "
            f"{tuple(equation.event_shape)}; take a teacher of that grid, or build the equation for the teacher's"
        )
    if not any(p.numel() for p in teacher.parameters()):
        raise PriorError("the teacher has no trainable weights to start a generator from; use a NetworkPrior")
    if reference is None:
        equation.self_test()
        return
    check_event("reference", reference, equation.event_shape)
    check_finite("reference", reference)
    if len(reference) < 4:
        raise ValueError(f"reference must hold at least 4 fields, better 500, got {len(reference)}")
    equation.self_test(reference[:_SELF_TEST])
    spread = teacher.from_physical(reference).transpose(0, 1).flatten(1).std(1)
    expected = data_spread(teacher)
    if not ((spread > expected / _FAR) & (spread < expected * _FAR)).all():
        raise ValueError(
            f"the teacher's map gives the reference standard deviations {[round(float(s), 3) for s in spread]}, its "
            f"own images have {expected}: reference and teacher differ in units or normalisation"
        )
