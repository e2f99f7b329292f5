"""The pictures of a sampler's report."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sciinstruct.calibration import plots
from sciinstruct.calibration.pictures import Section

if TYPE_CHECKING:
    from sciinstruct.calibration.sampler_quality import SamplerQuality

_PANELS, _DOTS = 9, 1500
_CURVES = ("score_loss", "fisher", "gradient_norm", "ksd")


def sampler_sections(quality: "SamplerQuality") -> list[Section]:
    """Draw what there is to see."""
    found = [
        (
            "marginals",
            "Marginals",
            "Filled: the sampler; line: the reference, where there is one. At most nine parameters are shown.",
            _marginals(quality),
        ),
        (
            "plane",
            "Two parameters at a time",
            "Pairs of neighbouring parameters; at most 1500 draws.",
            _planes(quality),
        ),
    ]
    modes = quality.numbers["modes"]
    if "weights" in modes and len(modes["weights"]) > 1:
        caption = f"Bars: the sampler; dashes: the reference ({modes['source']})."
        found.append(("modes", "Weights of modes", caption, _modes(modes)))
    curves = {k: v for k in _CURVES if (v := _plain(quality.numbers["curves"].get(k, [])))}
    if curves:
        caption = "What training recorded; the discrepancy (ksd) is of fresh draws, twenty times in a run."
        found.append(("training", "Training", caption, plots.traces(curves)))
    return [Section(anchor, title, caption, *plots.embed(figure)) for anchor, title, caption, figure in found]


def _plain(curve: list[float | None]) -> list[float]:
    return [v for v in curve if v is not None]


def _limits(columns: list[np.ndarray]) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(columns), (0.002, 0.998))
    margin = 0.05 * (high - low) + 1e-12
    return float(low - margin), float(high + margin)


def _marginals(quality: "SamplerQuality") -> Any:
    names = quality.names[:_PANELS]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plots.new_figure(rows, columns, 3.7 * columns, 2.4 * rows)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for i, (ax, name) in enumerate(zip(axes.flat, names)):
        x = quality.draws[:, i].numpy()
        gold = None if quality.gold is None else quality.gold[:, i].numpy()
        bins = np.linspace(*_limits([x] if gold is None else [x, gold]), 50)
        ax.hist(x, bins, density=True, color=plots.BLUE, alpha=0.6, label="sampler")
        if gold is not None:
            ax.hist(gold, bins, density=True, histtype="step", color=plots.ORANGE, lw=1.5, label="reference")
        plots.tidy(ax, plots.printed(name)).set_yticks([])
    axes.flat[0].legend(fontsize=7, frameon=False)
    return figure


def _planes(quality: "SamplerQuality") -> Any:
    count = min(3, len(quality.names) - 1)
    kinds = [("sampler", quality.draws, plots.BLUE)]
    if quality.gold is not None:
        kinds.append(("reference", quality.gold, plots.ORANGE))
    figure, axes = plots.new_figure(len(kinds), count, 3.6 * count, 3.2 * len(kinds))
    for i in range(count):
        clouds = [x[:, [i, i + 1]].numpy() for _, x, _ in kinds]
        for ax, (label, _, colour), cloud in zip(axes[:, i], kinds, clouds):
            ax.plot(*cloud[:_DOTS].T, ".", ms=2, color=colour, alpha=0.5)
            ax.set_xlim(*_limits([c[:, 0] for c in clouds]))
            ax.set_ylim(*_limits([c[:, 1] for c in clouds]))
            plots.tidy(ax, label, plots.printed(quality.names[i]), plots.printed(quality.names[i + 1]))
    return figure


def _modes(modes: dict[str, Any]) -> Any:
    figure, axes = plots.new_figure(1, 1, max(3.5, 0.35 * len(modes["weights"]) + 2), 2.4)
    ax, places = axes[0, 0], np.arange(1, len(modes["weights"]) + 1)
    ax.bar(places, modes["shares"], color=plots.BLUE, width=0.6, label="sampler")
    ax.plot(places, modes["weights"], "_", color=plots.ORANGE, ms=14, mew=2, label="reference")
    ax.legend(fontsize=7, frameon=False)
    plots.tidy(ax, "", "mode", "weight")
    return figure
