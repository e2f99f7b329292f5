"""Implicit samplers on posteriors and an energy: logistic regression, the ring of M87, images of digits.

Run ``python -m benchmarks.implicit_science --out FOLDER`` from the root of a checkout: about ten minutes of one core.
Writes FOLDER/implicit_science.json part by part. The ring needs the files of ``SCIINSTRUCT_DATA``, see docs/data.md.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.calibration.mmd import mean_discrepancy, median_distance
from sciinstruct.calibration.sampler_quality import SamplerQuality, sampler_quality
from sciinstruct.core import atomic_path
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.implicit import (
    Chains,
    ImplicitSampler,
    LogisticRegression,
    RingTarget,
    Target,
    refine,
    run_nuts,
    tempered_smc,
)
from sciinstruct.implicit.energy_models import EnergyModel, EnergyTraining, langevin
from sciinstruct.implicit.pilot import covariance_root
from sciinstruct.implicit.targets.logistic import LabelledSplit, breast_cancer
from sciinstruct.operators.interferometry import Observation

SEED = 0
SEEN = ("returned_step", "spread", "spread_error", "spread_before", "ksd_squared", "ksd_squared_before", "warnings")
DAY = "eht/SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits"


def summary(found: SamplerQuality) -> dict[str, Any]:
    """What the page quotes of a report."""
    rows = found.numbers["marginals"]
    kept = {k: found.numbers[k] for k in ("stein", "distances", "modes", "chains", "cost", "importance")}
    if "gold_mean" in rows[0]:
        kept["worst_mean_error"] = max(abs(row["mean_error"]) for row in rows)
        kept["mean_error_by_chance"] = rows[0]["mean_error_by_chance"]
        kept["sd_ratios"] = [min(row["sd_ratio"] for row in rows), max(row["sd_ratio"] for row in rows)]
        kept["sd_ratio_by_chance"] = max(row["sd_ratio_by_chance"] for row in rows)
        kept["marginals"] = rows
    return kept | {"verdicts": {v.check: v.status for v in found.verdicts}}


def logistic() -> dict[str, Any]:
    """Breast cancer data: three objectives against NUTS, held-out log probability included."""
    data = breast_cancer()
    target = LogisticRegression(data.features, data.labels)
    chains = run_nuts(target, chains=2, warmup=300, draws=700, generator=SEED)
    held_out = (data.held_out_features, data.held_out_labels)
    x = chains.x.flatten(0, 1)
    gold = target.log_predictive(x, *held_out)
    record: dict[str, Any] = {"nuts_log_predictive": gold, "nuts_accuracy": accuracy(x, data)}
    # NUTS's own error would hide what is asked: thousands of independent chains from the pilot are the finer reference
    pilot = tempered_smc(target, 4096, scale=1.0, generator=SEED)
    fine = refine(target, pilot.x, covariance_root(pilot.x), steps=150, generator=1).double()
    record["reference_against_nuts"] = {
        "worst_mean_error": float(((fine.mean(0) - x.mean(0)) / x.std(0)).abs().max()),
        "sd_ratios": [float(v) for v in (fine.std(0) / x.std(0)).aminmax()],
    }
    for objective in ("kl", "fisher", "dft"):
        settings = ImplicitSampler(objective=objective, steps=1000, score_steps=3)
        sampler = settings.train(target, generator=SEED, start=pilot.x)
        found = summary(sampler_quality(sampler, target, gold=fine, chains=chains, generator=SEED))
        draws = sampler.sample(20_000, 1).double()
        found["sd_ratios_to_nuts"] = [float(v) for v in (draws.std(0) / x.std(0)).aminmax()]
        found["log_predictive"] = target.log_predictive(draws[:4000], *held_out)
        found["log_predictive_off"] = abs(found["log_predictive"] / gold - 1)
        record[objective] = found
    return record


def accuracy(x: Tensor, data: LabelledSplit) -> float:
    """Share of held-out labels that the average prediction gets right."""
    features = data.held_out_features
    logits = features @ x[:, :-1].T + x[:, -1]
    return float(((logits.sigmoid().mean(1) > 0.5) == (data.held_out_labels > 0.5)).double().mean())


def ring(data: Path, phases: bool) -> dict[str, Any]:
    """M87 on 11 April 2017: amplitudes alone, whose two modes mirror each other, or with closure phases."""
    target = RingTarget(Observation.from_uvfits(data / DAY), closure_phases=phases)
    settings = ImplicitSampler(steps=600, score_steps=3, particles=2048, start_scale=1.0)
    sampler = settings.train(target, generator=SEED)
    begin = sampler.sample(2, 3).double()
    if not phases:  # all chains in one mode; its mirror image is the other, of exactly equal weight
        begin = torch.where(begin[:, 4:5] > 0, begin, target.mirrored(begin))
    chains = run_nuts(target, chains=2, warmup=200, draws=600, start=begin, generator=SEED)
    gold = None if phases else both_modes(target, chains)
    found = summary(sampler_quality(sampler, target, chains=chains, gold=gold, generator=SEED))
    found["chi2"] = {k: float(v.mean()) for k, v in target.chi2(target.constrain(sampler.sample(2000, 1))).items()}
    north = target.constrain(sampler.sample(20_000, 2))[:, 4]
    return found | {"share_north": float((north > 0).double().mean())}


def both_modes(target: RingTarget, chains: Chains) -> Tensor:
    """Draws of one mode and their mirror images, thinned to what the chains are worth."""
    from sciinstruct.calibration.chains import independent_draws

    one = independent_draws(chains.x[None])[0][0]
    return torch.cat([one[::2], target.mirrored(one[1::2])])


class Features(nn.Module):
    """The hidden layer of a small classifier of digits: distances in it see what an eye sees."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.last = nn.Linear(32, 10)

    def learn(self, x: Tensor, y: Tensor, noise: float, generator: torch.Generator) -> "Features":
        """Fit to noisy digits."""
        optimiser = torch.optim.Adam(self.parameters(), lr=2e-3)
        for _ in range(800):
            index = torch.randint(len(x), (128,), generator=generator)
            noisy = x[index] + noise * torch.randn(128, 64, generator=generator)
            loss = nn.functional.cross_entropy(self.last(self.hidden(noisy)), y[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return self.requires_grad_(False)


def digits() -> dict[str, Any]:
    """An energy of 8x8 digits: one pass against Langevin chains from noise, by a classifier's features."""
    from sklearn.datasets import load_digits

    found, g = load_digits(), torch.Generator().manual_seed(SEED)
    x, y = torch.as_tensor(found.images).float() / 8 - 1, torch.as_tensor(found.target)
    began = time.perf_counter()
    training = EnergyTraining(
        steps=1000, tau=0.3, noise=0.15, learning_rate=1e-3, width=256, batch=128, proposals=16, hold=2.0
    )
    model = training.train(x[:, None], generator=SEED, name="digits")
    spent, unit = time.perf_counter() - began, model.scale**2
    torch.manual_seed(SEED)
    features = Features().learn(x.flatten(1), y, 0.15 * model.scale, g)
    # chains that begin at data, so that no kind of digit is missing: of one half for the sampler, of the other as gold
    order, half = torch.randperm(len(x), generator=g), len(x) // 2
    start = from_data(model, x[order[:half]].flatten(1), 2000, 100, g)
    gold = from_data(model, x[order[half:]].flatten(1), 4000, 300, g)
    # a tenth of the score network's rate: in 64 dimensions that network lags behind a faster generator
    settings = ImplicitSampler(steps=800, score_steps=3, width=256, learning_rate=1e-4, base="particles")
    sampler = settings.train(model, generator=SEED, start=start)
    hasty = replace(settings, learning_rate=5e-4, patience=5).train(model, generator=SEED, start=start)
    ways: dict[str, Callable[[], Tensor]] = {"one pass": lambda: sampler.sample(2000, 1)}
    ways["five times the rate, stopped early"] = lambda: hasty.sample(2000, 1)
    noise, step = model.base_draws(2000, g), 0.01 * unit
    ways["Langevin, 200 steps"] = lambda: langevin(model, noise, steps=200, step=step, generator=g)
    ways["gold"] = lambda: gold[2000:]
    ways["the sampler's start"] = lambda: start
    rows = {k: judge_images(features.hidden, draw, gold[:2000], model) for k, draw in ways.items()}
    seen = {k: {name: s.diagnostics[name] for name in SEEN} for k, s in (("sampler", sampler), ("hasty", hasty))}
    return {"energy_seconds": spent, "sampler_seconds": sampler.diagnostics["seconds"], "rows": rows} | seen


def from_data(model: EnergyModel, x: Tensor, n: int, steps: int, g: torch.Generator) -> Tensor:
    """Ends (n, 64) of exact chains that begin at noisy data."""
    noisy = x[torch.randint(len(x), (n,), generator=g)] + 0.15 * model.scale * torch.randn(n, 64, generator=g)
    return refine(model, noisy, model.scale * torch.eye(64), steps=steps, generator=g)


def judge_images(features: nn.Module, draw: Callable[[], Tensor], gold: Tensor, model: Target) -> dict[str, float]:
    """Distances in features and pixels to chains that began at data, and time per image."""
    began = time.perf_counter()
    x = draw()
    spent = time.perf_counter() - began
    a, b = features(x), features(gold)
    return {
        "feature_sliced_w2": float(sliced_w2(a, b, generator=torch.Generator().manual_seed(SEED))),
        "feature_mmd": mean_discrepancy(a, b, median_distance(b)).v,
        "pixel_sliced_w2": float(sliced_w2(x, gold, generator=torch.Generator().manual_seed(SEED))),
        "mean_energy": float(-model.log_prob(x).mean()),
        "microseconds": 1e6 * spent / len(x),
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "logistic": lambda data: logistic(),
    "ring": lambda data: ring(data, False),
    "ring-phases": lambda data: ring(data, True),
    "digits": lambda data: digits(),
}


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SCIINSTRUCT_DATA", "../shared/data")))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out / "implicit_science.json"
    record = json.loads(out.read_text()) if out.is_file() else {}
    for name in arguments.parts:
        record[name] = PARTS[name](arguments.data)
        with atomic_path(out) as path:
            path.write_text(json.dumps(record, indent=1))
        print(name, json.dumps(record[name])[:2000], flush=True)


if __name__ == "__main__":
    main()
