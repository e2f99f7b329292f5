"""Amortised posterior matching: one network, trained once, gives posterior samples for every measurement of a kind.

Bai, Gu, Wang, Luo and Sun 2026, arXiv 2605.25042, Algorithm 1, with two corrections without which spread is lost: the
auxiliary denoiser sees the measurement, and the generator has a latent of its own.
"""

import copy
import os
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import Callback, Denoiser, Likelihood, PriorError, SolverError, make_generator, track
from sciinstruct.core.checkpoint import load_checkpoint, save_checkpoint
from sciinstruct.core.checks import check_finite
from sciinstruct.core.interrupt import deferred_interrupt
from sciinstruct.inference.amortized_run import AmortizedRun
from sciinstruct.inference.conditional import ConditionalGenerator, TiltedDenoiser, VectorGenerator
from sciinstruct.inference.image_networks import ImageAuxiliary, ImageGenerator
from sciinstruct.inference.image_posterior import ImagePosterior
from sciinstruct.inference.reconstructor import Reconstructor
from sciinstruct.inference.simulator import Simulator, as_simulator
from sciinstruct.inference.training_pairs import Source

_NOISE_IMAGES = 2  # that the U-Net for images sees besides its linear draw
_EXAMPLES = 1024  # draws of the prior, and measurements of them, that set scales
_IMAGES, _NUMBERS = 8192, 2**25  # images start from a fit, worth as many as forty steps use; and what memory allows


@dataclass(frozen=True)
class AmortizedPPM:
    """Settings of amortised posterior matching under the exact KL divergence.

    Parameters
    ----------
    steps, batch : int
        Generator steps, and measurements per step (each seen through every head).
    auxiliary_steps, auxiliary_batch, warmup : int
        Fits of the auxiliary denoiser per generator step, draws per fit, and fits before the first step.
    learning_rate, auxiliary_rate : float
        Of Adam; both fall along a cosine over the last half of the run.
    scoring_steps : int
        Steps before those, in which the generator learns from pairs of image and measurement by a proper score, see
        `sciinstruct.inference.scoring`: the way in where no closed form is near, and reverse KL would miss modes.
    scoring_batch, scoring_rate : int, float
        Pairs per such step, and Adam's rate in them, which falls along a cosine.
    sigma_min, sigma_max : float, optional
        Range of noise levels in the prior's units; the prior's own range if None. `sigma_min` should be at most half
        the smallest posterior standard deviation.
    anneal_from, anneal_share : float
        Lowest noise level at the first step, in standard deviations of the prior, and the share of the run over which
        it falls geometrically to `sigma_min`.
    heads, latents, width, blocks : int
        Of the built-in networks. For vectors, `latents` counts random numbers; None means three times the vector's
        length. For images, it counts noise images besides the linear draw, None means 2; `width` is a multiple of 16,
        the channels of the U-Net's finest level, and `blocks` counts its residual blocks per level.
    average_width : float
        Relative width of the power-function average of the generator's weights that is returned.
    auxiliary_sees_y : bool
        False is only for showing what a blind auxiliary does: it learns the average over all measurements, and the
        reconstructor collapses to a point per measurement.

    References
    ----------
    Bai et al. 2026, Algorithm 1 with the level weight of eq. 13; Karras et al. 2024 (averages).
    """

    steps: int = 2500
    batch: int = 128
    auxiliary_steps: int = 3
    auxiliary_batch: int = 384
    warmup: int = 300
    learning_rate: float = 1e-3
    auxiliary_rate: float = 4e-3
    scoring_steps: int = 0
    scoring_batch: int = 32
    scoring_rate: float = 2e-3
    sigma_min: float | None = None
    sigma_max: float | None = None
    anneal_from: float = 2.0
    anneal_share: float = 0.6
    heads: int = 4
    latents: int | None = None
    width: int = 64
    blocks: int = 2
    average_width: float = 0.05
    auxiliary_sees_y: bool = True

    def __post_init__(self) -> None:
        counts = ("batch", "auxiliary_steps", "auxiliary_batch", "scoring_batch", "heads", "width", "blocks")
        for name, least in [*((c, 1) for c in counts), ("steps", 0), ("warmup", 0), ("scoring_steps", 0)]:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "auxiliary_rate", "scoring_rate", "anneal_from"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.anneal_share < 1:
            raise ValueError(f"anneal_share must lie in [0, 1), got {self.anneal_share}")

    @classmethod
    def for_images(cls, steps: int = 1000, **settings: Any) -> "AmortizedPPM":
        """Settings for images and the built-in networks, measured on 16x16 mixtures of fields.

        They start near the answer, so that the steps are small, the auxiliary denoiser is given time to follow, and
        there is no annealing: it finds modes, which the heads have from the start, and shrinks what is spread.

        Parameters
        ----------
        steps : int
            Generator steps.
        settings
            Any other than these.
        """
        chosen: dict[str, Any] = {
            "batch": 16,
            "auxiliary_batch": 64,
            "warmup": 50,
            "learning_rate": 1e-4,
            "auxiliary_rate": 1e-3,
            "anneal_share": 0.0,
            "width": 16,
            "blocks": 1,
            "average_width": 0.1,
        }
        return cls(**{"steps": steps, **chosen, **settings})

    def train(
        self,
        prior: Denoiser,
        simulator: Simulator | Likelihood,
        *,
        network: ConditionalGenerator | None = None,
        auxiliary: nn.Module | None = None,
        measurements: Tensor | None = None,
        images: Tensor | None = None,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Reconstructor:
        """Train on measurements simulated from the prior, or on given ones; no ground truth is used.

        Parameters
        ----------
        prior : Denoiser
            With ``sample(n, generator=..., dtype=..., device=...)``.
        simulator : Simulator or Likelihood
            The law of the measurements; of a `Likelihood` its operator and noise are taken, its data ignored.
        network : ConditionalGenerator, optional
            Of the prior's units, copied before training; by default a `VectorGenerator`, or for images (C, H, W) an
            `ImageGenerator`, which needs data affine in the image and noise that states its variance.
        auxiliary : nn.Module, optional
            ``auxiliary(x, sigma, y) -> E[x0 | x, y]``, copied before training; by default a `TiltedDenoiser` or an
            `ImageAuxiliary`.
        measurements : Tensor, shape (n, *range_shape), optional
            Match on these instead of simulating afresh at every step: real data.
        images : Tensor, shape (n, *event_shape), optional
            Physical images of the prior's law, such as those it was trained on, to simulate from instead of drawing
            from the prior, which is slow for trained ones.
        checkpoint : path, optional
            Where the state is kept, written every tenth of the run and on interruption; with ``resume=True`` the run
            goes on from it.

        Returns
        -------
        Reconstructor
            With averaged weights.

        Raises
        ------
        PriorError
            If prior and simulator disagree on the shape of an image, or the built-in networks for images do not suit
            them.
        SolverError
            If a loss turns NaN: the text names step and term, and the last good state is in `checkpoint`.
        """
        law = as_simulator(simulator)
        if tuple(prior.event_shape) != law.domain_shape:
            raise PriorError(f"prior makes {tuple(prior.event_shape)}, the simulator expects {law.domain_shape}")
        if not self.auxiliary_sees_y:
            warnings.warn(
                "an auxiliary denoiser that does not see y collapses the posterior: a comparison only", stacklevel=2
            )
        g = make_generator(generator)
        source = Source(prior, law, measurements, _pool(prior, images, g, dtype), images is not None)
        run = self._start(source, network, auxiliary, g)
        if resume and checkpoint is not None:
            run.restore(load_checkpoint(checkpoint))
        self._loop(run, progress, callback, checkpoint)
        # the energy score, too, is least at the posterior alone
        attributes = {"solver": "AmortizedPPM", "settings": asdict(self), "preserves_bayes": self.auxiliary_sees_y}
        attributes["seconds"] = run.seconds
        made, curves = run.averaged(), run.diagnostics()
        return Reconstructor(made, prior, law.range_shape, run.smin, attributes, curves, run.validation.y.dtype)

    def _start(
        self,
        source: Source,
        network: ConditionalGenerator | None,
        auxiliary: nn.Module | None,
        g: torch.Generator,
    ) -> AmortizedRun:
        prior, law, draws = source.prior, source.law, source.draws
        seen = source.measurements
        if seen is None:
            seen = law.simulate(prior.to_physical(draws), g)
        if tuple(seen.shape[1:]) != law.range_shape:
            raise ValueError(f"measurements must have shape (n, *{law.range_shape}), got {tuple(seen.shape)}")
        check_finite("measurements", seen)
        with torch.random.fork_rng(devices=[]):  # layers start from the global generator: seed it, then put it back
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=g, device=g.device)))
            made, score = copy.deepcopy(network), copy.deepcopy(auxiliary)
            if made is None or score is None:
                builtin = self.networks(prior, law, seen, draws, g)
                made = builtin[0] if made is None else made
                score = builtin[1] if score is None else score
        return AmortizedRun(self, source, made, score, g)

    def networks(
        self, prior: Denoiser, law: Simulator, seen: Tensor, draws: Tensor, generator: torch.Generator
    ) -> tuple[ConditionalGenerator, nn.Module]:
        """Build the generator and the auxiliary denoiser that training takes if none are given.

        Parameters
        ----------
        prior, law : Denoiser, Simulator
            The problem.
        seen : Tensor, shape (n, *range_shape)
            Measurements, which set scales.
        draws : Tensor, shape (n, d) or (n, C, H, W)
            Of the prior, in its units.
        generator : torch.Generator
            Of the fit that images start from. Weights start from torch's global generator: seed it.

        Raises
        ------
        ValueError, TypeError, PriorError
            For events or instruments that the built-in networks do not suit.
        """
        if draws.ndim == 2:
            latents = self.latents if self.latents is not None else 3 * draws.shape[1]
            vectors = VectorGenerator(seen, draws, self.heads, latents, self.width, self.blocks)
            return vectors, TiltedDenoiser(prior, seen, draws, self.width, self.blocks)
        if draws.ndim != 4:
            raise ValueError(
                f"the built-in networks are for vectors (d,) and images (C, H, W), not {tuple(draws.shape[1:])}; pass "
                "network=... and auxiliary=..."
            )
        start = ImagePosterior.fit(prior, law, draws, seen, self.heads, generator)
        channels = self.latents if self.latents is not None else _NOISE_IMAGES
        images = ImageGenerator(start, seen, channels, self.width, self.blocks)
        return images, ImageAuxiliary(images, seen, self.width, self.blocks)

    def _loop(
        self,
        run: AmortizedRun,
        progress: bool,
        callback: Callback | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        try:
            with deferred_interrupt() as interrupted:
                rounds = range(run.step, self.scoring_steps + self.steps)
                for step in track(rounds, progress=progress, description="amortised matching"):
                    info = run.advance()
                    if callback is not None:
                        callback(step, info)
                    if interrupted():
                        raise KeyboardInterrupt
                    if checkpoint is not None and run.step % max(1, len(rounds) // 10) == 0:
                        save_checkpoint(checkpoint, run.dump())
        except (KeyboardInterrupt, SolverError):
            if checkpoint is not None:
                save_checkpoint(checkpoint, run.dump())
            raise


def _pool(prior: Denoiser, images: Tensor | None, g: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Draws of the prior to start from, in its units: images given, or as many as are worth it."""
    shape = torch.Size(prior.event_shape)
    if images is not None:
        if tuple(images.shape[1:]) != shape:
            raise ValueError(f"images must have shape (n, {', '.join(map(str, shape))}), got {tuple(images.shape)}")
        check_finite("images", images)
        return prior.from_physical(images.to(device=g.device, dtype=dtype))
    n = _EXAMPLES if len(shape) < 3 else max(_EXAMPLES, min(_IMAGES, _NUMBERS // shape.numel()))
    return prior.sample(n, generator=g, dtype=dtype, device=g.device)  # type: ignore[operator]
