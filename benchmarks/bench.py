"""Every solver on every problem with an exactly known posterior, and deepinv's samplers beside them.

Run ``python -m benchmarks.bench`` from the root of a checkout. Each result, one (problem, solver, seed), is a line of
docs/benchmarks/bench.jsonl: an interrupted run goes on where it stopped, and a solver whose settings changed is run
afresh. From the lines it writes bench.md, bench.csv, bench.json and the plots beside them. ``--problems`` and
``--solvers`` take names, or parts of names; ``--page`` only rewrites the pages. Five draws of the default problems take
about an hour and a half of one core. deepinv's rows appear where it is installed (extra ``peers``). Seeds begin at 100:
PPM's settings were chosen on smaller ones.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_measures import counted, floor, measure
from benchmarks.bench_page import write_pages
from benchmarks.bench_solvers import sizes, table
from sciinstruct.core import Solver
from sciinstruct.priors.problems import PROBLEMS, ExactProblem

DEFAULT_PROBLEMS = (
    "2-D mixture",
    "phase retrieval",
    "16x16 mask",
    "16x16 blur",
    "16x16 visibilities",
    "16x16 downsampling",
    "16x16 sim",
)
EXACT = "exact"  # as many draws of the posterior itself: the sampling floor
FIRST_SEED = 100  # PPM's settings were chosen on smaller ones
Record = dict[str, Any]


def one_run(exact: ExactProblem, solver: Solver | None, seed: int) -> Record:
    """Run one solver, None for exact draws, and measure it; an error becomes its first line."""
    n, dtype = sizes(exact)
    generator = torch.Generator().manual_seed(1000 + seed)
    problem, calls = counted(exact.problem)
    began, wall = time.process_time(), time.perf_counter()
    try:
        if solver is None:
            samples = exact.posterior.sample(n, generator=generator)
        else:
            samples = solver.run(problem, n, generator=generator, dtype=dtype).samples
        spent = {"seconds": time.process_time() - began, "wall_seconds": time.perf_counter() - wall}
        spent |= {"network_calls": calls.total / n, "samples": len(samples)}
        found = measure(exact, samples, seed)
        if solver is None:
            found["sliced_w2"] = floor(exact, n, seed)
        return {**spent, **found}
    except Exception as error:  # a failure is a result of the bench, not its end
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"error": text, "seconds": time.process_time() - began}


def read_records(path: Path) -> dict[tuple[str, str, int], Record]:
    """Results so far; the last of several wins, and a line cut off by an interruption is dropped."""
    found = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["problem"], record["solver"], record["seed"]] = record
    return found


def end_line(path: Path) -> None:
    """Keep a line that an interruption cut off apart from the next."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def chosen(names: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """Names equal to one of those asked, or else containing one."""
    if not asked:
        return list(names)
    return [name for name in names if name in asked or any(a not in names and a in name for a in asked)]


def study(problems: Sequence[str], asked: Sequence[str] | None, seeds: range, path: Path) -> None:
    """Fill what is missing in the file of results, seed by seed; prints a line for each run."""
    kept = read_records(path)
    end_line(path)
    for seed in seeds:
        for name in problems:
            exact = PROBLEMS[name](seed)
            solvers: dict[str, Solver | None] = {EXACT: None, **table(exact)}
            for label in chosen(list(solvers), [*asked, EXACT] if asked else None):
                key, asked_for = (name, label, seed), {"settings": repr(solvers[label]), "asked": sizes(exact)[0]}
                if asked_for.items() <= kept.get(key, {}).items():
                    continue
                record = {"problem": name, "solver": label, "seed": seed, **asked_for}
                record |= one_run(exact, solvers[label], seed)
                kept[key] = record
                with path.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(describe(record), flush=True)


def describe(record: Record) -> str:
    """One line for the terminal."""
    head = f"seed {record['seed']}  {record['problem']:<20} {record['solver']:<24}"
    if "error" in record:
        return f"{head} failed: {record['error']}"
    return (
        f"{head} W2 {record['sliced_w2']:.4f}  weights off by {record['weight_error']:.3f}  "
        f"calls {record['network_calls']:.0f}  {record['seconds']:.1f} s"
    )


def main() -> None:
    """Run what is missing and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", help="names of sciinstruct.priors.problems.PROBLEMS, or parts")
    parser.add_argument("--solvers", nargs="+", help="printed names, or parts; 'exact' always runs")
    parser.add_argument("--draws", type=int, default=5, help="seeds of each problem")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="the least of them")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/bench.jsonl"))
    parser.add_argument("--page", action="store_true", help="only rewrite the pages")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problems = chosen(list(PROBLEMS), arguments.problems) if arguments.problems else list(DEFAULT_PROBLEMS)
    if not problems:
        parser.error(f"no problem is called {arguments.problems}; there are: {', '.join(PROBLEMS)}")
    if not arguments.page:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.draws)
        study(problems, arguments.solvers, seeds, arguments.out)
    write_pages(read_records(arguments.out).values(), arguments.out)


if __name__ == "__main__":
    main()
