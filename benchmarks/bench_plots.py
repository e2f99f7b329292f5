"""Plots of `benchmarks.bench`: distance against network calls, and distance against coverage error."""

import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_MARKERS = "osD^vP*Xphd<>8"


def plot_calls(rows: list[Row], path: Path) -> None:
    """Sliced W2 over the floor against network calls per sample, one panel per problem."""
    _panels(rows, path, "network_calls", "network calls per sample")


def plot_coverage(rows: list[Row], path: Path) -> None:
    """Sliced W2 over the floor against the error of coverage, one panel per problem."""
    _panels(rows, path, "coverage_error", "coverage error")


def _panels(rows: list[Row], path: Path, column: str, label: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [row for row in rows if row["solver"] != "exact" and "sliced_w2" in row]
    problems = list(dict.fromkeys(row["problem"] for row in drawn))
    styles = _styles(list(dict.fromkeys(row["solver"] for row in drawn)))
    across = min(4, max(1, len(problems)))
    down = math.ceil(len(problems) / across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(3 * across, 2.7 * down + 1.2), squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.flat[len(problems) :]:
        axis.set_axis_off()
    for axis, problem in zip(axes.flat, problems):
        for row in (row for row in drawn if row["problem"] == problem):
            marker, colour = styles[row["solver"]]
            axis.plot(row[column], row["w2_ratio"], marker, color=colour, ms=6, ls="none")
        axis.axhline(1, color="0.6", lw=0.8)
        axis.set(xlabel=label, yscale="log", title=problem)
        if all(row[column] > 0 for row in drawn):
            axis.set_xscale("log")
        axis.xaxis.set_tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("W2 / floor")
    handles = [pyplot.Line2D([], [], marker=m, color=c, ls="none", label=name) for name, (m, c) in styles.items()]
    figure.tight_layout(rect=(0, 0.9 / figure.get_figheight(), 1, 1))
    figure.legend(handles=handles, loc="lower center", ncols=min(7, len(handles)), fontsize=8, frameon=False)
    figure.savefig(path, dpi=90, format="png")
    pyplot.close(figure)


def _styles(solvers: list[str]) -> dict[str, tuple[str, str]]:
    """Marker and colour of every solver: PPM stands out, peers are hollow shapes' colours."""
    from matplotlib import colormaps

    colours = colormaps["tab20"].colors
    found = {name: (_MARKERS[i % len(_MARKERS)], colours[i % len(colours)]) for i, name in enumerate(solvers)}
    return found | ({"PPM": ("*", "black")} if "PPM" in found else {})
