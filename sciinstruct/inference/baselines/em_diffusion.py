"""Expectation maximisation with diffusion posteriors: a prior from corrupted data by drawing the clean and training.

In every lap one posterior draw is made of each measurement under the prior as it is, by a diffusion sampler that data
guide, and the prior is trained on the draws as if they were clean. The first lap's draws are those of the Gaussian law
that explains the data best, exact and in closed form.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from sciinstruct.core import Callback, Likelihood, PriorError, SolverError, make_generator, track
from sciinstruct.diffusion import default_solver
from sciinstruct.diffusion.edm import NoiseLevels
from sciinstruct.inference.baselines.coordinates import coordinates
from sciinstruct.inference.baselines.moment_matching import posterior_draws
from sciinstruct.inference.flowdiff_build import Problem, hand_over
from sciinstruct.inference.flowdiff_checks import admit, chi2_warning, chi_square
from sciinstruct.inference.flowdiff_identifiability import Identifiability
from sciinstruct.inference.flowdiff_learner import Learner, fit_denoiser
from sciinstruct.inference.flowdiff_prior import LearnedPrior, Network, default_denoiser
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.simulator import Simulator
from sciinstruct.priors.base import Prior


@dataclass(frozen=True)
class EMDiffusionResult:
    """A prior of clean events, and its posteriors by the sampler it was trained with.

    Parameters
    ----------
    prior : Prior
        For images a `NetworkPrior`.
    instrument : Instrument
        Of the measurements, in the prior's units.
    covariance : Tensor, shape (d, d)
        Of the last lap's draws, in those units: what moments are matched with.
    calls, solves : int
        As of the settings.
    draws : Tensor, shape (n, *event_shape)
        The last lap's, one of each measurement, physical.
    identifiability : Identifiability or None
        What the data can teach.
    curves : dict
        ``denoising``, one value a step; ``chi2``, one value a lap.
    warnings : list of str
        Red flags.
    seconds : float
    """

    prior: Prior
    instrument: Instrument
    covariance: Tensor
    calls: int
    solves: int
    draws: Tensor
    identifiability: Identifiability | None
    curves: dict[str, list[float]]
    warnings: list[str]
    seconds: float

    def sample(self, y: Tensor, n_samples: int, *, generator: torch.Generator | int | None = None) -> Tensor:
        """Posterior draws (B, n_samples, *event_shape), physical, of measurements (B, *range_shape)."""
        g = make_generator(generator, y.device)
        data = coordinates(self.instrument, y).to(y.real)
        rows = torch.arange(len(y), device=y.device).repeat_interleave(n_samples)
        solver = default_solver(self.prior.sigma_range, self.calls)
        x = posterior_draws(self.prior, data.rows(rows), self.covariance, self.solves, solver, g)
        return self.prior.to_physical(x).reshape(len(y), n_samples, *x.shape[1:])


@dataclass(frozen=True)
class EMDiffusion:
    """Settings of the training.

    Parameters
    ----------
    laps : int
        Rounds of draws, the first of the Gaussian start, each followed by training.
    steps, batch : int
        Steps of training over all laps, and draws per step.
    calls : int
        Of the network per posterior draw.
    solves : int
        Steps of conjugate gradients with the denoiser's Jacobian in each call that needs them, each as dear as two
        calls; 0 matches moments with the draws' covariance alone, which is right for Gaussian events and cheap.
    rate, clip, ema : float
        Adam's peak learning rate, which falls along a cosine over the last half of all steps to 1 %; largest gradient
        norm; decay of the average that draws are made with and that is returned.
    levels : NoiseLevels
        Of the prior; its units give events a standard deviation of 0.5.

    Notes
    -----
    Draws are exact where events are Gaussian, else approximate (`moment_matching`), and a bias in them is learned.

    References
    ----------
    Rozet, Andry, Lanusse, Louppe 2024, "Learning diffusion priors from observations by expectation maximization"; Bai,
    Wang, Chen, Sun 2024, "An expectation-maximization algorithm for training clean diffusion models from corrupted
    observations".
    """

    laps: int = 6
    steps: int = 4000
    batch: int = 512
    calls: int = 20
    solves: int = 2
    rate: float = 2e-3
    clip: float = 1.0
    ema: float = 0.999
    levels: NoiseLevels = field(default_factory=lambda: NoiseLevels(0.01, 20.0))

    def __post_init__(self) -> None:
        for name, least in (("laps", 1), ("steps", self.laps), ("batch", 1), ("calls", 4), ("solves", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not min(self.rate, self.clip) > 0:
            raise ValueError(f"rate and clip must be positive, got {self.rate} and {self.clip}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")

    def train(
        self,
        measurements: Tensor | Sequence[Tensor],
        simulator: Simulator | Likelihood,
        *,
        denoiser: Network | None = None,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> EMDiffusionResult:
        """Learn the law of clean events from corrupted ones.

        Parameters
        ----------
        measurements, simulator
            As of `sciinstruct.inference.flowdiff.FlowDiff.train`; data must be affine in the event.
        denoiser : VectorDenoiser or EDMPrecond, optional
            The network; copied. By default that of `FlowDiff`.
        callback : callable, optional
            ``callback(lap, info)`` after every lap.

        Raises
        ------
        TypeError, ValueError
            On measurements that are not finite, constant, of mixed or other shapes.
        PriorError
            If the instrument is of another kind, or data vary no more than their noise.
        SolverError
            If a loss is not finite: the text names the lap.
        """
        law, y = admit(measurements, simulator)
        g, began = make_generator(generator, y.device), time.perf_counter()
        problem = Problem.prepare(law, y, 0, None, None, None, g)
        if not problem.affine:
            raise PriorError(
                "this needs data that are an affine map of the event, of up to 1024 numbers: take FlowDiff"
            )
        run = _Run(self, problem, copy.deepcopy(denoiser), g)
        for lap in track(range(self.laps), progress=progress, description="expectation maximisation"):
            try:
                info = run.advance(lap)
            except SolverError as error:
                raise SolverError(f"{error} in lap {lap}; lower the rate, or check the data's units") from error
            if callback is not None:
                callback(lap, info)
        return run.finished(time.perf_counter() - began)


class _Run:
    """Data in coordinates, the network, the covariance of the draws, and one lap."""

    def __init__(self, settings: EMDiffusion, problem: Problem, denoiser: Network | None, g: torch.Generator) -> None:
        self.settings, self.problem, self.generator = settings, problem, g
        ends, like = (settings.levels.sigma_min, settings.levels.sigma_max), problem.y.real
        self.instrument = problem.instrument(ends)
        self.data = coordinates(self.instrument, problem.y).to(like)
        self.covariance = problem.gaussian.covariance.to(like)
        seed = int(torch.randint(2**31, (1,), generator=g, device=g.device))
        network = default_denoiser(problem.event_shape, seed) if denoiser is None else denoiser
        self.prior = LearnedPrior(
            network.to(like.device, like.dtype), problem.event_shape, ends, problem.scale, problem.shift
        )
        self.learner = Learner(self.prior.denoiser, rate=settings.rate, clip=settings.clip, ema=settings.ema)
        self.draws, self.step = like.new_empty(0), 0
        self.curves: dict[str, list[float]] = {"denoising": [], "chi2": []}

    def advance(self, lap: int) -> dict[str, float]:
        """Draw once for every measurement, then train on the draws."""
        s = self.settings
        prior, solves = (self.instrument.prior, 0) if lap == 0 else (self._averaged(), s.solves)
        solver = default_solver(self.prior.sigma_range, s.calls)
        self.draws = posterior_draws(prior, self.data, self.covariance, solves, solver, self.generator)
        flat = self.draws.flatten(1)
        self.covariance = torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])
        chi2 = chi_square(self.problem.law, self.problem.y, self.prior.to_physical(self.draws))
        assert chi2 is not None
        self.curves["chi2"].append(float(chi2.mean()))
        end = round((lap + 1) * s.steps / s.laps)
        while self.step < end:
            index = torch.randint(len(self.draws), (s.batch,), generator=self.generator, device=self.draws.device)
            loss = fit_denoiser(self.learner, self.draws[index], s.levels, self.step / s.steps, self.generator)
            self.curves["denoising"].append(loss)
            self.step += 1
        return {name: values[-1] for name, values in self.curves.items()}

    def _averaged(self) -> LearnedPrior:
        """The prior with averaged weights, which go on learning elsewhere."""
        made = copy.deepcopy(self.prior)
        self.learner.average.copy_to(made.denoiser)
        return made

    def finished(self, seconds: float) -> EMDiffusionResult:
        """Averaged weights, frozen, and what posteriors need."""
        self.learner.settle()
        report, chi2 = self.problem.report, self.curves["chi2"][-1]
        warnings = [] if report is None else report.warnings()
        warnings += [said for said in [chi2_warning(chi2)] if said is not None]
        prior = hand_over(
            self.prior,
            self.prior.denoiser,
            description="Learned by expectation maximisation from corrupted measurements alone",
            training=asdict(self.settings),
            steps=self.step,
            device=self.draws.device.type,
            seconds=round(seconds, 1),
            limits=list(warnings),
        )
        return EMDiffusionResult(
            prior,
            self.instrument,
            self.covariance,
            self.settings.calls,
            self.settings.solves,
            prior.to_physical(self.draws),
            report,
            self.curves,
            warnings,
            seconds,
        )
