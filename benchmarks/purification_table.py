"""The tables of the purification benchmark, from its json."""

from typing import Any

import numpy as np

LONG = "DiffPure-style, 145 steps"  # its key; attacked on the first block alone
_SHOWN = ("none", "transfer", "bpda", "surrogate", "exact", "exact, margin", "square")


def blocks(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every model, in the order of their images; only blocks that all models have."""
    found: dict[str, dict[int, Any]] = {}
    for key, row in results.items():
        if "right" in row and key != LONG:
            model, start = key.rsplit(" ", 1)
            found.setdefault(model, {})[int(start)] = row
    common = set.intersection(*(set(rows) for rows in found.values())) if found else set()
    return {model: [rows[start] for start in sorted(common)] for model, rows in found.items()}


def shares(rows: list[dict[str, Any]], attack: str) -> np.ndarray:
    """Share of an image's draws that are right, over all blocks."""
    return np.concatenate([np.asarray(row["right"][attack]) / row["draws"] for row in rows])


def minimum(rows: list[dict[str, Any]]) -> np.ndarray:
    """The headline, image by image."""
    return np.min([shares(rows, attack) for attack in rows[0]["counted"]], 0)


def error(share: float, n: int) -> float:
    """Binomial, as the evaluator's."""
    middle = (n * share + 0.5) / (n + 1)
    return (middle * (1 - middle) / n) ** 0.5


def print_tables(results: dict[str, Any]) -> None:
    """Models, the comparison asked for, and rates, as Markdown."""
    models = blocks(results)
    if models:
        n = len(minimum(next(iter(models.values()))))
        print(f"\n{n} images\n")
        print("| model | clean | transfer | BPDA | surrogate | exact | margin | square | worst of all | fresh | vote "
              "| every draw | seed known | beyond | calls | ms |")  # fmt: skip
        print("|---" * 16 + "|")
        for model, rows in models.items():
            print(_line(model, rows, n))
        _compare(models, "DiffPure-style")
    if "speed" in results:
        print(f"\nspeed: {results['speed']}")
    if LONG in results:
        print(f"\nOn the first {len(results[LONG]['vote'])} images:")
        print(_line(LONG, [results[LONG]], len(results[LONG]["vote"])))
        _compare({LONG: [results[LONG]]} | {name: rows[:1] for name, rows in models.items()}, LONG)
    rates = {key: row for key, row in results.items() if key.startswith("rate ")}
    if rates:
        print("\n| rate | sigma | clean | exact | surrogate | BPDA | worst |\n|---|---|---|---|---|---|---|")
    for key, row in rates.items():
        cells = [row["clean"], row["exact"], row["surrogate"], row["bpda"]]
        told = " | ".join(f"{v:.3f}" for v in cells)
        print(f"| {key[5:]} | {row['sigma']:.3f} | {told} | {row['worst']:.3f} ± {row['error']:.3f} |")


def _line(model: str, rows: list[dict[str, Any]], n: int) -> str:
    single = [f"{shares(rows, attack).mean():.3f}" for attack in _SHOWN]
    worst = float(minimum(rows).mean())
    weights = [len(row["vote"]) for row in rows]
    rest = [
        float(np.average([row["rescored"] for row in rows], weights=weights)),
        float(np.concatenate([row["vote"] for row in rows]).mean()),
        float(np.concatenate([row["all"] for row in rows]).mean()),
        float(shares(rows, "exact, seed known").mean()),
        float(np.average([row["beyond"] for row in rows], weights=weights)),
    ]
    forward, backward = rows[0]["calls"]
    calls = f"{forward} + {backward}" if backward else f"{forward}"
    milliseconds = 1e3 * np.median([row["seconds"] for row in rows])
    cells = [*single, f"**{worst:.3f} ± {error(worst, n):.3f}**", *(f"{v:.3f}" for v in rest), calls]
    return f"| {model} | {' | '.join(cells)} | {milliseconds:.2f} |"


def _compare(models: dict[str, list[dict[str, Any]]], reference: str) -> None:
    """Differences from a model on the same images."""
    base = minimum(models[reference])
    for model, rows in models.items():
        gap = minimum(rows) - base
        print(f"{model} minus {reference}: {gap.mean():+.3f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.3f} (paired)")
