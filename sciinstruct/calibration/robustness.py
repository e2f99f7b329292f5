"""The report of attacks on purified models: what is left of each under the worst of all, and at what cost."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinstruct.calibration import plots
from sciinstruct.calibration.page import staging, write_json, write_page
from sciinstruct.calibration.pictures import Section
from sciinstruct.calibration.summary import versions
from sciinstruct.calibration.verdicts import FAIL, PASS, WARN, Verdict, overall, sort_verdicts

if TYPE_CHECKING:
    import xarray

SCHEMA_VERSION = "1.0"
_CAPTION = (
    "Accuracy of a single purification after each attack, two standard errors either side; the diamond is the worst of "
    "all attacks image by image, the number to quote. Transfer and BPDA alone flatter a purifier."
)


@dataclass(frozen=True)
class RobustnessPaths:
    """Where the parts of the report are."""

    html: Path
    json: Path
    data: tuple[Path, ...]  # one NetCDF file per model


def write_robustness(
    evaluations: Mapping[str, "xarray.Dataset"],
    folder: str | os.PathLike[str],
    *,
    name: str = "Robustness",
    trained: str | None = None,
) -> RobustnessPaths:
    """Write ``robustness.html``, ``robustness.json`` and one NetCDF file per model into `folder`, all or none.

    Parameters
    ----------
    evaluations : mapping of str to Dataset
        From `sciinstruct.purification.evaluate`, by the name of the model.
    folder : path
        Made if absent.
    name : str
        Title of the page.
    trained : str, optional
        Which of them is the adversarially trained classifier; without one the report says that it is missing.

    Raises
    ------
    ValueError
        If there is none, they are of different budgets, or `trained` is not among them.
    OutputError
        If the folder cannot be written.
    """
    _check(evaluations, trained)
    content = robustness_content(evaluations, name, trained)
    figure = _accuracies(evaluations)
    section = Section("attacks", "Attack by attack", _CAPTION, *plots.embed(figure))
    home, files = Path(folder), [f"evaluation-{i}.nc" for i in range(1, len(evaluations) + 1)]
    with staging(home) as stage:
        write_page(stage / "robustness.html", "robustness.html.j2", title=name, report=content, sections=[section])
        write_json(stage / "robustness.json", content)
        for file, (model, found) in zip(files, evaluations.items()):
            found.assign_attrs(model=model).to_netcdf(stage / file, engine="h5netcdf")
    return RobustnessPaths(home / "robustness.html", home / "robustness.json", tuple(home / file for file in files))


def robustness_content(
    evaluations: Mapping[str, "xarray.Dataset"], name: str, trained: str | None = None
) -> dict[str, Any]:
    """Everything the report says, JSON-able."""
    verdicts = _verdicts(evaluations, trained)
    return {
        "schema": "sciinstruct-robustness",
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "versions": versions(),
        "threat": next(iter(evaluations.values())).attrs["threat"],
        "n_images": max(found.sizes["image"] for found in evaluations.values()),
        "trained": trained,
        "overall": overall(verdicts),
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "models": [_row(model, found) for model, found in evaluations.items()],
    }


def _row(model: str, found: "xarray.Dataset") -> dict[str, Any]:
    """The numbers of one model."""
    counts = [str(count) for count in found["count"].values]
    attacks = [str(attack) for attack in found.attack.values]

    def table(values: "xarray.DataArray") -> dict[str, dict[str, float]]:
        return {a: {c: float(values.sel(attack=a, count=c)) for c in counts} for a in attacks}

    beyond = float(found.beyond)
    return {
        "model": model,
        "purifier": found.attrs["purifier"],
        "n_images": found.sizes["image"],
        "repeats": int(found.attrs["repeats"]),
        "seed": int(found.attrs["seed"]),
        "draft": bool(found.attrs["draft"]),
        "robust": {c: float(found.robust.sel(count=c)) for c in counts},
        "robust_error": {c: float(found.robust_error.sel(count=c)) for c in counts},
        "rescored": float(found.rescored.sel(count="single")),
        "accuracy": table(found.accuracy),
        "accuracy_error": table(found.accuracy_error),
        "beyond": beyond if np.isfinite(beyond) else None,
        "seconds": float(found.seconds),
        "calls_forward": int(found.calls_forward),
        "calls_backward": int(found.calls_backward),
        "attack_seconds": {a: float(found.attack_seconds.sel(attack=a)) for a in attacks},
    }


def _verdicts(evaluations: Mapping[str, "xarray.Dataset"], trained: str | None) -> list[Verdict]:
    said: dict[tuple[str, str], list[str]] = {}
    for model, found in evaluations.items():
        lines = [(FAIL, line) for line in found.attrs["faults"].splitlines()]
        lines += [(WARN, line) for line in found.attrs["notes"].splitlines()]
        for line in lines or [(PASS, "The attacks suffice, and nothing in the numbers speaks against them.")]:
            said.setdefault(line, []).append(model)
    rows = [Verdict(", ".join(models), status, None, "", line, "") for (status, line), models in said.items()]
    if trained is None:
        meaning = "No adversarially trained classifier was evaluated beside these."
        action = "Train one with sciinstruct.purification.train_classifier: so far it beat every purifier here."
        rows.append(Verdict("comparison", WARN, None, "", meaning, action))
    return sort_verdicts(rows)


def _check(evaluations: Mapping[str, "xarray.Dataset"], trained: str | None) -> None:
    if not evaluations:
        raise ValueError("evaluations must hold at least one")
    threats = {found.attrs["threat"] for found in evaluations.values()}
    if len(threats) > 1:
        raise ValueError(f"evaluations must be of one threat model, got {sorted(threats)}; write a report each")
    if trained is not None and trained not in evaluations:
        raise ValueError(f"trained must be one of {sorted(evaluations)}, got {trained!r}")


def _accuracies(evaluations: Mapping[str, "xarray.Dataset"]) -> Any:
    """One row per model, one mark per attack."""
    names = list(dict.fromkeys(str(a) for found in evaluations.values() for a in found.attack.values))
    figure, axes = plots.new_figure(1, 1, plots.WIDTH * 0.8, 0.55 * len(evaluations) + 1.6)
    ax, marks = axes[0, 0], "os^v<>pXD*"
    for row, found in enumerate(evaluations.values()):
        for attack in (str(a) for a in found.attack.values):
            i = names.index(attack)
            value = float(found.accuracy.sel(attack=attack, count="single"))
            width = 2 * float(found.accuracy_error.sel(attack=attack, count="single"))
            style = {"fmt": marks[i % len(marks)], "color": plots.SERIES[i % len(plots.SERIES)][0], "ms": 5, "lw": 1}
            ax.errorbar(value, row + 0.5 * (i / len(names) - 0.5), xerr=width, label=None if row else attack, **style)
        robust, width = float(found.robust.sel(count="single")), 2 * float(found.robust_error.sel(count="single"))
        ax.errorbar(
            robust, row + 0.3, xerr=width, fmt="D", color=plots.INK, ms=7, label=None if row else "worst of all"
        )
    ax.set_yticks(range(len(evaluations)), list(evaluations))
    ax.set_ylim(len(evaluations) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.legend(fontsize=7, frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    plots.tidy(ax, "", "accuracy").grid(axis="x", color=plots.GRID, lw=0.6)
    return figure
