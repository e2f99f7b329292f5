"""Tables and plots of `benchmarks.bench`, from its file of results."""

import csv
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_measures import COVERAGE_TRUTHS, FLOOR_PAIRS, NOMINAL, REFERENCES
from sciinstruct.core import atomic_path
from sciinstruct.core.posterior_io import json_safe
from sciinstruct.priors.problems import PROBLEMS

Row = dict[str, Any]
COLUMNS = (
    "problem", "solver", "draws", "failed", "sliced_w2", "w2_ratio", "w2_ratio_error", "coverage_error",
    "weight_error", "missed_modes", "crps", "crps_ratio", "tarp_p", "network_calls", "seconds", "error",
)  # fmt: skip
ABOUT = f"""\
# The bench: every solver on every exact problem

`python -m benchmarks.bench --draws {{draws}}`: problems of `sciinstruct.priors.problems`, seeds from {{first}}, the
exact denoiser for all. 'exact' is as many draws of the posterior itself: the sampling floor. Rows named deepinv are
that package's samplers on the same problems, with the same denoiser, in the same run.

Settings are below, none for a single draw. Every baseline has one setting for all problems. PPM has two, one for two
parameters and one for images, chosen on seeds below 100. Annealed Langevin, PnP-DM and RLSD chose theirs on seeds 100
to 103, which are judged here: to their advantage. The others' tuning seeds were not noted.

- **W2**: sliced Wasserstein-2 distance between the solver's samples and as many exact ones (1000 on the 2-D mixture,
  500 on non-linear problems and at 16x16, 256 at 32x32, 128 at 64x64), {REFERENCES} exact sets, mean over draws of the
  problem; for 'exact' {FLOOR_PAIRS} pairs of exact sets. **W2/floor**: mean of the ratio to the same draw's 'exact',
  and its standard error. PPM draws the components of its mixture as often as their weights say, but for rounding: its
  samples scatter less than independent ones, and its W2 can lie below the floor.
- **coverage**: mean of |coverage - level| of central intervals per coordinate over 10-95 %, {COVERAGE_TRUTHS} exact
  draws per problem as truths, pooled over problems.
- **weights**: largest error of a mode's weight in any draw. **missed**: modes of weight 0.1 or more that got less than
  a tenth of it, all draws together.
- **CRPS**: fair score of single coordinates against exact draws, mean; no law has a smaller one than the exact.
- **TARP**: p-value (Kolmogorov-Smirnov) that ranks of the true images' distances to half of the samples' mean, among
  the other half's, are uniform: one rank per draw, so that few draws see only gross errors.
- **calls**: images through the prior's denoiser (for NUTS: densities asked) per sample returned, training included;
  a call whose gradient is taken counts once. PPM and NUTS's warm-up call a fixed number of times, whatever the number
  of samples: for half as many, PPM's calls per sample are twice those given here. All others' hardly change.
- **seconds**: processor time per run, one thread.
"""


def summarise(records: Iterable[Row]) -> list[Row]:
    """One row per problem and solver, problems and solvers in the order of their first result."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for record in records:
        groups.setdefault((record["problem"], record["solver"]), []).append(record)
    order = {name: i for i, name in enumerate(PROBLEMS)}
    floors = {
        (record["problem"], record["seed"]): record
        for (_, solver), rows in groups.items()
        if solver == "exact"
        for record in rows
    }
    ranked = sorted(groups, key=lambda key: order.get(key[0], len(order)))
    return [summary_row(*key, groups[key], floors) for key in ranked]


def summary_row(problem: str, solver: str, records: list[Row], floors: dict[tuple[str, int], Row]) -> Row:
    """Averages over draws; where all failed, the error alone."""
    done = [record for record in records if "error" not in record]
    errors = [record["error"] for record in records if "error" in record]
    row: Row = {"problem": problem, "solver": solver, "draws": len(records), "failed": len(errors)}
    row["first_seed"] = min(record["seed"] for record in records)
    row["error"] = errors[0] if errors else ""
    if not done:
        return row
    pairs = [(record, floors[problem, record["seed"]]) for record in done if (problem, record["seed"]) in floors]
    by_seed = {record["seed"]: record["sliced_w2"] / floor["sliced_w2"] for record, floor in pairs}
    ratios = list(by_seed.values())
    coverage = np.mean([record["coverage"] for record in done], 0)
    return row | {
        "sliced_w2": mean(done, "sliced_w2"),
        "w2_ratio": statistics.fmean(ratios) if ratios else math.nan,
        "w2_ratio_error": statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else math.nan,
        "coverage_error": float(np.abs(coverage - np.array(NOMINAL)).mean()),
        "weight_error": max(record["weight_error"] for record in done),
        "missed_modes": sum(record["missed_modes"] for record in done),
        "crps": mean(done, "crps"),
        "crps_ratio": mean([r for r, _ in pairs], "crps") / mean([f for _, f in pairs], "crps") if pairs else math.nan,
        "tarp_p": uniform_p([record["tarp_rank"] for record in done]),
        "network_calls": mean(done, "network_calls"),
        "seconds": mean(done, "seconds"),
        "settings": done[-1]["settings"],
        "w2_ratios": by_seed,
    }


def mean(records: list[Row], name: str) -> float:
    """Average of one number over records."""
    return statistics.fmean(record[name] for record in records)


def uniform_p(ranks: list[float]) -> float:
    """P-value of the Kolmogorov-Smirnov test for uniform ranks."""
    from scipy.stats import kstest

    return float(kstest(ranks, "uniform").pvalue)


def line(row: Row) -> str:
    """One line of a problem's table."""
    note = f" ({row['failed']} of {row['draws']} failed)" if row["failed"] else ""
    if "sliced_w2" not in row:
        text = row["error"].replace("|", "\\|")
        return f"| {row['solver']} | failed: {text} | | | | | | | | |"
    spread = "" if math.isnan(row["w2_ratio_error"]) else f" ± {row['w2_ratio_error']:.2f}"
    return (
        f"| {row['solver']}{note} | {row['sliced_w2']:.4f} | {row['w2_ratio']:.2f}{spread} "
        f"| {row['coverage_error']:.3f} | {row['weight_error']:.3f} | {row['missed_modes']} "
        f"| {row['crps']:.4f} | {row['tarp_p']:.3f} | {row['network_calls']:.0f} | {row['seconds']:.1f} |"
    )


def standing(rows: list[Row]) -> list[str]:
    """How PPM stands, problem by problem, beside the best other in distance, the best in coverage, and DAPS's calls."""
    said = [
        "## PPM beside the others",
        "",
        "Places count solvers with results. The difference of W2/floor is that of the same draws, with its standard",
        "error: negative where PPM is nearer to the exact posterior.",
        "",
        "| problem | place in W2 | best other | PPM minus it | coverage, PPM | best other | calls, PPM | DAPS |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for problem in dict.fromkeys(row["problem"] for row in rows):
        ranked = [r for r in rows if r["problem"] == problem and r["solver"] != "exact" and "sliced_w2" in r]
        ranked.sort(key=lambda row: row["w2_ratio"])
        found = {row["solver"]: row for row in ranked}
        others = [row for row in ranked if row["solver"] != "PPM"]
        if "PPM" not in found or not others:
            continue
        ppm, best = found["PPM"], others[0]
        covered = min(others, key=lambda row: row["coverage_error"])
        calls = f"{found['DAPS']['network_calls']:.0f}" if "DAPS" in found else ""
        said.append(
            f"| {problem} | {ranked.index(ppm) + 1} of {len(ranked)} | {best['solver']} | {difference(ppm, best)} "
            f"| {ppm['coverage_error']:.3f} | {covered['coverage_error']:.3f} ({covered['solver']}) "
            f"| {ppm['network_calls']:.0f} | {calls} |"
        )
    return [*said, ""]


def difference(a: Row, b: Row) -> str:
    """Mean difference of two solvers' W2/floor over the draws both have, with its standard error."""
    both = sorted(set(a["w2_ratios"]) & set(b["w2_ratios"]))
    gaps = [a["w2_ratios"][seed] - b["w2_ratios"][seed] for seed in both]
    if not gaps:
        return ""
    error = f" ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}" if len(gaps) > 1 else ""
    return f"{statistics.fmean(gaps):+.2f}{error}"


def markdown(rows: list[Row], plots: list[str]) -> str:
    """Text of the page."""
    draws, first = max(row["draws"] for row in rows), min(row["first_seed"] for row in rows)
    lines = [ABOUT.format(draws=draws, first=first), *standing(rows)]
    lines += [f"![{name}]({name})\n" for name in plots]
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = [row for row in rows if row["problem"] == problem]
        lines += [f"## {problem}", "", f"{max(row['draws'] for row in mine)} draws.", ""]
        lines += ["| solver | W2 | W2/floor | coverage | weights | missed | CRPS | TARP | calls | seconds |"]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        lines += [line(row) for row in mine] + [""]
    lines += ["## Settings", ""]
    for solver, problem, settings in settings_used(rows):
        lines.append(f"- {solver} ({problem}): `{settings}`")
    return "\n".join([*lines, ""])


def settings_used(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Every solver's settings with the problems they were used on: all, or those named."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["solver"] != "exact" and "settings" in row:
            groups.setdefault((row["solver"], row["settings"]), []).append(row["problem"])
    alone = {solver: sum(s == solver for s, _ in groups) == 1 for solver, _ in groups}
    return [(s, "all" if alone[s] else ", ".join(names), text) for (s, text), names in groups.items()]


def write_pages(records: Iterable[Row], path: Path) -> None:
    """Write the page, the two tables and the plots beside the file of results."""
    from benchmarks.bench_plots import plot_calls, plot_coverage

    records = list(records)
    if not records:
        raise SystemExit(f"no results in {path}: run without --page first")
    rows = summarise(records)
    plots = []
    for name, draw in (("bench_calls.png", plot_calls), ("bench_coverage.png", plot_coverage)):
        with atomic_path(path.with_name(name)) as temporary:
            draw(rows, temporary)
        plots.append(name)
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(json_safe({"nominal": NOMINAL, "rows": rows}), indent=1))
    with atomic_path(path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(rows, plots))
