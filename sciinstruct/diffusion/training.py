"""Training a denoiser: settings, one step, the loop, and checkpoints that resume bit for bit."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sciinstruct.core import Callback, PriorError, SolverError, atomic_path, track
from sciinstruct.core.interrupt import deferred_interrupt
from sciinstruct.diffusion.data import step_generator
from sciinstruct.diffusion.edm import EDMPrecond, NoiseLevels, Precision, denoising_loss
from sciinstruct.diffusion.ema import EMA
from sciinstruct.diffusion.engine import Engine, SingleEngine

CHECKPOINT = "training.pt"
_FREE = ("checkpoint_every", "precision")  # settings a resumed run may change


@dataclass(frozen=True)
class PriorTraining:
    """Settings of a training run.

    Parameters
    ----------
    steps, batch : int
        Optimiser steps, and images per step over all processes.
    lr : float
        Adam's peak learning rate; it rises linearly over `warmup` steps and falls along a cosine to 1 % over the last
        half.
    warmup : int
        Steps of the rise.
    ema : float
        Decay of the exponential average of the weights, which is what the prior uses.
    ema_width : float, optional
        Use a power-function average of this relative width instead (Karras et al. 2024).
    levels : NoiseLevels
        Law of the noise levels, in units of the scaled images.
    sigma_data : float
        Standard deviation the images are scaled to.
    learned_variance : bool
        Learn the log-variance of the error per level, for images with heavy tails.
    precision : {"auto", "float32", "bfloat16"}
        Type the network computes in.
    clip : float
        Largest gradient norm.
    accumulate : int
        Parts a process's batch is cut into to save memory.
    seed : int
        Of everything drawn: start of the weights, order of the images, augmentation, noise.
    checkpoint_every : int
        Steps between checkpoints.
    """

    steps: int = 4000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 100
    ema: float = 0.999
    ema_width: float | None = None
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    sigma_data: float = 0.5
    learned_variance: bool = False
    precision: Precision = "auto"
    clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip", "sigma_data"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.seed < 0 or self.warmup < 0:
            raise ValueError(f"seed and warmup must not be negative, got {self.seed} and {self.warmup}")


class StepInfo(NamedTuple):
    """What one training step reports."""

    loss: float  # weighted squared error: 1 for an untrained network
    gradient_norm: float  # before clipping
    learning_rate: float


class Objective(nn.Module):
    """Denoiser and loss as one module, so that many processes can wrap it."""

    def __init__(self, denoiser: EDMPrecond) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, clean: Tensor, sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Quantity to minimise (scalar), and the weighted squared error per image (B,)."""
        loss = denoising_loss(self.denoiser, clean, sigma, noise, self.denoiser.sigma_data)
        if self.denoiser.log_variance is None:
            return loss.mean(), loss
        u = self.denoiser.log_variance(sigma)
        return (loss / u.exp() + u).mean(), loss


@dataclass
class TrainingState:
    """Everything a run owns; `step` steps are done."""

    objective: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA
    engine: Engine
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def denoiser(self) -> EDMPrecond:
        """The denoiser being trained."""
        return self.engine.unwrap(self.objective).denoiser  # type: ignore[return-value]

    def averaged(self) -> EDMPrecond:
        """Write the averaged weights into the denoiser and return it: the end of training."""
        self.ema.copy_to(self.denoiser)
        return self.denoiser


def init(network: nn.Module, config: PriorTraining, engine: Engine | None = None) -> TrainingState:
    """Start a run: preconditioned network, optimiser and average on the engine's device."""
    engine = engine or SingleEngine()
    denoiser = EDMPrecond(
        network, config.sigma_data, precision=config.precision, learned_variance=config.learned_variance
    ).to(engine.device)
    ema = EMA(denoiser, config.ema, config.ema_width)
    fused = engine.device.type in ("cpu", "cuda")
    optimizer = Adam(denoiser.parameters(), lr=config.lr, fused=fused)
    objective, optimizer = engine.prepare(Objective(denoiser), optimizer)  # type: ignore[assignment]
    return TrainingState(objective, optimizer, ema, engine)


def learning_rate(config: PriorTraining, step: int) -> float:
    """Rate of step number `step` (from 0): linear rise, constant, cosine fall to 1 % over the last half."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    late = max(0.0, 2 * step / config.steps - 1)
    return config.lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * late)))


def train_step(state: TrainingState, clean: Tensor, config: PriorTraining) -> StepInfo:
    """One optimiser step on this process's images `clean` (b, C, H, W), scaled; changes `state`.

    Raises
    ------
    SolverError
        If the loss or the gradient is not finite; the state is then as it was before the step.
    """
    engine, rate = state.engine, learning_rate(config, state.step)
    clean = clean.to(engine.device)
    generator = step_generator(config.seed, 2, state.step, engine.rank, device=engine.device)
    sigma = config.levels.sample(len(clean), generator, engine.device)
    noise = torch.randn(clean.shape, generator=generator, device=engine.device)
    state.optimizer.zero_grad()
    losses = []
    for part in torch.arange(len(clean), device=engine.device).tensor_split(config.accumulate):
        objective, loss = state.objective(clean[part], sigma[part], noise[part])
        engine.backward(objective * (len(part) / len(clean)))
        losses.append(loss.detach())
    loss_value = float(engine.gather(torch.cat(losses)).mean())
    norm = float(nn.utils.clip_grad_norm_(state.denoiser.parameters(), config.clip))
    for term, value in (("denoising loss", loss_value), ("gradient norm", norm)):
        if not math.isfinite(value):
            state.optimizer.zero_grad()
            raise SolverError(f"training stopped at step {state.step}: the {term} is {value}; try a smaller lr")
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.step += 1
    state.ema.update(state.denoiser)
    state.losses.append(loss_value)
    return StepInfo(loss_value, norm, rate)


def fit(
    state: TrainingState,
    draw: Callable[[int], Tensor],
    config: PriorTraining,
    *,
    folder: Path | None = None,
    data: str = "",
    progress: bool = False,
    callback: Callback | None = None,
) -> TrainingState:
    """Train until ``config.steps`` steps are done.

    Parameters
    ----------
    state : TrainingState
        From `init`, or `load_checkpoint`; changed in place.
    draw : callable
        ``draw(step) -> Tensor``, the scaled images of this process at that step.
    folder : Path, optional
        Where checkpoints go: every ``checkpoint_every`` steps, at the end, on Ctrl-C and when the loss breaks down.
    data : str
        Hash of the training images, kept in the checkpoint.
    callback : callable, optional
        ``callback(step, {"loss": ..., "gradient_norm": ..., "learning_rate": ...})`` after every step.

    Raises
    ------
    SolverError
        If the loss is not finite; the checkpoint then holds the last good state.
    KeyboardInterrupt
        On Ctrl-C, after the checkpoint is written.
    """

    def save() -> None:
        if folder is not None and state.engine.rank == 0:
            save_checkpoint(folder / CHECKPOINT, state, config, data)

    with deferred_interrupt() as interrupted:
        steps = track(range(state.step, config.steps), progress=progress, description="training")
        for step in steps:
            try:
                info = train_step(state, draw(step), config)
            except SolverError:
                save()
                raise
            if callback is not None:
                callback(step, info._asdict())
            if _anywhere(interrupted(), state.engine):
                save()
                raise KeyboardInterrupt(f"training interrupted after step {step}; the same command resumes it")
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                save()
    return state


def _anywhere(flag: bool, engine: Engine) -> bool:
    """Whether `flag` is true in any process: all stop at the same step, or one would wait for the others for ever."""
    return flag if engine.world == 1 else bool(engine.gather(torch.tensor([flag], device=engine.device)).any())


def save_checkpoint(path: Path, state: TrainingState, config: PriorTraining, data: str = "") -> None:
    """Write the state of a run, whole or not at all."""
    content = {
        "config": asdict(config),
        "data": data,
        "step": state.step,
        "losses": torch.tensor(state.losses, dtype=torch.float64),
        "model": state.denoiser.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, state: TrainingState, config: PriorTraining, data: str = "") -> None:
    """Read a run's state into `state`, fresh from `init`.

    Raises
    ------
    PriorError
        If the file is damaged, or belongs to a run with other settings, images or network.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before, now = content["config"], asdict(config)
        differing = [k for k in now if k not in _FREE and before.get(k) != now[k]]
        step, losses = int(content["step"]), content["losses"].tolist()
    except Exception as error:  # torch.load raises a dozen types on damaged files
        raise PriorError(f"cannot resume from {path}: damaged or foreign file ({type(error).__name__})") from error
    if differing:
        changes = ", ".join(f"{k} was {before.get(k)}, now {now[k]}" for k in differing)
        raise PriorError(f"cannot resume from {path}: {changes}; take another folder or resume=False")
    if content["data"] != data:
        raise PriorError(
            f"cannot resume from {path}: it was trained on other images; take another folder or resume=False"
        )
    try:
        state.denoiser.load_state_dict(content["model"])
        state.ema.load_state_dict(content["ema"])
        state.optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise PriorError(f"cannot resume from {path}: it holds another network than the one asked for") from error
    state.step, state.losses = step, losses
