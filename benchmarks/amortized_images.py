"""Amortised posterior matching of images against exact posteriors, with what it starts from and with PPM run afresh.

Run ``python -m benchmarks.amortized_images --out FOLDER`` from the root of a checkout. For every problem and number of
heads it trains one reconstructor (seeds 0), keeps it in FOLDER, and meets measurements of other seeds. An interrupted
run goes on where it was. Results go to FOLDER/amortized_images.json and, as tables, to the screen.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench_measures import NOMINAL, floor, measure
from benchmarks.exact_posteriors import FIELD_PPM
from sciinstruct.core import Likelihood, atomic_path
from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.reconstructor import Reconstructor
from sciinstruct.priors.problems import ExactProblem, make_problem

NAMES = ("16x16 mask", "16x16 blur", "32x32 mask", "32x32 blur")
HEADS = (1, 4)
FIRST_SEED, SAMPLES = 100, 500
IMAGES = 64  # that the generator makes in a step, whatever the number of heads
LEVELS = {"sigma_min": 0.01, "sigma_max": 30.0}  # a tenth of the smallest posterior standard deviation, and up


def settings(heads: int, steps: int) -> AmortizedPPM:
    """One head has to find the modes by annealing; several have them from the start."""
    annealing = {"anneal_share": 0.6, "anneal_from": 6.0, "learning_rate": 5e-4} if heads == 1 else {}
    return AmortizedPPM.for_images(steps, heads=heads, batch=IMAGES // heads, **LEVELS, **annealing)


def train(name: str, heads: int, steps: int, folder: Path) -> Reconstructor:
    """Train, or read what an earlier run trained; zero steps give the start."""
    problem = make_problem(name).problem  # the instruments are the same for all seeds
    assert isinstance(problem.likelihood, Likelihood)
    kept = folder / f"{name} {heads} {steps}"
    if kept.is_dir():
        return Reconstructor.load(kept, problem.prior, problem.likelihood)
    state = kept.with_suffix(".pt")
    run = settings(heads, steps)
    made = run.train(problem.prior, problem.likelihood, generator=0, checkpoint=state, resume=state.is_file())
    made.save(kept)
    state.unlink(missing_ok=True)
    return made


def data(exact: ExactProblem, shape: tuple[int, ...]) -> Tensor:
    """The measurement of a problem, (*range_shape), float32."""
    likelihood = exact.problem.likelihood
    assert isinstance(likelihood, Likelihood)
    return likelihood.y.float().reshape(shape)


def meet(made: Reconstructor, exact: ExactProblem, seed: int) -> dict:
    """Samples of one measurement against its exact posterior."""
    y = data(exact, made.range_shape)
    began = time.perf_counter()
    samples = made.sample(y, SAMPLES, generator=seed)
    seconds = time.perf_counter() - began
    return {**measure(exact, samples, seed), "seconds": seconds}


def run_ppm(exact: ExactProblem, seed: int) -> dict:
    """PPM on one measurement, as in benchmarks.exact_posteriors."""
    began = time.perf_counter()
    made = FIELD_PPM.run(exact.problem, SAMPLES, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    seconds = time.perf_counter() - began
    return {**measure(exact, made.samples, seed), "seconds": seconds}


def exact_draws(exact: ExactProblem, seed: int) -> dict:
    """As many draws of the posterior itself: what no method can pass."""
    draws = exact.posterior.sample(SAMPLES, generator=torch.Generator().manual_seed(seed))
    return {**measure(exact, draws, seed), "seconds": 0.0}


def summarise(rows: list[dict], floors: list[float]) -> dict[str, float]:
    """Averages over measurements; coverage is pooled over them before it meets the levels."""
    coverage = torch.tensor([row["coverage"] for row in rows], dtype=torch.float64).mean(0)
    nominal = torch.tensor(NOMINAL, dtype=torch.float64)
    return {
        "measurements": len(rows),
        "w2_over_floor": statistics.fmean(row["sliced_w2"] / low for row, low in zip(rows, floors)),
        "coverage_error": float((coverage - nominal).abs().mean()),
        "coverage_90": float(coverage[NOMINAL.index(0.9)]),
        "crps": statistics.fmean(row["crps"] for row in rows),
        "weight_error": statistics.fmean(row["weight_error"] for row in rows),
        "worst_weight_error": max(row["weight_error"] for row in rows),
        "ms_per_sample": 1000 * statistics.fmean(row["seconds"] for row in rows) / SAMPLES,
    }


def study(name: str, heads: list[int], steps: int, folder: Path, measurements: int, with_ppm: int) -> dict:
    """All methods on one problem: summary per method, and the curves of the trainings."""
    seeds = range(FIRST_SEED, FIRST_SEED + measurements)
    problems = [make_problem(name, seed) for seed in seeds]
    floors = [floor(exact, SAMPLES, seed) for exact, seed in zip(problems, seeds)]
    pairs = list(zip(problems, seeds))
    table = {"exact": summarise([exact_draws(*pair) for pair in pairs], floors)}
    curves = {}
    for k in heads:
        for label, count in {"start": 0, "trained": steps}.items() if steps else [("start", 0)]:
            made = train(name, k, count, folder)
            table[f"{label}, {k} heads"] = summarise([meet(made, *pair) for pair in pairs], floors)
        curves[k] = {"training_seconds": made.attributes["seconds"], **made.diagnostics}
    if with_ppm:
        table["PPM"] = summarise([run_ppm(*pair) for pair in pairs[:with_ppm]], floors[:with_ppm])
    return {"table": table, "curves": curves}


def markdown(record: dict[str, dict]) -> str:
    """Tables of all problems."""
    lines = [
        "| problem | method | measurements | W2/floor | coverage error | 90 % | CRPS | weight error (worst) "
        "| ms/sample |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in record.items():
        for method, row in found["table"].items():
            lines.append(
                f"| {name} | {method} | {row['measurements']} | {row['w2_over_floor']:.2f} "
                f"| {row['coverage_error']:.3f} | {row['coverage_90']:.3f} | {row['crps']:.4f} "
                f"| {row['weight_error']:.3f} ({row['worst_weight_error']:.3f}) | {row['ms_per_sample']:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--heads", nargs="+", type=int, default=list(HEADS))
    parser.add_argument("--steps", type=int, default=250, help="of the training; 0 leaves it out")
    parser.add_argument("--measurements", type=int, default=8)
    parser.add_argument("--ppm", type=int, default=4, help="measurements that PPM meets too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out / "amortized_images.json"
    record = json.loads(out.read_text()) if out.is_file() else {}
    for name in arguments.problems:
        a = arguments
        record[name] = study(name, a.heads, a.steps, a.out, a.measurements, a.ppm)
        with atomic_path(out) as path:
            path.write_text(json.dumps(record, indent=1))
        print(markdown({name: record[name]}), flush=True)


if __name__ == "__main__":
    main()
