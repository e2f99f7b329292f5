"""Purifiers of digits under the worst of all attacks, and the rate of randomness at equal contraction.

``python -m benchmarks.purification_digits --count 200`` writes docs/benchmarks/purification_digits.json as it goes, and
the report beside it with ``--out FOLDER``. What is in the json is not run again.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import purification_setup as setup
from sciinstruct.calibration import write_robustness
from sciinstruct.calibration.robustness import robustness_content
from sciinstruct.core import atomic_path
from sciinstruct.diffusion import LinearVP
from sciinstruct.purification import DiffPure, Identity, Protocol, PurifiedModel, PurifyPP, evaluate
from sciinstruct.purification.attacks import PGD
from sciinstruct.purification.evaluation import binomial_error

JSON = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "purification_digits.json"
RATES = (0.0, 0.5, 1.0, 2.0)
LEVELS = 16  # noise levels of the rate study, 17 calls; 9 for Heun's method at rate 0, as many calls
FEW = 100  # images of the rate study, and of the check of the long sampler
DIRECT = 24  # images on which the long sampler is differentiated itself


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="test images attacked")
    parser.add_argument("--json", type=Path, default=JSON)
    parser.add_argument("--out", type=Path, help="folder for the report")
    parser.add_argument("--quick", action="store_true", help="a minute: few steps, few images, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    digits = setup.load_digits()
    steps = 200 if given.quick else 5000
    start = time.perf_counter()
    prior, classifier = setup.make_prior(digits, steps), setup.make_classifier(digits)
    hardened = setup.make_classifier(digits, setup.BUDGET, 60 if given.quick else 1500)
    count = 8 if given.quick else given.count
    results = json.loads(given.json.read_text()) if given.json.is_file() else {}
    results.setdefault(
        "setting", {"images": count, "budget": "linf 0.15", "training_seconds": time.perf_counter() - start}
    )

    def keep(name: str, make: Callable[[], Any]) -> None:
        if name in results:
            return
        begun = time.perf_counter()
        results[name] = make()
        with atomic_path(given.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)

    models = {"hardened": PurifiedModel(Identity(data_range=setup.RANGE), hardened)}
    models |= {n: PurifiedModel(p, classifier) for n, p in setup.make_purifiers(prior).items()}
    models["no purifier"] = PurifiedModel(Identity(data_range=setup.RANGE), classifier)
    protocol = Protocol.standard(setup.BUDGET, queries=10 if given.quick else 300)
    found = {}
    for name, model in models.items():

        def attack(name: str = name, model: PurifiedModel = model) -> dict[str, Any]:
            image, labels = digits.test_image[:count], digits.test_labels[:count]
            found[name] = evaluate(model, image, labels, protocol, validation=digits.image, generator=1)
            (row,) = robustness_content({name: found[name]}, name)["models"]
            if name == "DiffPure-style":
                worst = torch.from_numpy(found[name].worst_image.values)
                row["published steps"] = long_sampler(prior, classifier, digits, worst, given.quick)
            return row | {"notes": found[name].attrs["notes"], "faults": found[name].attrs["faults"]}

        keep(name, attack)
    few = 8 if given.quick else FEW
    for rate in RATES:
        keep(f"rate {rate:g}", lambda rate=rate: rate_row(prior, classifier, digits, rate, few))
    if given.out is not None and found:
        write_robustness(
            found, given.out, name="Digits, linf 0.15", trained="hardened" if "hardened" in found else None
        )


def long_sampler(
    prior: Any, classifier: torch.nn.Module, digits: setup.Digits, worst: torch.Tensor, quick: bool
) -> dict[str, Any]:
    """DiffPure with steps of 1/1000 of the VP time: on the worst images of its 20-step version, and attacked itself."""
    share = float(LinearVP().time(torch.tensor(0.5, dtype=torch.float64)))  # of the published [-1, 1] images
    purifier = DiffPure(prior, setup.SIGMA, data_range=setup.RANGE, steps=round(1000 * share))
    model, labels = PurifiedModel(purifier, classifier), digits.test_labels[: len(worst)]
    begun = time.perf_counter()
    single = float(model.predict(worst, 20, generator=2).outcome(labels).single.mean())
    seconds = (time.perf_counter() - begun) / (20 * len(worst))
    clean = float(model.predict(digits.test_image[: len(worst)], 4, generator=3).outcome(labels).single.mean())
    some = 2 if quick else DIRECT
    attack = PGD(setup.BUDGET, steps=2 if quick else 30, draws=2 if quick else 10)
    image = attack.attack(model, digits.test_image[:some], labels[:some], generator=4).image
    direct = model.predict(image, 20, generator=5).outcome(labels[:some]).single.mean()
    return {
        "steps": purifier.steps,
        "calls": purifier.calls.forward,
        "clean": clean,
        "on the worst images of 20 steps": single,
        "error": float(binomial_error(torch.tensor(single), len(worst))),
        "seconds": seconds,
        "attacked itself": {"images": some, "single": float(direct), "error": float(binomial_error(direct, some))},
    }


def rate_row(prior: Any, classifier: torch.nn.Module, digits: setup.Digits, rate: float, count: int) -> dict[str, Any]:
    """Purify++-style at a rate, with sigma for the b^(1 + rate) of rate 0 at the reference sigma."""
    variance = 0.25  # of the prior's images
    contraction = variance / (variance + setup.SIGMA**2)
    sigma = (variance * (contraction ** (-1 / (1 + rate)) - 1)) ** 0.5
    levels = LEVELS if rate else LEVELS // 2 + 1
    purifier = PurifyPP(prior, sigma, steps=levels, rate=rate, data_range=setup.RANGE)
    model = PurifiedModel(purifier, classifier)
    image, labels = digits.test_image[:count], digits.test_labels[:count]
    clean = model.predict(digits.test_image, 4, generator=6).outcome(digits.test_labels).single.mean()
    row: dict[str, Any] = {"sigma": sigma, "calls": purifier.calls.forward, "clean": float(clean)}
    attacks = {"exact": PGD(setup.BUDGET), "surrogate": PGD(setup.BUDGET, "surrogate")}
    attacks["bpda"] = replace(attacks["exact"], gradient="bpda")
    right = []
    for name, attack in attacks.items():
        found = attack.attack(model, image, labels, generator=7).image
        right.append(model.predict(found, 20, generator=8).outcome(labels).single)
        row[name] = float(right[-1].mean())
    worst = torch.stack(right).amin(0).mean()
    return row | {"worst": float(worst), "error": float(binomial_error(worst, count)), "images": count}


if __name__ == "__main__":
    main()
