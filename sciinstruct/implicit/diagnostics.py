"""What training says of a sampler: held-out discrepancy, modes that are missing, cost."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError
from sciinstruct.core.ksd import kernel_stein_discrepancy
from sciinstruct.core.random import make_generator
from sciinstruct.implicit.clusters import assign
from sciinstruct.implicit.start import Start
from sciinstruct.implicit.state import TrainingState
from sciinstruct.implicit.whitened import WhitenedTarget

_CHECKED, _CLOSING = 512, 2000
_MISSING = 0.2  # a mode with less than this of the pilot's mass counts as missing


def held_out_draws(network: nn.Module, sigma: float, n: int, seed: int) -> Tensor:
    """Whitened draws from a seed of their own, so that looking does not change training."""
    device = next(network.parameters()).device
    g = make_generator(seed, device)
    with torch.no_grad():
        w = network(network.draw_latent(n, g))  # type: ignore[operator]
        return w + sigma * torch.randn(w.shape, generator=g, dtype=w.dtype, device=w.device)


def held_out_discrepancy(white: WhitenedTarget, network: nn.Module, sigma: float, seed: int) -> float:
    """Squared kernel Stein discrepancy (unbiased) of fresh draws; NaN if hardly any score is finite."""
    w = held_out_draws(network, sigma, _CHECKED, seed)
    scores = white.score(w)
    if int(scores.ok.sum()) < _CHECKED // 2:
        return math.nan
    return kernel_stein_discrepancy(w[scores.ok], scores.value[scores.ok]).squared


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
    values: dict[str, Any] = {
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
        "curves": {k: [v if math.isfinite(v) else None for v in c] for k, c in state.curves.items()},
    }
    return values | {"warnings": _warnings(values, _CLOSING - found)}


def _last(state: TrainingState, name: str) -> float | None:
    """Mean over the last tenth of a curve."""
    curve = [v for v in state.curves.get(name, []) if math.isfinite(v)]
    tail = curve[-max(1, len(curve) // 10) :]
    return sum(tail) / len(tail) if tail else None


def _warnings(values: dict[str, Any], bad: int) -> list[str]:
    found = []
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
