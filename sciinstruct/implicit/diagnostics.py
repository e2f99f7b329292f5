"""What training says of a sampler: held-out discrepancy, modes that are missing, cost."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError
from sciinstruct.core.ksd import kernel_stein_discrepancy
from sciinstruct.core.random import make_generator
from sciinstruct.implicit.clusters import assign
from sciinstruct.implicit.start import Start
from sciinstruct.implicit.state import TrainingState
from sciinstruct.implicit.whitened import WhitenedTarget

_CHECKED, _SPREAD, _CLOSING = 512, 2048, 2000  # draws of the discrepancy, of the spread, and at the end
_MISSING = 0.2  # a mode with less than this of the pilot's mass counts as missing
_ERRORS = 3.0  # standard errors that a spread must be off by, more than the start's, to count


class HeldOut(NamedTuple):
    r"""What fresh draws say of a sampler.

    ``spread`` is :math:`-E[w \cdot s_q(w)] / d`, one for draws of the target whatever it is (Stein's identity): below
    one they are too narrow, above one too wide. In many dimensions the kernel discrepancy hardly sees that.
    """

    ksd: float  # squared kernel Stein discrepancy, unbiased
    ksd_floor: float  # its biased form's average for exact draws
    spread: float
    spread_error: float  # standard

    def worsening(self, start: "HeldOut") -> str:
        """In words how these draws are worse than those of `start`, beyond chance; empty if they are not."""
        error = math.hypot(self.spread_error, start.spread_error)
        if abs(self.spread - 1) > abs(start.spread - 1) + _ERRORS * error:
            width = "narrow" if self.spread < 1 else "wide"
            return f"too {width}: Stein's identity gives {self.spread:.3f} of 1, before training {start.spread:.3f}"
        if self.ksd > start.ksd + self.ksd_floor:
            return f"off in shape: squared Stein discrepancy {self.ksd:.3g}, before training {start.ksd:.3g}"
        return ""


def held_out_draws(network: nn.Module, sigma: float, n: int, seed: int) -> Tensor:
    """Whitened draws from a seed of their own, so that looking does not change training."""
    device = next(network.parameters()).device
    g = make_generator(seed, device)
    with torch.no_grad():
        w = network(network.draw_latent(n, g))  # type: ignore[operator]
        return w + sigma * torch.randn(w.shape, generator=g, dtype=w.dtype, device=w.device)


def held_out_check(white: WhitenedTarget, network: nn.Module, sigma: float, seed: int) -> HeldOut:
    """Discrepancy and spread of fresh draws; NaN if hardly any score is finite."""
    w = held_out_draws(network, sigma, _SPREAD, seed)
    scores = white.score(w)
    if int(scores.ok.sum()) < _SPREAD // 2:
        return HeldOut(math.nan, math.nan, math.nan, math.nan)
    w, s = w[scores.ok], scores.value[scores.ok]
    ksd = kernel_stein_discrepancy(w[:_CHECKED], s[:_CHECKED])
    products = -(w * s).mean(1)
    return HeldOut(ksd.squared, ksd.v_floor**2, float(products.mean()), float(products.std()) / len(w) ** 0.5)


def closing_diagnostics(
    white: WhitenedTarget, network: nn.Module, sigma: float, start: Start, state: TrainingState
) -> dict[str, Any]:
    """Numbers and warnings of a finished run, ready for JSON."""
    w = held_out_draws(network, sigma, _CLOSING, state.step)
    scores = white.score(w)
    found = int(scores.ok.sum())
    if found < _CLOSING // 2:
        raise SolverError(
            f"the score of {white.target.name!r} is finite at {found} of {_CLOSING} draws of the trained sampler: "
            "it has left the support, or log_prob fails there"
        )
    ksd = kernel_stein_discrepancy(w[scores.ok][:_CHECKED], scores.value[scores.ok][:_CHECKED])
    labelled = start.white[: len(start.clusters.labels)]
    masses = assign(w, labelled, start.clusters)
    pilot = start.clusters.masses
    missing = [k for k in range(len(pilot)) if masses[k] < _MISSING * pilot[k]]
    last = held_out_check(white, network, sigma, state.step)
    began = HeldOut(*state.first)
    returned = state.step if state.best is None else state.best["step"]
    values: dict[str, Any] = {
        "returned_step": returned,
        "spread": _finite(last.spread),
        "spread_error": _finite(last.spread_error),
        "spread_before": _finite(began.spread),
        "ksd_squared_before": _finite(began.ksd),
        "ksd_squared": ksd.squared,
        "ksd_v": ksd.v,
        "ksd_v_floor": ksd.v_floor,
        "fisher": _last(state, "fisher"),
        "pilot_masses": pilot.tolist(),
        "sampler_masses": masses.tolist(),
        "missing_modes": missing,
        "base": "particles" if start.seeded else "gaussian",
        "log_normalizer": start.log_normalizer if math.isfinite(start.log_normalizer) else None,
        "steps": state.step,
        "skipped_steps": state.skipped,
        "bad_rows": state.bad_rows,
        "target_evaluations": state.evaluations,
        "seconds": state.seconds,
        "pilot_seconds": start.seconds,
        "curves": {k: [_finite(v) for v in c] for k, c in state.curves.items()},
    }
    return values | {"warnings": _warnings(values, _CLOSING - found, last.worsening(began))}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _last(state: TrainingState, name: str) -> float | None:
    """Mean over the last tenth of a curve."""
    curve = [v for v in state.curves.get(name, []) if math.isfinite(v)]
    tail = curve[-max(1, len(curve) // 10) :]
    return sum(tail) / len(tail) if tail else None


def _warnings(values: dict[str, Any], bad: int, worse: str) -> list[str]:
    found = []
    if values["returned_step"] == 0:
        found.append(
            "no held-out check was as good as the sampler before training, which is what is returned: lower "
            "learning_rate or raise score_steps"
        )
    if worse:
        found.append(
            f"draws are worse than before training, {worse}; the score network may lag behind: lower learning_rate, "
            "raise score_steps, or set patience, which returns no such sampler"
        )
    for k in values["missing_modes"]:
        found.append(
            f"mode {k} is missing: the pilot has {values['pilot_masses'][k]:.0%} of its particles there, the sampler "
            f"{values['sampler_masses'][k]:.1%} of its draws; train with base='particles'"
        )
    if values["skipped_steps"] > 0.01 * max(1, values["steps"]):
        found.append(f"{values['skipped_steps']} of {values['steps']} steps had no finite gradient and were left out")
    if bad:
        found.append(f"the target's score is not finite at {bad} of {_CLOSING} draws")
    return found
