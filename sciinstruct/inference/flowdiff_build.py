"""From measurements to a run of joint training, and from a finished run to what is handed over."""

import copy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core import LinearOperator, PriorError
from sciinstruct.diffusion.edm import EDMPrecond
from sciinstruct.diffusion.unet import UNet
from sciinstruct.flows.conditions import back_projection
from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.amortized_run import AmortizedRun
from sciinstruct.inference.flowdiff_checks import chi2_warning
from sciinstruct.inference.flowdiff_estep import EStep, FlowStep, MatchingStep, MovingPrior
from sciinstruct.inference.flowdiff_gaussian import DENSE, DENSE_VARYING, Gaussian, fit_gaussian, physical_instrument
from sciinstruct.inference.flowdiff_identifiability import Identifiability, identifiability_report
from sciinstruct.inference.flowdiff_posterior import FlowPosterior, make_posterior
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA, LearnedPrior, Network, default_denoiser
from sciinstruct.inference.flowdiff_result import FlowDiffResult
from sciinstruct.inference.flowdiff_run import FlowDiffRun, finite_tail
from sciinstruct.inference.flowdiff_target import GaussianTarget
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.reconstructor import Reconstructor
from sciinstruct.inference.simulator import AffineSimulator, OperatorSimulator, Simulator
from sciinstruct.inference.training_pairs import Source
from sciinstruct.priors.network import Card, NetworkPrior

if TYPE_CHECKING:
    from sciinstruct.inference.flowdiff import FlowDiff

_MATCHING_DRAWS = 1024
_LARGE = 4096  # numbers in an event up to which a diagonal start keeps its matrix


@dataclass(frozen=True)
class Problem:
    """Measurements, instrument, and the Gaussian start with its units.

    Parameters
    ----------
    law : Simulator
    y, held_out : Tensor
        Measurements to learn from and to watch.
    gaussian : Gaussian
        In units that give events a standard deviation of 0.5.
    scale, shift : float
        From those units to physical ones.
    affine : bool
        Whether data condition the Gaussian start.
    clean : Tensor or None
        In those units.
    report : Identifiability or None
    """

    law: Simulator
    y: Tensor
    held_out: Tensor
    gaussian: Gaussian
    scale: float
    shift: float
    affine: bool
    clean: Tensor | None
    report: Identifiability | None

    @classmethod
    def prepare(
        cls,
        law: Simulator,
        y: Tensor,
        n_held: int,
        guess: tuple[float, float] | None,
        clean: Tensor | None,
        saved: dict[str, Any] | None,
        g: torch.Generator,
    ) -> "Problem":
        """Fit the start, or take it from a checkpoint, and choose units."""
        held, rest = y[:n_held], y[n_held:]
        affine = conditions_gaussian(law, y)
        if saved is not None:
            gaussian, (scale, shift) = Gaussian(*(t.to(y.device) for t in saved["gaussian"])), saved["units"]
        else:
            found = fit_gaussian(law, rest, g) if affine else _guessed(law, rest, guess)
            shift = float(found.mean.mean())
            spread = found.covariance.diagonal().mean() + (found.mean - shift).square().mean()
            scale = float(spread.sqrt()) / SIGMA_DATA
            gaussian = Gaussian((found.mean - shift) / scale, found.covariance / scale**2)
        physical = Gaussian(scale * gaussian.mean + shift, scale**2 * gaussian.covariance)
        report = identifiability_report(law, y, gaussian=physical) if affine else None
        units = None if clean is None else (clean.to(y.real) - shift) / scale
        return cls(law, rest, held, gaussian, scale, shift, affine, units, report)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one clean event."""
        return tuple(self.law.domain_shape)

    def instrument(self, sigma_range: tuple[float, float]) -> Instrument:
        """The instrument in those units, of a problem that is affine."""
        target = GaussianTarget(self.gaussian, self.event_shape, sigma_range, self.scale, self.shift)
        centre = self.gaussian.mean.reshape(self.event_shape).to(self.y.real)
        return Instrument(target.prior, self.law, centre, self.y)


def conditions_gaussian(law: Simulator, y: Tensor) -> bool:
    """Whether a Gaussian law of events can be conditioned on the data by dense algebra."""
    if not isinstance(law, AffineSimulator):
        return False
    if torch.Size(law.domain_shape).numel() > (DENSE_VARYING if law.varies else DENSE):
        return False
    try:
        physical_instrument(law, y)
    except PriorError:
        return False
    return True


def _guessed(law: Simulator, y: Tensor, guess: tuple[float, float] | None) -> Gaussian:
    """White Gaussian of a guessed mean and spread; of a linear operator's back-projections if there is no guess."""
    d = torch.Size(law.domain_shape).numel()
    if d > _LARGE:
        raise PriorError(f"events of {d} numbers are too large for this start ({_LARGE}): train on crops")
    if guess is None:
        if not (isinstance(law, OperatorSimulator) and isinstance(law.operator, LinearOperator)):
            raise PriorError(
                "nothing tells the scale of the clean events behind these data: give guess=(mean, standard deviation)"
            )
        back = back_projection(law.operator, y[:1024])
        guess = float(back.mean()), float(back.std())
    mean, sd = guess
    if not sd > 0:
        raise ValueError(f"guess must hold a positive standard deviation, got {sd}")
    eye = torch.eye(d, dtype=torch.float64, device=y.device)
    return Gaussian(torch.full((d,), float(mean), dtype=torch.float64, device=y.device), sd**2 * eye)


def build_run(settings: "FlowDiff", problem: Problem, networks: dict[str, Any], g: torch.Generator) -> FlowDiffRun:
    """Networks as given or by default, moved to the measurements' device and type, and the run over them."""
    shape, like = problem.event_shape, problem.y.real
    seed = int(torch.randint(2**31, (1,), generator=g, device=g.device))
    denoiser = networks["denoiser"] if networks["denoiser"] is not None else default_denoiser(shape, seed)
    levels = settings.levels.sigma_min, settings.levels.sigma_max
    prior = LearnedPrior(denoiser.to(like.device, like.dtype), shape, levels, problem.scale, problem.shift)
    target = GaussianTarget(problem.gaussian, shape, levels, problem.scale, problem.shift)
    if networks["matching"] is not None:
        estep: EStep = _matching(networks["matching"], problem, target, g)
    else:
        estep = _flow_step(settings, problem, target, networks["flow"], seed)
    return FlowDiffRun(
        settings, problem.law, problem.y, problem.held_out, problem.gaussian, prior, estep, problem.clean, g
    )


def _flow_step(settings: "FlowDiff", problem: Problem, target: GaussianTarget, flow: Any, seed: int) -> FlowStep:
    return FlowStep(
        make_posterior(problem.law, problem.gaussian, target.prior, problem.y, problem.affine, flow, seed),
        problem.law,
        rate=settings.flow_rate,
        clip=settings.clip,
        ema=settings.ema,
        prior_weight=settings.prior_weight,
        entropy_weight=settings.entropy_weight,
        sticking=settings.sticking_the_landing,
    )


def _matching(matching: AmortizedPPM, problem: Problem, target: GaussianTarget, g: torch.Generator) -> MatchingStep:
    """Amortised matching on the measurements, under a prior that moves."""
    prior = MovingPrior(target.prior)
    draws = target.prior.sample(_MATCHING_DRAWS, generator=g, dtype=problem.y.real.dtype, device=problem.y.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=g, device=g.device)))
        network, auxiliary = matching.networks(prior, problem.law, problem.y, draws, g)
    source = Source(prior, problem.law, problem.y, draws, False)
    return MatchingStep(AmortizedRun(matching, source, network, auxiliary, g))


def finished(settings: "FlowDiff", problem: Problem, run: FlowDiffRun, told: dict[str, Any]) -> FlowDiffResult:
    """Averaged networks, frozen, with provenance and warnings."""
    denoiser = copy.deepcopy(run.prior.denoiser)
    run.learner.average.copy_to(denoiser)
    if not run.joint < settings.steps:
        run.estep.settle()
    chi2 = finite_tail(run.curves.get("chi2", []))
    warnings = [] if problem.report is None else problem.report.warnings()
    warnings += [said for said in [chi2_warning(chi2)] if "chi2" in run.curves and said is not None]
    prior = hand_over(
        run.prior,
        denoiser,
        description="Learned by FlowDiff from corrupted measurements alone",
        training=asdict(settings),
        steps=run.step,
        device=run.y.device.type,
        loss=finite_tail(run.curves.get("denoising", [])),
        seconds=round(run.seconds, 1),
        limits=list(warnings),
    )
    network = copy.deepcopy(run.estep.network).requires_grad_(False)
    attributes = {"solver": "FlowDiff", "settings": told, "preserves_bayes": True, "seconds": run.seconds}
    if isinstance(network, FlowPosterior):
        attributes |= {"flow": dict(getattr(network.flow, "settings", {})), "affine": problem.affine}
    diagnostics: dict[str, Any] = {"warnings": warnings}
    if "chi2" in run.curves:
        diagnostics["chi2"] = chi2
    if problem.report is not None:
        diagnostics["identifiability"] = problem.report.summary()
    smoothing = run.estep.run.smin if isinstance(run.estep, MatchingStep) else 0.0
    made = Reconstructor(
        network, prior, problem.law.range_shape, smoothing, attributes, diagnostics, measured=problem.y.dtype
    )
    return FlowDiffResult(prior, made, problem.law, problem.report, run.curves, warnings)


def hand_over(prior: LearnedPrior, denoiser: Network, **about: Any) -> LearnedPrior | NetworkPrior:
    """The finished denoiser, frozen, as a prior; of images as a `NetworkPrior` whose card says `about`."""
    if not (isinstance(denoiser, EDMPrecond) and isinstance(denoiser.network, UNet)):
        made = LearnedPrior(denoiser, prior.event_shape, prior.sigma_range, float(prior.scale), float(prior.shift))
        return made.requires_grad_(False).eval()
    from sciinstruct import __version__

    card = Card(
        event_shape=prior.event_shape,
        sigma_range=prior.sigma_range,
        scale=float(prior.scale),
        shift=float(prior.shift),
        sigma_data=SIGMA_DATA,
        architecture=asdict(denoiser.network.config),
        version=__version__,
        **about,
    )
    return NetworkPrior(denoiser, card)
