r"""Ambient diffusion: a prior from corrupted data by denoising them further, with no posterior in between.

Masks are extended: the network sees a part of the pixels that were measured and is held against all of them. Noise is
raised: at levels above the data's own, a regression on the noisy data has the clean expectation in it. Both are exact
where they apply, and cost what training on clean data does. They do not apply where the data hold more noise in some
direction than the clean events vary, as behind a blur: no level of white noise covers it.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from sciinstruct.core import Callback, Likelihood, PriorError, SolverError, make_generator, randn_like, track
from sciinstruct.diffusion.edm import NoiseLevels
from sciinstruct.diffusion.unet import make_unet
from sciinstruct.inference.baselines.ambient_losses import ambient_loss, consistency_loss, show
from sciinstruct.inference.baselines.ambient_prior import AmbientPrior, MaskedDenoiser
from sciinstruct.inference.baselines.coordinates import Coordinates, coordinates
from sciinstruct.inference.flowdiff_build import Problem, hand_over
from sciinstruct.inference.flowdiff_checks import admit
from sciinstruct.inference.flowdiff_learner import Learner
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA, LearnedPrior, Network, default_denoiser, unet_config
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.simulator import Simulator
from sciinstruct.priors.base import Prior

_SHARE = 4  # of a batch that consistency is asked of is one in so many: it costs nine times as much per item


@dataclass(frozen=True)
class AmbientResult:
    """A prior of clean events, and their expectations given measurements.

    Parameters
    ----------
    prior : Prior
        Its lowest level is the data's noise, unless consistency took it further down. Of masked images an
        `AmbientPrior`.
    instrument : Instrument
        Of the measurements, in the prior's units.
    lowest : float
        The data's noise, in those units.
    losses : dict
        One value per step: ``ambient``, ``consistency``.
    seconds : float
    """

    prior: Prior
    instrument: Instrument
    lowest: float
    losses: dict[str, list[float]]
    seconds: float

    @torch.no_grad()
    def mean(self, y: Tensor) -> Tensor:
        """Expectation of the clean events (n, *event_shape), physical, given measurements (n, *range_shape).

        One call of the network: it was trained to give it. Where the noise differs between directions, the better ones
        are taken for as noisy as the worst.
        """
        data = coordinates(self.instrument, y).to(y.real)
        seen = data.measured.expand_as(data.values)
        x = data.leave(torch.where(seen, data.values, torch.zeros_like(data.values)), self.prior.event_shape)
        if isinstance(self.prior, AmbientPrior):
            return self.prior.to_physical(self.prior.denoiser(x, self.lowest, seen.reshape(x.shape)))
        return self.prior.to_physical(self.prior.denoise(x, self.lowest))


@dataclass(frozen=True)
class Ambient:
    """Settings of the training.

    Parameters
    ----------
    steps, batch : int
        Steps, and measurements per step.
    hide : float
        Share of the measured pixels that the network is not shown, where masks differ from item to item.
    consistent : float
        Share of the steps, at the end, that also ask for consistency below the data's noise; for data without masks.
        0 leaves those levels unlearned: samples are then expectations given an image at the data's noise.
    rate, clip, ema : float
        Adam's peak learning rate, which falls along a cosine over the last half to 1 %; largest gradient norm; decay of
        the average that is returned.
    levels : NoiseLevels
        Of the prior; its units give events a standard deviation of 0.5. Those below the data's noise serve consistency.

    Notes
    -----
    What data it is for: noise on every number of the event, or behind an invertible linear instrument that leaves no
    direction with more noise than the events vary (Tweedie's form); masks of pixels that differ from item to item, with
    such noise (further masking, and Tweedie's form on what is seen). Everything else is refused.

    References
    ----------
    Daras, Shah, Dagan, Gollakota, Dimakis, Klivans 2023, "Ambient diffusion: learning clean distributions from
    corrupted data"; Daras, Dimakis, Daskalakis 2024, "Consistent diffusion meets Tweedie".
    """

    steps: int = 4000
    batch: int = 512
    hide: float = 0.1
    consistent: float = 0.5
    rate: float = 2e-3
    clip: float = 1.0
    ema: float = 0.999
    levels: NoiseLevels = field(default_factory=lambda: NoiseLevels(0.01, 20.0))

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1:
            raise ValueError(f"steps and batch must be at least 1, got {self.steps} and {self.batch}")
        if not 0 < self.hide < 1:
            raise ValueError(f"hide must lie between 0 and 1, got {self.hide}")
        if not min(self.rate, self.clip) > 0:
            raise ValueError(f"rate and clip must be positive, got {self.rate} and {self.clip}")
        for name in ("consistent", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def train(
        self,
        measurements: Tensor | Sequence[Tensor],
        simulator: Simulator | Likelihood,
        *,
        denoiser: Network | None = None,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> AmbientResult:
        """Learn the law of clean events from corrupted ones.

        Parameters
        ----------
        measurements, simulator
            As of `sciinstruct.inference.flowdiff.FlowDiff.train`.
        denoiser : VectorDenoiser, EDMPrecond or MaskedDenoiser, optional
            The network, a `MaskedDenoiser` for masks; copied. By default that of `FlowDiff`.
        callback : callable, optional
            ``callback(step, info)`` after every step.

        Raises
        ------
        TypeError, ValueError
            On measurements that are not finite, constant, of mixed or other shapes.
        PriorError
            If the instrument is of another kind than the class says, or data vary no more than their noise.
        SolverError
            If a loss is not finite: the text names step and term.
        """
        law, y = admit(measurements, simulator)
        g, began = make_generator(generator, y.device), time.perf_counter()
        problem = Problem.prepare(law, y, 0, None, None, None, g)
        seed = int(torch.randint(2**31, (1,), generator=g, device=g.device))
        run = _Run(self, problem, copy.deepcopy(denoiser), seed, g)
        losses: dict[str, list[float]] = {}
        for step in track(range(self.steps), progress=progress, description="ambient training"):
            try:
                info = run.advance(step)
            except SolverError as error:
                raise SolverError(f"{error} at step {step}; lower the rate, or check the data's units") from error
            for name, value in info.items():
                losses.setdefault(name, []).append(value)
            if callback is not None:
                callback(step, info)
        seconds = time.perf_counter() - began
        return AmbientResult(run.finished(seconds), run.instrument, run.lowest, losses, seconds)


class _Run:
    """Data in coordinates, the network, and one step."""

    def __init__(
        self, settings: Ambient, problem: Problem, denoiser: Network | None, seed: int, g: torch.Generator
    ) -> None:
        self.settings, self.generator, self.event_shape = settings, g, problem.event_shape
        levels, like = settings.levels, problem.y.real
        ends = levels.sigma_min, levels.sigma_max
        if not problem.affine:
            raise PriorError("Ambient training needs data that are an affine map of the event, of up to 1024 numbers")
        self.instrument = problem.instrument(ends)
        self.data = coordinates(self.instrument, problem.y).to(like)
        self.masked = bool(problem.law.varies)  # type: ignore[attr-defined]
        self.lowest = max(_check(self.data), levels.sigma_min)
        self.levels = replace(levels, sigma_min=self.lowest)
        if denoiser is None:
            denoiser = (masked_denoiser if self.masked else default_denoiser)(self.event_shape, seed)
        network = denoiser.to(like.device, like.dtype)
        self.prior = LearnedPrior(network, self.event_shape, ends, problem.scale, problem.shift)
        self.learner = Learner(self.prior.denoiser, rate=settings.rate, clip=settings.clip, ema=settings.ema)

    @property
    def reaches_down(self) -> bool:
        """Whether consistency is asked for below the data's noise."""
        return self.settings.consistent > 0 and not self.masked and self.lowest > self.settings.levels.sigma_min

    def advance(self, step: int) -> dict[str, float]:
        """One step of Adam."""
        s, g = self.settings, self.generator
        n = len(self.data.values)
        data = self.data.rows(torch.randint(n, (s.batch,), generator=g, device=g.device))
        sigma = self.levels.sample(s.batch, g, g.device).to(data.values)
        hidden = torch.zeros_like(data.values, dtype=torch.bool)
        if self.masked:
            hidden = torch.rand(data.values.shape, generator=g, device=g.device) < s.hide
        noise = randn_like(data.values, g)
        parts = {"ambient": ambient_loss(self._denoise, data, sigma, hidden, noise, self.event_shape).mean()}
        if self.reaches_down and step >= (1 - s.consistent) * s.steps:
            few = torch.arange(max(1, s.batch // _SHARE), device=g.device)
            parts["consistency"] = self._consistency(data.rows(few))
        for name, value in parts.items():
            if not torch.isfinite(value):
                raise SolverError(f"the {name} loss became NaN or infinite")
        self.learner.descend(torch.stack(list(parts.values())).sum(), step / s.steps)
        return {name: float(value.detach()) for name, value in parts.items()}

    def _denoise(self, x: Tensor, sigma: Tensor, seen: Tensor) -> Tensor:
        if isinstance(self.prior.denoiser, MaskedDenoiser):
            return self.prior.denoiser(x, sigma, seen.reshape(x.shape))
        return self.prior.denoiser(x, sigma)

    def _consistency(self, data: Coordinates) -> Tensor:
        """At a level that is log-uniform between the prior's lowest and the data's."""
        u, g = torch.rand((), generator=self.generator, device=self.generator.device), self.generator
        low = self.settings.levels.sigma_min
        sigma = low * (self.lowest / low) ** (0.99 * float(u))
        top, everything = data.values.new_full((len(data.values),), self.lowest), torch.ones_like(data.values).bool()
        x = data.leave(show(data, top, everything, randn_like(data.values, g)), self.event_shape)
        return consistency_loss(self.prior.denoiser, x, self.lowest, sigma, g).mean()

    def finished(self, seconds: float) -> Prior:
        """Averaged weights behind a prior of the levels that were learned."""
        self.learner.settle()
        low = self.settings.levels.sigma_min if self.reaches_down else self.lowest
        ends = low, self.settings.levels.sigma_max
        prior, denoiser = self.prior, self.prior.denoiser
        if isinstance(denoiser, MaskedDenoiser):
            masks = self.data.measured.reshape(-1, *self.event_shape)
            return AmbientPrior(denoiser, masks, ends, float(prior.scale), float(prior.shift))
        return hand_over(
            LearnedPrior(denoiser, self.event_shape, ends, float(prior.scale), float(prior.shift)),
            denoiser,
            description="Learned by Ambient training from corrupted measurements alone",
            training=asdict(self.settings),
            steps=self.settings.steps,
            device=self.data.values.device.type,
            seconds=round(seconds, 1),
        )


def masked_denoiser(event_shape: tuple[int, ...], seed: int) -> MaskedDenoiser:
    """The U-Net of `FlowDiff`, with a mask beside the image."""
    if len(event_shape) != 3:
        raise PriorError(f"masks need images (C, H, W), not events {event_shape}")
    config = unet_config(event_shape)
    return MaskedDenoiser(make_unet(replace(config, in_channels=2 * config.in_channels), seed), SIGMA_DATA)


def _check(data: Coordinates) -> float:
    """Largest noise of what was measured, in the prior's units; raises PriorError where the method does not apply."""
    never = int((~data.measured).all(0).sum())
    if never:
        raise PriorError(
            f"{never} of {data.values.shape[1]} directions of the event leave no trace in the data, a fixed mask or a "
            "blur: Ambient training never learns them, and its samples need them; take FlowDiff or EMDiffusion, which "
            "begin from a Gaussian law there"
        )
    worst = float(data.noise.max())
    if worst > SIGMA_DATA:
        raise PriorError(
            f"in some direction the data hold {worst / SIGMA_DATA:.3g} times more noise than clean events vary, as "
            "behind a blur: Ambient training learns at levels above the data's noise alone; take FlowDiff or "
            "EMDiffusion"
        )
    return worst
