"""Training an energy from data."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sciinstruct.core import SolverError, make_generator, randn_like, track
from sciinstruct.core.checks import check_finite
from sciinstruct.diffusion import EMA
from sciinstruct.implicit.energy_models.chains import langevin
from sciinstruct.implicit.energy_models.model import EnergyModel
from sciinstruct.implicit.energy_models.objectives import contrastive_loss, diffusion_contrastive_loss

_BETAS = (0.9, 0.99)
_CLIP = 10.0
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

        Returns
        -------
        EnergyModel
            A `Target`; ``model.save(folder, {"settings": training.settings()})`` keeps it.

        Raises
        ------
        ValueError
            If there are fewer than two data, they do not differ, or one is not finite.
        SolverError
            If the loss becomes NaN or infinite; the text names the step.
        """
        check_finite("data", data)
        x = data.detach().flatten(1).float()
        scale = float(x.var(0, correction=0).mean().sqrt()) if len(x) > 1 else 0.0
        if not scale > 0:
            raise ValueError(f"data must be at least two different points, got {len(x)} of spread {scale:g}")
        g = make_generator(generator, x.device)
        model = self._blank(tuple(data.shape[1:]) or (1,), x, scale, g, name)
        optimiser = torch.optim.Adam(model.net.parameters(), lr=self.learning_rate, betas=_BETAS)
        average, chains = EMA(model.net, self.ema), model.base_draws(_BUFFER, g)
        for step in track(range(self.steps), progress=progress, description=self.objective):
            batch = x[torch.randint(len(x), (self.batch,), generator=g, device=x.device)]
            batch = batch + self.noise * scale * randn_like(batch, g)
            loss = self._loss(model, batch, chains, scale, g)
            if not torch.isfinite(loss):
                raise SolverError(f"the {self.objective} loss became NaN or infinite at step {step}; lower the rates")
            rate = self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))
            _descend(model, loss, optimiser, rate)
            average.update(model.net)
            if callback is not None:
                callback(step, {"loss": float(loss.detach())})
        average.copy_to(model.net)
        return model.requires_grad_(False).eval()

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


def _descend(model: EnergyModel, loss: Tensor, optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.net.parameters(), _CLIP)
    optimiser.step()
