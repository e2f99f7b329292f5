"""Implicit samplers: settings, and the loop that trains one from a log density alone."""

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError, make_generator, randn_like, track
from sciinstruct.core.checkpoint import load_checkpoint, save_checkpoint
from sciinstruct.core.interrupt import deferred_interrupt
from sciinstruct.implicit.diagnostics import HeldOut, closing_diagnostics, held_out_check
from sciinstruct.implicit.networks import PointGenerator, ScoreNetwork
from sciinstruct.implicit.sampler import Sampler
from sciinstruct.implicit.start import Start, make_start
from sciinstruct.implicit.state import TrainingState
from sciinstruct.implicit.steps import generator_step, score_step
from sciinstruct.implicit.targets import Target, check_target
from sciinstruct.implicit.whitened import WhitenedTarget

Objective = Literal["kl", "fisher", "dft", "diffused_kl"]
Callback = Callable[[int, dict[str, float]], None]

_OBJECTIVES = ("kl", "fisher", "dft", "diffused_kl")
_SIGMA_START = {"kl": 0.5, "diffused_kl": 0.5, "fisher": 0.1, "dft": 0.1}
_SIGMA_SEEDED = 0.1  # more would undo what the particles know
_LATE_RATE = 0.1  # of the generator's, for the Fisher objectives after a start by KL
_HOPELESS = 100  # generator steps in a row without a usable gradient
_CHECKS = 20  # held-out checks in a run


@dataclass(frozen=True)
class ImplicitSampler:
    r"""Train a generator x = g(z) whose draws follow a target of which only the log density is known.

    ===============  ===============================================================================================
    ``kl``           KL(sampler || target): the robust choice
    ``fisher``       Fisher divergence, min-max with the score network; second derivatives of log q
    ``dft``          Fisher divergence of the noised sampler (Denoising Fisher Training); second derivatives too
    ``diffused_kl``  KL of the noised laws over noise levels: separate modes, up to about ten dimensions
    ===============  ===============================================================================================

    A pilot (tempered SMC) finds place and widths, in whose coordinates everything below is measured. A score network
    follows the sampler by denoising score matching; draws are y = g(z) + sigma eps, noise included.

    Parameters
    ----------
    objective : str
        As above. The Fisher objectives are local and blind to mode masses: they start from the KL.
    steps : int
        Of the generator.
    batch : int
        Points per step.
    score_steps, warmup : int
        Steps of the score network per generator step, and before the first.
    learning_rate, score_rate : float
        Of Adam; a cosine takes them to 1 % and 10 %.
    sigma_start, sigma_end : float, optional
        Noise falls geometrically between them over the first 60 %; from 0.5 (0.1 for Fisher, and on a base of
        particles, which covers the target already) to 0.03. `sigma_end` must be below the narrowest width of the
        target, in whitened units.
    temper : float, optional
        Inverse temperature at the start, rising to 1 over the first half. Biases mode masses: off by default.
    kl_share : float, optional
        Share of the steps that descends the KL before a Fisher objective; 0.6 by default there.
    width, depth, latent : int, optional
        Networks: hidden units (64 in the plane, 128 beyond), hidden layers of both (0 is a linear generator), and size
        of z (the target's dimension).
    base : {"auto", "gaussian", "particles"}
        Law of the latents; "auto" takes particles of the pilot where it has separate modes or is far from Gaussian.
    particles : int
        Of the pilot.
    start_scale : float
        Width of the pilot's start law, in the target's unconstrained units; it should cover the target.
    ema : float
        Decay of the average of weights over the second half, which is what is returned.
    patience : int, optional
        Stop when the held-out kernel Stein discrepancy has not fallen for so many of the 20 checks, and return the
        best check's sampler; a check whose draws are worse than those before training, in discrepancy or in spread
        (`HeldOut`), does not count, and where none counts the sampler is returned as it was before training. Off by
        default, when that is only warned of: neither number sees mode masses.

    Notes
    -----
    For one posterior in a few dimensions, batched MALA or tempered SMC cost less than any trained sampler; a sampler
    pays when very many draws are wanted or when chains mix slowly. Mode masses are those of the pilot, more or less:
    `Sampler.diagnostics` says where they differ.

    References
    ----------
    Luo, Zhang and Zhang 2023, arXiv 2306.04952 (KL, Fisher); Luo and Deng 2024, arXiv 2411.01453 (DFT); He et al. 2024
    (diffused KL).
    """

    objective: Objective = "kl"
    steps: int = 2500
    batch: int = 256
    score_steps: int = 5
    warmup: int = 250
    learning_rate: float = 1e-3
    score_rate: float = 1e-3
    sigma_start: float | None = None
    sigma_end: float = 0.03
    temper: float | None = None
    kl_share: float | None = None
    width: int | None = None
    depth: int = 3
    latent: int | None = None
    base: Literal["auto", "gaussian", "particles"] = "auto"
    particles: int = 8192
    start_scale: float = 5.0
    ema: float = 0.995
    patience: int | None = None

    def __post_init__(self) -> None:
        for wrong, text in self._mistakes():
            if wrong:
                raise ValueError(text)

    def _mistakes(self) -> list[tuple[bool, str]]:
        counts = {k: getattr(self, k) for k in ("steps", "batch", "score_steps", "particles")}
        few = [k for k, v in counts.items() if v < 1]
        return [
            (self.objective not in _OBJECTIVES, f"objective must be one of {_OBJECTIVES}, got {self.objective!r}"),
            (bool(few), f"{', '.join(few)} must be at least 1, got {counts}"),
            (self.warmup < 0 or self.depth < 0, f"warmup and depth must be >= 0, got {self.warmup}, {self.depth}"),
            (
                self.objective in _OBJECTIVES and not 0 < self.sigma_end <= self.first_sigma,
                f"noise needs 0 < sigma_end <= sigma_start, got {self.sigma_end} and {self.sigma_start}",
            ),
            (self.temper is not None and not 0 < self.temper <= 1, f"temper must lie in (0, 1], got {self.temper}"),
            (
                self.kl_share is not None and not 0 <= self.kl_share < 1,
                f"kl_share must be at least 0 and below 1, got {self.kl_share}",
            ),
            (self.base not in ("auto", "gaussian", "particles"), f"base is auto, gaussian or particles: {self.base!r}"),
            (self.patience is not None and self.patience < 1, f"patience must be at least 1, got {self.patience}"),
        ]

    @property
    def first_sigma(self) -> float:
        """Noise at the first step."""
        return self.sigma_start if self.sigma_start is not None else _SIGMA_START[self.objective]

    def sigma_at(self, step: int) -> float:
        """Noise of the sampler at a step, whitened units."""
        done = min(1.0, step / (0.6 * self.steps))
        return self.first_sigma * (self.sigma_end / self.first_sigma) ** done

    def beta_at(self, step: int) -> float:
        """Inverse temperature of the target at a step."""
        if self.temper is None:
            return 1.0
        return min(1.0, self.temper + (1 - self.temper) * step / (0.5 * self.steps))

    def objective_at(self, step: int) -> Objective:
        """The KL first where a Fisher objective was asked for."""
        share = self.kl_share if self.kl_share is not None else 0.6 * (self.objective in ("fisher", "dft"))
        return "kl" if step < share * self.steps else self.objective

    def rates_at(self, step: int) -> tuple[float, float]:
        """Learning rates of generator and score network."""
        wave = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        late = _LATE_RATE if self.objective_at(0) != self.objective_at(step) else 1.0
        return self.learning_rate * late * (0.01 + 0.99 * wave), self.score_rate * (0.1 + 0.9 * wave)

    def train(
        self,
        target: Target,
        *,
        generator: torch.Generator | int | None = None,
        start: Tensor | None = None,
        network: nn.Module | None = None,
        score_network: nn.Module | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        device: torch.device | str = "cpu",
    ) -> Sampler:
        """Learn to draw from `target`.

        Parameters
        ----------
        target : Target
        generator : torch.Generator or int, optional
            On `device`; the same seed gives the same sampler.
        start : Tensor, shape (P, dim), optional
            Draws that replace the pilot's particles, in the target's unconstrained coordinates.
        network : nn.Module, optional
            A generator of one's own: ``network(z) -> (B, dim)`` whitened points, with ``draw_latent(n, generator)``.
        score_network : nn.Module, optional
            ``score_network(y, sigma) -> (B, dim)``, sigma of shape (B,).
        progress : bool
        callback : callable, optional
            ``callback(step, info)`` after every step.
        checkpoint : path, optional
            Where the state is kept ten times in a run, and when it is interrupted or fails.
        resume : bool
            Go on from `checkpoint`.
        device : device

        Returns
        -------
        Sampler

        Raises
        ------
        TypeError, ValueError
            If the target cannot be trained on (see `check_target`), or `start` does not fit it.
        SolverError
            If the pilot fails, the score network diverges, 100 steps in a row have no usable gradient, or the
            checkpoint is of another run.
        """
        if resume and checkpoint is None:
            raise ValueError("resume needs checkpoint, the file to go on from")
        target = target.to(device)
        like = torch.empty(0, device=device)
        check_target(target, twice=self.objective in ("fisher", "dft"), like=like)
        saved = load_checkpoint(checkpoint) if resume and checkpoint is not None else None
        g = make_generator(generator, device)
        began = make_start(self, target, g, like, start, saved)
        settings = self._for_start(began)
        state = settings._state(target, began, g, network, score_network)
        if saved is not None:
            _check_settings(saved, asdict(settings), target)
            state.restore(saved["state"])
        white = WhitenedTarget(target, began.mean, began.root, began.longest)
        settings._loop(white, began, state, progress, callback, checkpoint)
        return settings._finish(white, began, state)

    def _for_start(self, start: Start) -> "ImplicitSampler":
        """These settings, with the noise that suits the base."""
        if self.sigma_start is not None or not start.seeded:
            return self
        return replace(self, sigma_start=max(self.sigma_end, min(_SIGMA_SEEDED, self.first_sigma)))

    def _state(
        self,
        target: Target,
        start: Start,
        g: torch.Generator,
        network: nn.Module | None,
        score_network: nn.Module | None,
    ) -> TrainingState:
        width = self.width if self.width is not None else (64 if target.dim <= 2 else 128)
        seeds = torch.randint(2**62, (), generator=g, device=g.device)
        with torch.random.fork_rng():
            torch.manual_seed(int(seeds))  # torch's layers draw their weights from the global seed only
            if network is None:
                latent = target.dim if self.latent is None else self.latent
                network = PointGenerator(target.dim, latent, width, self.depth, start.base_particles)
            score = score_network if score_network is not None else ScoreNetwork(target.dim, width, self.depth)
        like = start.mean
        return TrainingState(network.to(like), score.to(like), g, ema=self.ema, clip=10.0)

    def _loop(
        self,
        white: WhitenedTarget,
        start: Start,
        state: TrainingState,
        progress: bool,
        callback: Callback | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        """Take the steps; on failure or interruption, which takes effect between steps, keep the last state."""

        def keep() -> None:
            if checkpoint is not None:
                state.evaluations = white.evaluations + start.evaluations
                content = {"state": state.dump(), "start": start.dump(), "settings": asdict(self)}
                save_checkpoint(checkpoint, content | {"target": [white.target.name, white.target.dim]})

        white.evaluations = max(0, state.evaluations - start.evaluations)
        began, before = time.perf_counter(), state.seconds
        try:
            with deferred_interrupt() as interrupted:
                if state.step == 0:
                    self._look_before(white, state)
                    self._warm_up(state)
                for step in track(range(state.step, self.steps), progress=progress, description=self.objective):
                    info = self._step(white, state)
                    state.seconds = before + time.perf_counter() - began
                    if callback is not None:
                        callback(step, info)
                    if state.step % max(1, self.steps // 10) == 0:
                        keep()
                    if interrupted():
                        raise KeyboardInterrupt
                    if self._has_settled(state):
                        break
        except (KeyboardInterrupt, SolverError):
            keep()
            raise
        state.evaluations = white.evaluations + start.evaluations

    def _look_before(self, white: WhitenedTarget, state: TrainingState) -> None:
        """The check that later ones are held against, at the noise of the end."""
        state.first = list(held_out_check(white, state.network, self.sigma_end, 0))
        if self.patience is not None:
            state.best = {"ksd": math.inf, "step": 0, "weights": _copied(state.network)}

    def _warm_up(self, state: TrainingState) -> None:
        for _ in range(self.warmup):
            score_step(state, self.batch, self.first_sigma, self.score_rate, self.objective_at(0))

    def _step(self, white: WhitenedTarget, state: TrainingState) -> dict[str, float]:
        step = state.step
        kind, sigma, (rate, score_rate) = self.objective_at(step), self.sigma_at(step), self.rates_at(step)
        for _ in range(self.score_steps):
            score_loss = score_step(state, self.batch, sigma, score_rate, kind)
        x = state.draw(self.batch)
        value = generator_step(white, state, x, randn_like(x, state.generator), sigma, kind, self.beta_at(step))
        norm = state.descend(value.loss if 2 * value.bad < self.batch else value.loss * math.nan, rate)
        state.bad_rows += value.bad
        if state.in_a_row >= _HOPELESS:
            raise SolverError(
                f"{_HOPELESS} steps in a row up to step {step} had no finite {kind} gradient: log_prob of "
                f"{white.target.name!r} or its derivatives are NaN where the sampler is; mend it, or use objective='kl'"
            )
        if step >= self.steps // 2:
            state.average.update(state.network)
        elif step == self.steps // 2 - 1:
            state.average = type(state.average)(state.network, self.ema)
        info = {"score_loss": score_loss, "fisher": value.fisher, "gradient_norm": norm, "sigma": sigma}
        state.record(**info)
        state.step += 1
        if state.step % max(1, self.steps // _CHECKS) == 0:
            info["ksd"] = self._check(white, state)
        return info

    def _check(self, white: WhitenedTarget, state: TrainingState) -> float:
        """Held-out discrepancy of the present sampler; remembers the best one once the noise has fallen."""
        network = self._averaged(state)
        found = held_out_check(white, network, self.sigma_at(state.step), state.step)
        state.record(ksd=found.ksd, spread=found.spread, ksd_step=state.step)
        if state.best is not None and state.step >= 0.6 * self.steps and not found.worsening(HeldOut(*state.first)):
            if found.ksd < state.best["ksd"]:
                state.best = {"ksd": found.ksd, "step": state.step, "weights": _copied(network)}
        return found.ksd

    def _has_settled(self, state: TrainingState) -> bool:
        if self.patience is None or state.best is None or state.best["step"] == 0:
            return False
        return state.step - state.best["step"] >= self.patience * max(1, self.steps // _CHECKS)

    def _averaged(self, state: TrainingState) -> nn.Module:
        network = copy.deepcopy(state.network)
        if state.step > self.steps // 2:
            state.average.copy_to(network)
        return network.requires_grad_(False).eval()

    def _finish(self, white: WhitenedTarget, start: Start, state: TrainingState) -> Sampler:
        network = self._averaged(state)
        if state.best is not None:
            network.load_state_dict(state.best["weights"])
        sigma = self.sigma_at(state.step)
        diagnostics = {"objective": self.objective} | closing_diagnostics(white, network, sigma, start, state)
        card: dict[str, Any] = {"target": white.target.name, "settings": asdict(self)}
        card["seed"] = state.generator.initial_seed()
        return Sampler(network, start.mean, start.root, sigma, diagnostics, card)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def _check_settings(saved: dict[str, Any], settings: dict[str, Any], target: Target) -> None:
    if saved.get("settings") != settings or saved.get("target") != [target.name, target.dim]:
        raise SolverError("the checkpoint belongs to another target or other settings; delete it to start afresh")
