"""Implicit samplers on targets with exact draws: every target of the zoo, three objectives, beside NUTS.

Run ``python -m benchmarks.implicit_zoo --out FOLDER`` from the root of a checkout: about eight minutes of one core.
Writes FOLDER/implicit_zoo.json target by target, and goes on where a run was stopped; prints a table.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinstruct.calibration.chains import chain_numbers
from sciinstruct.calibration.sampler_quality import sampler_quality
from sciinstruct.core import atomic_path
from sciinstruct.implicit import ZOO, Chains, ImplicitSampler, Sampler, Target, make_target, run_nuts, tempered_smc
from sciinstruct.implicit.settle import settle

OBJECTIVES = ("kl", "fisher", "dft")
WIDE = {"mog40": 25.0, "wide_funnel": 15.0}  # start laws that cover what lies far from the origin
ALONE = "kl, Gaussian base, 2500 steps"
DRAWS = 2500  # in a set
SEED = 0


def pilot(target: Target, scale: float) -> tuple[Tensor, float]:
    """Particles that all objectives start from, and the seconds they took."""
    began, g = time.perf_counter(), torch.Generator().manual_seed(SEED)
    x, _ = settle(target, tempered_smc(target, 8192, scale=scale, generator=g).x, g)
    return x, time.perf_counter() - began


def judge(sampler: Sampler, target: Target, chains: Chains | None) -> dict[str, Any]:
    """The row of one sampler."""
    found = sampler_quality(sampler, target, chains=chains, n=DRAWS, generator=SEED).numbers
    distance, modes, stein = found["distances"], found["modes"], found["stein"]
    known = "weights" in modes
    return {
        "sliced_w2_ratio": distance["sliced_w2_ratio"],
        "sliced_w2": distance["sliced_w2"],
        "mmd_ratio": distance["mmd_ratio"],
        "mmd": distance["mmd"],
        "stein_squared": stein.get("squared"),
        "stein_null_95": stein.get("null_95"),
        "stein_p": stein.get("p_value"),
        "modes": len(modes["weights"]) if known else None,
        "worst_mode_error": modes["worst"] if known else None,
        "mode_error_by_chance": modes["standard_error"] if known else None,
        "missing_modes": len(modes["missing"]) if known else None,
        "base": found["training"]["base"],
        "seconds": found["cost"]["training_seconds"],
        "importance": found["importance"]["effective"] if found["importance"]["trusted"] else None,
        "cost": found["cost"],
    }


def study(name: str, steps: int) -> dict[str, Any]:
    """All objectives on one target."""
    target, scale = make_target(name), WIDE.get(name, 5.0)
    start = target.sample(2, torch.Generator().manual_seed(SEED))
    chains = run_nuts(target, chains=2, draws=100, warmup=80, start=start, max_depth=6, generator=SEED)
    health = chain_numbers(chains.x)
    x, seconds = pilot(target, scale)
    still = ImplicitSampler(steps=1, warmup=0, score_steps=1).train(target, generator=SEED, start=x)
    rows: dict[str, Any] = {"untrained": judge(still, target, None)}  # how much of the quality is the pilot's
    for objective in OBJECTIVES:
        settings = ImplicitSampler(objective=objective, steps=steps, score_steps=3)
        rows[objective] = judge(settings.train(target, generator=SEED, start=x), target, chains)
    rhat = health.rhat if math.isfinite(health.rhat) else None
    nuts = {"rhat": rhat, "ess": health.ess, "seconds": chains.seconds, "divergences": chains.divergences}
    return {"dim": target.dim, "steps": steps, "pilot_seconds": seconds, "nuts": nuts, "samplers": rows}


def alone(name: str) -> dict[str, Any]:
    """What the KL does without a base of particles, at the default number of steps."""
    target = make_target(name)
    x, _ = pilot(target, WIDE.get(name, 5.0))
    return judge(ImplicitSampler(base="gaussian").train(target, generator=SEED, start=x), target, None)


def show(name: str, record: dict[str, Any]) -> None:
    """One line per sampler."""
    for label, row in record["samplers"].items():
        modes = "-" if row["modes"] is None else f"{row['worst_mode_error']:.3f} of {row['modes']}"
        speed = row["cost"].get("times_faster")
        print(
            f"| {name} | {label} | {row['sliced_w2_ratio']:.2f} | {row['mmd_ratio']:.2f} | {modes} "
            f"| {row['stein_p']:.3f} | {row['seconds']:.0f} | {'-' if speed is None else f'{speed:.0f}'} |",
            flush=True,
        )


def keep(out: Path, record: dict[str, Any]) -> None:
    """Write what is there so far."""
    with atomic_path(out) as path:
        path.write_text(json.dumps(record, indent=1))


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--names", nargs="+", default=list(ZOO))
    parser.add_argument("--gaussian", action="store_true", help="add KL on a Gaussian base, 2500 steps: plane targets")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out / "implicit_zoo.json"
    record = json.loads(out.read_text()) if out.is_file() else {}
    print("| target | objective | W2 / floor | MMD / floor | worst mode error | Stein p | s | times NUTS |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.names:
        if record.get(name, {}).get("steps") != arguments.steps:
            record[name] = study(name, arguments.steps)
            keep(out, record)
        rows = record[name]["samplers"]
        if arguments.gaussian and record[name]["dim"] == 2 and ALONE not in rows:
            rows[ALONE] = alone(name)
            keep(out, record)
        show(name, record[name])


if __name__ == "__main__":
    main()
