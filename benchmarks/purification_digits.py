"""Purifiers of digits under the worst of all attacks, and the rate of randomness at equal contraction.

``python -m benchmarks.purification_digits`` attacks the 500 test images in blocks of 40, every model on one block
before the next, and keeps each result in docs/benchmarks/purification_digits.json: a run that was stopped goes on, and
more blocks make the errors smaller. About six CPU seconds per image for all models together. The last lines printed are
the table of docs/benchmarks.md; with ``--table`` nothing else is done.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import purification_setup as setup
from benchmarks.purification_table import LONG, print_tables
from sciinstruct.core import atomic_path
from sciinstruct.diffusion import LinearVP
from sciinstruct.purification import DiffPure, Identity, Protocol, PurifiedModel, PurifyPP, describe, evaluate
from sciinstruct.purification.attacks import PGD
from sciinstruct.purification.evaluation import binomial_error

JSON = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "purification_digits.json"
NETWORKS = Path(tempfile.gettempdir()) / "purification_digits.pt"
BLOCK, ALL = 40, 500
QUERIES = 200
RATES = (0.0, 0.5, 1.0, 2.0)
LEVELS = 16  # noise levels of the rate study, 17 calls; 9 for Heun's method at rate 0, as many calls
FEW = 100  # images of the rate study


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=ALL, help="test images attacked, a multiple of 40 or all 500")
    parser.add_argument("--json", type=Path, default=JSON)
    parser.add_argument("--networks", type=Path, default=NETWORKS, help="where trained networks are kept")
    parser.add_argument("--table", action="store_true", help="print the tables of what there is")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(given.json.read_text()) if given.json.is_file() else {}
    if not given.table:
        for name, row in missing(results, given.count, given.networks):
            results[name] = row
            with atomic_path(given.json) as temporary:
                temporary.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    print_tables(results)


def missing(results: dict[str, Any], count: int, networks: Path) -> Iterator[tuple[str, Any]]:
    """Name and numbers of every run that `results` lacks."""
    digits = setup.load_digits()
    made = setup.make_networks(digits, networks)
    for name, run in runs(digits, made, count):
        if name not in results:
            begun = time.process_time()
            row = run()
            print(f"{name}: {time.process_time() - begun:.0f} CPU s", flush=True)
            yield name, row


def runs(digits: setup.Digits, made: setup.Networks, count: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The first block of every model, speed, the long sampler, the rates, then the other blocks."""
    bare = Identity(data_range=setup.RANGE)
    models = {"hardened": PurifiedModel(bare, made.hardened), "no purifier": PurifiedModel(bare, made.classifier)}
    models |= {n: PurifiedModel(p, made.classifier) for n, p in setup.make_purifiers(made.prior).items()}
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, ALL))
        for name, model in models.items():
            yield f"{name} {start}", lambda model=model, rows=rows: attack(model, digits, rows)
        if start == 0:
            yield "speed", lambda: speed(made, digits)
            yield LONG, lambda: attack(PurifiedModel(long_purifier(made), made.classifier), digits, slice(0, BLOCK))
            for rate in RATES:
                yield f"rate {rate:g}", lambda rate=rate: rate_row(made, digits, rate)


def attack(model: PurifiedModel, digits: setup.Digits, rows: slice) -> dict[str, Any]:
    """The full protocol on a block of images."""
    image, labels = digits.test_image[rows], digits.test_labels[rows]
    protocol = Protocol.standard(setup.BUDGET, queries=QUERIES)
    found = evaluate(model, image, labels, protocol, validation=digits.image, generator=rows.start)
    single = (found.right.sel(count="single") * protocol.repeats).round().astype(int)
    counts = found.right.where(found.counted, drop=True).min("attack")
    return {
        "purifier": describe(model.purifier),
        "draws": protocol.repeats,
        "right": {str(name): single.sel(attack=name).values.tolist() for name in single.attack.values},
        "counted": [str(name) for name in found.attack.values[found.counted.values]],
        "vote": counts.sel(count="vote").values.astype(int).tolist(),
        "all": counts.sel(count="worst").values.astype(int).tolist(),
        "rescored": float(found.rescored.sel(count="single")),
        "beyond": float(found.beyond),
        "seconds": float(found.seconds),
        "calls": [int(found.calls_forward), int(found.calls_backward)],
        "faults": found.attrs["faults"],
        "notes": found.attrs["notes"],
    }


def long_purifier(made: setup.Networks) -> DiffPure:
    """DiffPure with the published steps of 1/1000 of the VP time."""
    share = float(LinearVP().time(torch.tensor(0.5, dtype=torch.float64)))  # sigma of the images on [-1, 1]
    return DiffPure(made.prior, setup.SIGMA, data_range=setup.RANGE, steps=round(1000 * share))


def speed(made: setup.Networks, digits: setup.Digits) -> dict[str, float]:
    """Milliseconds of processor time per image, 500 at once, the median of five; without the classifier."""
    purifiers = setup.make_purifiers(made.prior) | {"DiffPure-style, 145 steps": long_purifier(made)}
    taken: dict[str, list[float]] = {name: [] for name in purifiers}
    for seed in range(6):
        for name, purifier in purifiers.items():
            begun = time.process_time()
            purifier.purify(digits.test_image, generator=seed)
            taken[name].append(1e3 * (time.process_time() - begun) / ALL)
    return {name: sorted(values[1:])[2] for name, values in taken.items()}  # the first warms up


def rate_row(made: setup.Networks, digits: setup.Digits, rate: float) -> dict[str, Any]:
    """Purify++-style at a rate, with sigma for the b^(1 + rate) of rate 0 at the reference sigma."""
    variance = 0.25  # of the prior's images
    contraction = variance / (variance + setup.SIGMA**2)
    sigma = (variance * (contraction ** (-1 / (1 + rate)) - 1)) ** 0.5
    levels = LEVELS if rate else LEVELS // 2 + 1
    purifier = PurifyPP(made.prior, sigma, steps=levels, rate=rate, data_range=setup.RANGE)
    model = PurifiedModel(purifier, made.classifier)
    image, labels = digits.test_image[:FEW], digits.test_labels[:FEW]
    clean = model.predict(digits.test_image, 4, generator=6).outcome(digits.test_labels).single.mean()
    row: dict[str, Any] = {"sigma": sigma, "calls": list(purifier.calls), "clean": float(clean)}
    attacks = {"exact": PGD(setup.BUDGET), "surrogate": PGD(setup.BUDGET, "surrogate")}
    attacks["bpda"] = replace(attacks["exact"], gradient="bpda")
    right = []
    for name, one in attacks.items():
        found = one.attack(model, image, labels, generator=7).image
        right.append(model.predict(found, 20, generator=8).outcome(labels).single)
        row[name] = float(right[-1].mean())
    worst = torch.stack(right).amin(0).mean()
    return row | {"worst": float(worst), "error": float(binomial_error(worst, FEW)), "images": FEW}


if __name__ == "__main__":
    main()
