"""Training an energy from data."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sciinstruct.core import SolverError, make_generator, randn_like, track
from sciinstruct.core.checkpoint import load_checkpoint, save_checkpoint
from sciinstruct.core.checks import check_finite
from sciinstruct.core.interrupt import deferred_interrupt
from sciinstruct.implicit.energy_models.chains import langevin
from sciinstruct.implicit.energy_models.model import EnergyModel
from sciinstruct.implicit.energy_models.objectives import contrastive_loss, diffusion_contrastive_loss
from sciinstruct.implicit.energy_models.state import EnergyState

_PENALTY = 1e-3  # of contrastive divergence
_BUFFER, _FRESH = 4096, 0.05  # persistent chains, and the share restarted at every step

Callback = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class EnergyTraining:
    """Learn an energy from data.

    =======  =======================================================================================================
    ``dcd``  diffusion contrastive divergence: noise instead of chains
    ``cd``   contrastive divergence: negatives are short Langevin chains from the data
    ``pcd``  persistent contrastive divergence: chains go on from step to step, a twentieth restarted
    =======  =======================================================================================================

    Parameters
    ----------
    objective : str
        As above.
    steps, batch : int
    learning_rate : float
        Of Adam; a cosine takes it to 1 %.
    tau : float
        Noise of ``dcd``, in units of the data's spread: about the width of the finest structure.
    proposals : int
        Perturbed points per datum of ``dcd``.
    chain_steps : int
        Langevin steps of ``cd`` and ``pcd``.
    chain_step : float
        Their size, in squared units of the data's spread.
    noise : float
        Added to every batch, in units of the data's spread; for data on a grid or at a bound, whose density is not
        finite.
    width, depth : int
        Of the network.
    hold : float
        Width of the Gaussian that holds the density together, in units of the data's spread.
    ema : float
        Decay of the average of weights, which is what is returned.

    References
    ----------
    Luo et al. 2023, arXiv 2307.01668 (DCD).
    """

    objective: Literal["dcd", "cd", "pcd"] = "dcd"
    steps: int = 3000
    batch: int = 256
    learning_rate: float = 2e-3
    tau: float = 0.2
    proposals: int = 16
    chain_steps: int = 20
    chain_step: float = 0.01
    noise: float = 0.0
    width: int = 128
    depth: int = 3
    hold: float = 3.0
    ema: float = 0.99

    def __post_init__(self) -> None:
        if self.objective not in ("dcd", "cd", "pcd"):
            raise ValueError(f"objective must be dcd, cd or pcd, got {self.objective!r}")
        counts = {k: getattr(self, k) for k in ("steps", "batch", "proposals", "chain_steps")}
        if min(counts.values()) < 1:
            raise ValueError(f"{', '.join(counts)} must be at least 1, got {counts}")
        sizes = {k: getattr(self, k) for k in ("tau", "chain_step", "learning_rate")}
        if not min(sizes.values()) > 0 or self.noise < 0:
            raise ValueError(f"{', '.join(sizes)} must be positive and noise >= 0, got {sizes} and {self.noise}")

    def train(
        self,
        data: Tensor,
        *,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        name: str = "energy model",
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> EnergyModel:
        """Learn the density of `data`.

        Parameters
        ----------
        data : Tensor, shape (N, *event_shape)
            The model is on its device, in float32.
        generator : torch.Generator or int, optional
            On the data's device; the same seed gives the same model.
        progress : bool
        callback : callable, optional
            ``callback(step, {"loss": ...})`` after every step.
        name : str
        checkpoint : path, optional
            Where the state is kept ten times in a run, and when it is interrupted or fails.
        resume : bool
            Go on from `checkpoint`.

        Returns
        -------
        EnergyModel
            A `Target`; ``model.save(folder, {"settings": training.settings()})`` keeps it.

        Raises
        ------
        ValueError
            If there are fewer than two data, they do not differ, or one is not finite; if `resume` is asked for
            without `checkpoint`.
        SolverError
            If the loss becomes NaN or infinite (the text names the step), or the checkpoint is missing, damaged, or of
            other data or settings.
        """
        if resume and checkpoint is None:
            raise ValueError("resume needs checkpoint, the file to go on from")
        check_finite("data", data)
        x = data.detach().flatten(1).float()
        scale = float(x.var(0, correction=0).mean().sqrt()) if len(x) > 1 else 0.0
        if not scale > 0:
            raise ValueError(f"data must be at least two different points, got {len(x)} of spread {scale:g}")
        g = make_generator(generator, x.device)
        model = self._blank(tuple(data.shape[1:]) or (1,), x, scale, g, name)
        state = EnergyState(model.net, model.base_draws(_BUFFER, g), g, ema=self.ema)
        run = {"settings": self.settings(), "data": [name, list(data.shape), scale]}
        if resume and checkpoint is not None:
            saved = load_checkpoint(checkpoint)
            if {k: saved.get(k) for k in run} != run:
                raise SolverError("the checkpoint belongs to other data or other settings; delete it to start afresh")
            state.restore(saved["state"])

        def keep() -> None:
            if checkpoint is not None:
                save_checkpoint(checkpoint, run | {"state": state.dump()})

        self._loop(model, x, state, progress, callback, keep)
        state.average.copy_to(model.net)
        return model.requires_grad_(False).eval()

    def _loop(
        self,
        model: EnergyModel,
        x: Tensor,
        state: EnergyState,
        progress: bool,
        callback: Callback | None,
        keep: Callable[[], None],
    ) -> None:
        """Take the steps; on failure or interruption, which takes effect between steps, keep the last state."""
        try:
            with deferred_interrupt() as interrupted:
                for step in track(range(state.step, self.steps), progress=progress, description=self.objective):
                    loss = self._step(model, x, state)
                    if callback is not None:
                        callback(step, {"loss": loss})
                    if state.step % max(1, self.steps // 10) == 0:
                        keep()
                    if interrupted():
                        raise KeyboardInterrupt
        except (KeyboardInterrupt, SolverError):
            keep()
            raise

    def _step(self, model: EnergyModel, x: Tensor, state: EnergyState) -> float:
        g = state.generator
        batch = x[torch.randint(len(x), (self.batch,), generator=g, device=x.device)]
        batch = batch + self.noise * model.scale * randn_like(batch, g)
        loss = self._loss(model, batch, state.chains, model.scale, g)
        if not torch.isfinite(loss):
            raise SolverError(f"the {self.objective} loss became NaN or infinite at step {state.step}; lower the rates")
        wave = 0.5 * (1 + math.cos(math.pi * state.step / self.steps))
        state.descend(loss, self.learning_rate * (0.01 + 0.99 * wave))
        return float(loss.detach())

    def settings(self) -> dict[str, Any]:
        """For a card."""
        return asdict(self)

    def _blank(
        self, event_shape: tuple[int, ...], x: Tensor, scale: float, g: torch.Generator, name: str
    ) -> EnergyModel:
        seed = int(torch.randint(2**62, (), generator=g, device=g.device))
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # torch's layers draw their weights from the global seed only
            sizes: dict[str, Any] = {"width": self.width, "depth": self.depth, "hold": self.hold}
            return EnergyModel(event_shape, centre=x.mean(0), scale=scale, name=name, **sizes).to(x.device)

    def _loss(self, model: EnergyModel, x: Tensor, chains: Tensor, scale: float, g: torch.Generator) -> Tensor:
        if self.objective == "dcd":
            xi = torch.randn(self.proposals, *x.shape, generator=g, dtype=x.dtype, device=x.device)
            return diffusion_contrastive_loss(model.energy, x, randn_like(x, g), xi, self.tau * scale)
        size = self.chain_step * scale**2
        if self.objective == "cd":
            negatives = langevin(model, x, steps=self.chain_steps, step=size, generator=g)
            return contrastive_loss(model.energy, x, negatives, _PENALTY)
        index = torch.randperm(len(chains), generator=g, device=x.device)[: len(x)]
        fresh = torch.rand(len(index), 1, generator=g, device=x.device) < _FRESH
        start = torch.where(fresh, model.base_draws(len(index), g), chains[index])
        negatives = langevin(model, start, steps=self.chain_steps, step=size, generator=g)
        chains[index] = negatives
        return contrastive_loss(model.energy, x, negatives, _PENALTY)
