"""The state of a distillation while it trains, and one iteration of it."""

import copy
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sciinstruct.core import Denoiser, SolverError, track
from sciinstruct.diffusion.ema import EMA
from sciinstruct.divergences import Divergence, LogNormal
from sciinstruct.inference.phys_instruct.auxiliary import CallAuxiliary
from sciinstruct.inference.phys_instruct.generator import draw_latents, generate
from sciinstruct.inference.phys_instruct.objective import (
    Denoise,
    level_law,
    matching_divergence,
    matching_pull,
    rms,
    tilted,
)
from sciinstruct.inference.phys_instruct.selection import Examiner, Measured, Selection
from sciinstruct.inference.phys_instruct.student import Student, describe
from sciinstruct.inference.phys_instruct.teacher import copy_of, data_spread, fingerprint
from sciinstruct.inference.phys_instruct.warm_start import Pairs, regression, solve_pairs, warm_start
from sciinstruct.operators.pde.equation import Equation
from sciinstruct.operators.pde.errors import relative_residual

if TYPE_CHECKING:
    from sciinstruct.inference.phys_instruct.settings import PhysInstruct

_MEAN, _STD = -1.2, 1.2  # of log sigma, for images of standard deviation 0.5 (Karras et al. 2022)
_MEMORY = 0.95  # of the running means behind auto_lambda
_FIT = Divergence("ikl")  # whose student_loss every kind shares


class Fields(NamedTuple):
    """Generated fields of all numbers of calls."""

    x: Tensor  # (K n, *event), in the teacher's units
    calls: int  # K: rows k n, ..., (k + 1) n - 1 come from k + 1 calls


class DistillationRun:
    """Generator, auxiliary denoiser, optimisers, average, random state, curves and the states that may be kept.

    Parameters
    ----------
    settings : PhysInstruct
    teacher, equation : Denoiser, Equation
        The problem.
    reference : Tensor or None
        True fields in physical units.
    rng : torch.Generator
        Source of all randomness.
    device : torch.device
    """

    def __init__(
        self,
        settings: "PhysInstruct",
        teacher: Denoiser,
        equation: Equation,
        reference: Tensor | None,
        rng: torch.Generator,
        device: torch.device,
    ) -> None:
        self.settings, self.rng, self.device, self.step = settings, rng, device, 0
        self.begun, self.pairs = False, Pairs(torch.empty(0), torch.empty(0))
        self.equation = copy.deepcopy(equation).to(device)
        self.teacher = copy_of(teacher, device, settings.precision, trainable=False)
        law = copy_of(teacher, device, settings.precision, trainable=True)
        self.auxiliary = CallAuxiliary(law, len(settings.levels))
        self.network = copy_of(teacher, device, "float32", trainable=True)
        self.spread = data_spread(teacher)
        self.levels = tuple(s * self.spread / 0.5 for s in settings.levels)
        self.divergence = matching_divergence(settings.divergence, settings.weighting)
        self.law = level_law(settings.divergence, LogNormal(_MEAN + math.log(self.spread / 0.5), _STD))
        self.optimiser = _adam(self.network)
        self.fitter = _adam(self.auxiliary)
        self.average = EMA(self.network, settings.ema)
        self.sizes = {"matching": 0.0, "residual": 0.0}
        self.curves: dict[str, list[float]] = {}
        self.selection = Selection(settings.select_k or len(self.levels))
        seed = int(torch.randint(2**31, (1,), generator=rng, device=rng.device))
        self.examiner = None
        if reference is not None:
            self.examiner = Examiner(
                self.teacher, self.equation, reference.to(device), self.levels, settings.eval_samples, seed
            )

    def begin(self, progress: bool = False, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Warm the generator up, once, before the first iteration."""
        settings = self.settings
        if settings.pairs and not self.begun:
            self.pairs = solve_pairs(self.teacher, settings.pairs, self.rng, progress=progress, interrupted=interrupted)
            warm_start(
                self.network,
                self.pairs,
                self.levels,
                settings.batch,
                self.spread,
                self.rng,
                progress=progress,
                interrupted=interrupted,
            )
            self.average = EMA(self.network, settings.ema)
        self.begun = True

    def advance(self) -> dict[str, float]:
        """Let the auxiliary follow the generator, move the generator, and measure if it is time: one iteration."""
        fit = 0.0
        for _ in range(self.settings.n_aux):
            fit = self._fit_auxiliary()
        info = self._move_generator() | {"auxiliary_loss": fit}
        for name, value in info.items():
            self.curves.setdefault(name, []).append(value)
        self.step += 1
        last = self.step == self.settings.iterations
        if self.examiner is not None and (last or self.step % self.settings.eval_every == 0):
            found = self.examiner.measure(self._averaged(), self.step)
            self.selection.add(found, self._keepable())
            info |= {
                f"{name}_{k + 1}": values[k]
                for name, values in found._asdict().items()
                if name != "step"
                for k in range(len(values))
            }
        return info

    def _generate(self, network: Denoiser) -> Fields:
        """A batch in equal parts after 1, ..., K calls of the same latents: every call serves as somebody's last."""
        k = len(self.levels)
        latents = draw_latents(self.settings.batch // k, k, self.teacher.event_shape, self.rng, self.device)
        made = generate(network.denoise, k, *latents, self.levels, last_call_only=True)
        return Fields(torch.cat(made.prefixes), k)

    def _fit_auxiliary(self) -> float:
        loss = self._law_loss(self.network, self.auxiliary)
        self.fitter.zero_grad()
        loss.backward()
        self._descend(self.fitter, self.settings.auxiliary_rate)
        return float(loss.detach())

    def _law_loss(self, network: Denoiser, auxiliary: CallAuxiliary) -> Tensor:
        """Denoising loss of `auxiliary` on fields of `network`."""
        with torch.no_grad():
            x = self._generate(network).x
        self._check("generated field", x)
        low, high = self.teacher.sigma_range
        loss = _FIT.student_loss(
            x, auxiliary.denoise, low, high, sigma_data=self.spread, generator=self.rng, levels=self.law
        )
        self._check("auxiliary", loss)
        return loss

    def _settle(self, network: Denoiser, law: CallAuxiliary, progress: bool) -> None:
        """Fit the law to the generator that is kept, by falling steps: in the run it chased a moving one."""
        steps = self.settings.law_steps
        law.requires_grad_(True)
        fitter = _adam(law)
        for step in track(range(steps), progress=progress, description="the student's law"):
            for group in fitter.param_groups:
                group["lr"] = self.settings.auxiliary_rate * 0.25 * (1 + math.cos(math.pi * step / steps))
            loss = self._law_loss(network, law)
            fitter.zero_grad()
            loss.backward()
            fitter.step()
        law.requires_grad_(False)

    def _move_generator(self) -> dict[str, float]:
        """Both pulls as gradients in the fields, then one pass back through the network."""
        share = self.settings.weight_at(self.step)
        fields = self._generate(self.network)
        low, high = self.teacher.sigma_range
        self.auxiliary.requires_grad_(False)
        target = self._target(share)
        pull = matching_pull(self.divergence, fields.x, target, self.auxiliary.denoise, self.law, low, high, self.rng)
        self.auxiliary.requires_grad_(True)
        self._check("matching", pull.slope)
        penalise = share > 0 and not self.settings.diffused_residual
        residual, slope = self._residual(fields, penalise)
        lam = self._weight(share, pull.slope, slope)
        self.optimiser.zero_grad()
        fields.x.backward(pull.slope if slope is None else pull.slope + lam * slope)
        anchor = self._anchor()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self._check("gradient", norm)
        self._descend(self.optimiser, self.settings.learning_rate)
        self.average.update(self.network)
        gap = pull.terms.delta.square().mean().sqrt()
        info = {
            "score_gap": float(gap),
            "residual": residual,
            "lambda": lam,
            "gradient_norm": float(norm),
            "anchor": anchor,
        }
        return info | {"residual_share": 0.0 if slope is None else lam * rms(slope) / max(rms(pull.slope), 1e-30)}

    def _anchor(self) -> float:
        """Error on the teacher's own answers; its gradient is added to the network's."""
        settings = self.settings
        if not (settings.pairs and settings.anchor):
            return 0.0
        rows = max(1, settings.batch // 2)
        loss = regression(self.network, self.pairs, self.levels, rows, self.spread, self.rng)
        (settings.anchor * loss).backward()
        return float(loss.detach())

    def _descend(self, optimiser: torch.optim.Optimizer, rate: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate * self.settings.rate_at(self.step)
        optimiser.step()

    def _residual(self, fields: Fields, penalise: bool) -> tuple[float, Tensor | None]:
        """Relative residual, a mean over the numbers of calls, and its gradient in the fields if they are penalised."""
        leaf = fields.x.detach().requires_grad_(penalise)
        with torch.set_grad_enabled(penalise):
            value = torch.stack([self._relative(part) for part in leaf.chunk(fields.calls)]).mean()
        self._check("residual", value)
        slope = torch.autograd.grad(value, leaf)[0] if penalise else None
        if slope is not None:
            self._check("residual's gradient", slope)
        return float(value.detach()), slope

    def _relative(self, x: Tensor) -> Tensor:
        physical = self.equation.impose_boundary(self.teacher.to_physical(x))
        return relative_residual(self.equation, physical, self.settings.scale_mode)

    def _target(self, share: float) -> Denoise:
        """The teacher, tilted by the residual if that is asked for."""
        if share == 0 or not self.settings.diffused_residual:
            return self.teacher.denoise
        return tilted(self.teacher.denoise, lambda x: self._relative(x) * x.numel(), share * self.settings.lam)

    def _weight(self, share: float, matching: Tensor, residual: Tensor | None) -> float:
        """Weight of the residual now."""
        rho = self.settings.auto_lambda
        if rho is None or residual is None:
            return share * self.settings.lam
        for name, slope in (("matching", matching), ("residual", residual)):
            before = self.sizes[name]
            self.sizes[name] = rms(slope) if before == 0 else _MEMORY * before + (1 - _MEMORY) * rms(slope)
        return share * rho * self.sizes["matching"] / max(self.sizes["residual"], 1e-30)

    def _check(self, name: str, value: Tensor) -> None:
        if not torch.isfinite(value).all():
            raise SolverError(
                f"the {name} term became NaN or infinite at step {self.step}; lower the learning rates or lam, or "
                "check that teacher and equation are in the units they claim"
            )

    def _averaged(self) -> Denoise:
        """The generator with averaged weights."""
        made = copy_of(self.network, self.device, "float32", trainable=False)
        self.average.copy_to(made)
        return made.denoise

    def _keepable(self) -> dict[str, Any]:
        """Averaged generator and auxiliary as they are now."""
        return {
            "average": {k: v.clone() for k, v in self.average.average.items()},
            "auxiliary": {k: v.detach().clone() for k, v in self.auxiliary.state_dict().items()},
            "lambda": self.curves["lambda"][-1],
        }

    def student(self, began: float, progress: bool = False) -> Student:
        """The best state of the run as a student, its law fitted to it; the last state where nothing was measured.

        `began` is the reading of `time.perf_counter` at the start.
        """
        best = self.selection.best()
        measured, state = best if best is not None else (None, self._keepable())
        self.average.average = {k: v.clone() for k, v in state["average"].items()}
        network = copy_of(self.network, self.device, "float32", trainable=False)
        self.average.copy_to(network)
        law = copy_of(self.auxiliary, self.device, "auto", trainable=False)
        law.load_state_dict(state["auxiliary"])
        self._settle(network, law, progress)
        card = self._card(measured, state["lambda"], time.perf_counter() - began)
        return Student(network, law, self.equation, self.levels, card, self.curves, tuple(self.selection.history))

    def _card(self, measured: Measured | None, lam: float, seconds: float) -> dict[str, Any]:
        from sciinstruct import __version__

        examiner = self.examiner
        return {
            "kind": "student",
            "settings": self.settings.card(),
            "lambda": lam,
            "iterations": self.step,
            "selected": None if measured is None else measured._asdict(),
            "passed_selection": measured is not None,
            "data_floor": None if examiner is None else examiner.data_floor,
            "swd_floor": None if examiner is None else examiner.swd_floor,
            "seconds": round(seconds, 1),
            "device": str(self.device),
            "version": __version__,
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": self.settings.card(),
            "equation": describe(self.equation),
            "teacher": fingerprint(self.teacher),
        }

    def dump(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors, numbers and words."""
        return {
            "identity": self._identity(),
            "network": self.network.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "fitter": self.fitter.state_dict(),
            "average": self.average.state_dict(),
            "rng": self.rng.get_state(),
            "step": self.step,
            "begun": self.begun,
            "pairs": tuple(self.pairs),
            "sizes": self.sizes,
            "curves": self.curves,
            "seed": None if self.examiner is None else self.examiner.seed,
            "history": [tuple(m) for m in self.selection.history],
            "kept": self.selection.kept,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`; raises SolverError if it belongs to other settings, another teacher or equation."""
        before, now = saved.get("identity", {}), self._identity()
        wrong = [name for name in now if before.get(name) != now[name]]
        if wrong:
            raise SolverError(
                f"the checkpoint has another {' and '.join(wrong)}; use those, or delete it to start afresh"
            )
        try:
            for name in ("network", "auxiliary", "optimiser", "fitter", "average"):
                getattr(self, name).load_state_dict(saved[name])
            self.rng.set_state(saved["rng"])
            self.step, self.sizes, self.curves = saved["step"], saved["sizes"], saved["curves"]
            self.begun, self.pairs = saved["begun"], Pairs(*saved["pairs"])
            if self.examiner is not None and saved["seed"] is not None:
                self.examiner.seed = saved["seed"]
            self.selection.history = [Measured(*row) for row in saved["history"]]
            self.selection.kept = saved["kept"]
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise SolverError("the checkpoint is of another network; delete it to start afresh") from error


def _adam(network: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=0.0, betas=(0.0, 0.999), eps=1e-8, fused=parameters[0].device.type == "cpu")
