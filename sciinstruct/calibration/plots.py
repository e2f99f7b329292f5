"""All pictures of the reports: safe for colour-blind readers, monotone in grey, no global matplotlib state.

Every function takes axes and returns them, or takes data and returns a figure; nothing is shown or saved here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1b1f24", "#5c6670", "#d9dee3"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#8a5a9e"  # after Okabe and Ito
SERIES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))
INTENSITY, SPREAD, SIGNED = "inferno", "cividis", "PuOr_r"
WIDTH = 11.0  # inches of a full-width figure
SKY_UNITS = frozenset({"uas", "µas", "muas", "mas", "arcsec", "arcmin", "deg", "rad"})


def printed(name: str) -> str:
    """A name or unit as it is shown: micro signs, no underscores."""
    return {"uas": "µas", "muas": "µas", "um": "µm"}.get(name, name.replace("_", " "))


class Frame(NamedTuple):
    """Where an image lies: pixel coordinates at the centres, and their unit."""

    x: np.ndarray
    y: np.ndarray
    unit: str

    @property
    def is_sky(self) -> bool:
        """Angles on the sky: north up, east left."""
        return self.unit in SKY_UNITS

    @property
    def unit_label(self) -> str:
        """The unit as it is printed."""
        return printed(self.unit)


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure on the Agg canvas without pyplot, and its axes as a 2-D array. Size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def embed(figure: Figure, dpi: int = 130) -> tuple[str, int]:
    """The figure as a PNG data URI, and its width on the page in CSS pixels: letters get one size over all pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.05)
    png = buffer.getvalue()
    pixels = int.from_bytes(png[16:20], "big")  # width field of the PNG header
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii"), round(90 * pixels / dpi)


def tidy(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> Axes:
    """Quiet spines and small labels."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(labelsize=8, colors=MUTED, length=3)
    ax.set_title(title, fontsize=9.5, color=INK)
    ax.set_xlabel(xlabel, fontsize=8.5, color=MUTED)
    ax.set_ylabel(ylabel, fontsize=8.5, color=MUTED)
    return ax


def _extent(frame: Frame) -> tuple[float, float, float, float]:
    def edges(centres: np.ndarray) -> tuple[float, float]:
        half = (centres[-1] - centres[0]) / (2 * max(len(centres) - 1, 1)) if len(centres) > 1 else 0.5
        return float(centres[0] - half), float(centres[-1] + half)

    (left, right), (top, bottom) = edges(frame.x), edges(frame.y)
    return left, right, bottom, top


def show_image(
    ax: Axes,
    image: np.ndarray,
    frame: Frame,
    *,
    title: str = "",
    cmap: str = INTENSITY,
    limits: tuple[float, float] | None = None,
    label: str | None = None,
    ticks: bool = True,
) -> Axes:
    """One image (H, W) in its own coordinates; on the sky with north up and east left. `label` adds a colour bar."""
    low, high = limits or (float(np.nanmin(image)), float(np.nanmax(image)))
    extent = _extent(frame)
    drawn = ax.imshow(image, cmap=cmap, vmin=low, vmax=high, extent=extent, origin="upper", interpolation="nearest")
    if frame.is_sky:
        ax.set_xlim(max(extent[:2]), min(extent[:2]))
        ax.set_ylim(min(extent[2:]), max(extent[2:]))
    tidy(ax, title).set_facecolor("#ffffff")
    for spine in ax.spines.values():
        spine.set_visible(False)
    if frame.unit == "pixel":
        ax.locator_params(integer=True)
    if not ticks:
        ax.set_xticks([])
        ax.set_yticks([])
    if label is not None:
        bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03)
        bar.ax.tick_params(labelsize=7, colors=MUTED, length=2)
        bar.ax.yaxis.get_offset_text().set_fontsize(7)
        bar.set_label(label, fontsize=8, color=MUTED)
        bar.outline.set_visible(False)
    return ax


def axis_labels(ax: Axes, frame: Frame) -> Axes:
    """Name the axes of an image once, at the left of a row."""
    names = ("relative right ascension", "relative declination") if frame.is_sky else ("x", "y")
    ax.set_xlabel(f"{names[0]} ({frame.unit_label})", fontsize=8, color=MUTED)
    ax.set_ylabel(f"{names[1]} ({frame.unit_label})", fontsize=8, color=MUTED)
    return ax


def image_row(panels: Sequence[Mapping[str, Any]], frame: Frame, columns: int = 4) -> Figure:
    """Several images with a colour bar each. A panel: ``image``, ``title`` and `show_image`'s options."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, WIDTH, (0.82 * WIDTH / columns + 0.1) * rows)
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_axis_off()
            continue
        show_image(ax, frame=frame, **panels[i])
        first, last = i % columns == 0, i + columns >= len(panels)
        ax.tick_params(labelleft=first, labelbottom=last)
        if first and last:
            axis_labels(ax, frame)
    return figure


def sample_grid(samples: np.ndarray, frame: Frame, columns: int = 6) -> Figure:
    """Samples (K, H, W) side by side on one colour scale."""
    rows = -(-len(samples) // columns)
    figure, axes = new_figure(rows, columns, WIDTH, WIDTH / columns * rows)
    limits = (float(samples.min()), float(np.quantile(samples, 0.9995)))
    for i, ax in enumerate(axes.flat):
        if i < len(samples):
            show_image(ax, samples[i], frame, limits=limits, ticks=False)
        else:
            ax.set_axis_off()
    return figure


def chi2_histograms(terms: Mapping[str, Any]) -> Figure:
    """Reduced chi-square per data term (`PredictiveTerm`): the data at each sample, and data simulated from it."""
    columns = min(3, len(terms))
    rows = -(-len(terms) // columns)
    figure, axes = new_figure(rows, columns, 3.7 * columns, 2.7 * rows)
    for ax in axes.flat[len(terms) :]:
        ax.set_axis_off()
    for ax, (name, term) in zip(axes.flat, terms.items()):
        both = np.concatenate([term.chi2.numpy(), term.replicated.numpy()])
        bins = np.linspace(both.min(), both.max() + 1e-9, 32)
        ax.hist(term.replicated.numpy(), bins, density=True, color=GRID, label="simulated from samples")
        ax.hist(term.chi2.numpy(), bins, density=True, histtype="step", color=BLUE, lw=1.8, label="the data")
        ax.axvline(1.0, color=ORANGE, lw=1.2, ls="--", label="expected, 1")
        count = "" if term.n is None else f"   n = {term.n}"
        tidy(ax, f"{printed(name)}{count}   p = {term.p:.2f}", "chi-square / n").set_yticks([])
    axes.flat[0].legend(fontsize=7, frameon=False)
    return figure


def residual_plot(residuals: Mapping[str, np.ndarray]) -> Figure:
    """Normalised residuals of the sample average by data term, and their histogram beside the unit normal."""
    figure, axes = new_figure(1, 2, WIDTH, 2.7, width_ratios=(3, 1), sharey=True)
    left, right = axes[0]
    start, everything = 0, np.concatenate(list(residuals.values()))
    size = 3 if len(everything) < 2000 else 1
    for i, (name, values) in enumerate(residuals.items()):
        colour = SERIES[i % len(SERIES)][0]
        left.plot(np.arange(start, start + len(values)), values, ".", ms=size, color=colour, label=printed(name))
        start += len(values)
    for level, style in ((0, "-"), (3, "--"), (-3, "--")):
        left.axhline(level, color=MUTED, lw=0.8, ls=style)
    if len(residuals) > 1:
        left.legend(fontsize=7, frameon=False, ncols=len(residuals), markerscale=3)
    tidy(left, "Mean over samples of (data - prediction) / noise", "datum", "standard deviations")
    reach = max(4.0, float(np.abs(everything).max()))
    bins = np.linspace(-reach, reach, 41)
    right.hist(everything, bins, density=True, orientation="horizontal", color=BLUE, alpha=0.75)
    z = np.linspace(-reach, reach, 200)
    right.plot(np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi), z, color=ORANGE, lw=1.3, ls="--", label="unit normal")
    right.legend(fontsize=7, frameon=False)
    tidy(right, "", "density")
    return figure


def mode_weights(weights: Sequence[float], spread: Sequence[float] | None) -> Figure:
    """Weights of the modes as bars, with their scatter over restarts."""
    figure, axes = new_figure(1, 1, max(3.5, 0.5 * len(weights) + 2), 2.4)
    ax = axes[0, 0]
    ax.bar(range(1, len(weights) + 1), weights, yerr=spread, color=BLUE, width=0.6, ecolor=INK, capsize=3)
    tidy(ax, "", "mode", "weight").set_xticks(range(1, len(weights) + 1))
    return figure


def quantity_histograms(quantities: Mapping[str, Any], peers: Mapping[str, Mapping[str, float]]) -> Figure:
    """Histogram of each `Quantity` with median, 68 and 95 % intervals, truth, and the peers' values."""
    columns = min(3, len(quantities))
    rows = -(-len(quantities) // columns)
    figure, axes = new_figure(rows, columns, 3.7 * columns, 2.5 * rows)
    for ax in axes.flat[len(quantities) :]:
        ax.set_axis_off()
    for ax, (name, quantity) in zip(axes.flat, quantities.items()):
        values = quantity.finite.numpy()
        unit = f" ({printed(quantity.unit)})" if quantity.unit else ""
        tidy(ax, printed(name) + unit).set_yticks([])
        if not len(values):
            ax.text(0.5, 0.5, "not measurable on any sample", ha="center", transform=ax.transAxes, fontsize=8)
            continue
        low, low68, median, high68, high = np.quantile(values, (0.025, 0.16, 0.5, 0.84, 0.975))
        ax.axvspan(low, high, color="#e8ecf0", lw=0, label="95 %")
        ax.axvspan(low68, high68, color="#c9d1d8", lw=0, label="68 %")
        ax.hist(values, 30, color=BLUE, alpha=0.75)
        ax.axvline(median, color=INK, lw=1.6, label="median")
        if quantity.local_truth is not None:
            ax.axvline(quantity.local_truth, color=ORANGE, lw=1.8, ls="--", label="truth")
        for (peer, row), (colour, style) in zip(peers.items(), SERIES[2:]):
            if name in row:
                ax.axvline(row[name], color=colour, lw=1.4, ls=style, label=peer)
    axes.flat[0].legend(fontsize=7, frameon=False)
    return figure


def traces(curves: Mapping[str, Sequence[float]]) -> Figure:
    """What the solver recorded over its steps, one panel each; logarithmic where positive and wide."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(rows, columns, 3.7 * columns, 2.2 * rows)
    for ax in axes.flat[len(curves) :]:
        ax.set_axis_off()
    for ax, (name, curve) in zip(axes.flat, curves.items()):
        values = np.asarray(curve, dtype=float)
        ax.plot(values, color=BLUE, lw=1.1)
        finite = values[np.isfinite(values)]
        if len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min():
            ax.set_yscale("log")
        tidy(ax, printed(name), "record")
    return figure


def z_panel(z: np.ndarray, frame: Frame) -> Figure:
    """Map of the error in predicted standard deviations with its +-2 contours, and its histogram."""
    figure, axes = new_figure(1, 2, 7.5, 2.9, width_ratios=(1.1, 1))
    left, right = axes[0]
    show_image(
        left, z, frame, title="z = (truth - mean) / sd", cmap=SIGNED, limits=(-4, 4), label="standard deviations"
    )
    for level, style in ((-2, "dashed"), (2, "solid")):
        if z.min() < level < z.max():
            left.contour(frame.x, frame.y, z, [level], colors=[INK], linewidths=0.8, linestyles=style)
    axis_labels(left, frame)
    grid = np.linspace(-5, 5, 200)
    right.hist(z.ravel().clip(-5, 5), 41, range=(-5, 5), density=True, color=GRID, label="pixels")
    right.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color=ORANGE, lw=1.3, ls="--", label="unit normal")
    right.legend(fontsize=7, frameon=False)
    tidy(right, "", "z").set_yticks([])
    return figure


def coverage_curve(
    levels: Sequence[float], curves: Mapping[str, Sequence[float]], band: np.ndarray | None = None
) -> Figure:
    """Share of truths inside against nominal level, one line per region; `band` (2, levels) is what chance allows."""
    figure, axes = new_figure(1, 1, 3.9, 3.5)
    ax = axes[0, 0]
    ax.plot((0, 1), (0, 1), color=MUTED, lw=0.9)
    if band is not None:
        ax.fill_between(levels, band[0], band[1], color=GRID, label="chance")
    for (name, curve), (colour, style) in zip(curves.items(), SERIES):
        ax.plot(levels, curve, color=colour, ls=style, lw=1.7, label=name)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    tidy(ax, "", "nominal central level", "share inside")
    return figure


def rank_dots(ranks: Mapping[str, float]) -> Figure:
    """Rank of the truth among the samples, one row per quantity; the outer 5 % are shaded."""
    figure, axes = new_figure(1, 1, 5.2, 0.32 * len(ranks) + 1.0)
    ax = axes[0, 0]
    rows = np.arange(len(ranks))[::-1]
    for edge in ((0, 0.025), (0.975, 1)):
        ax.axvspan(*edge, color=GRID, lw=0)
    ax.plot(list(ranks.values()), rows, "o", color=BLUE, ms=6)
    ax.set_yticks(rows, [printed(name) for name in ranks])
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.6, len(ranks) - 0.4)
    return_axis = tidy(ax, "", "rank of the truth among the samples")
    return_axis.grid(axis="y", color=GRID, lw=0.6)
    return figure


def ecdf_differences(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """ECDF minus uniform per quantity with its band. A panel: z, ECDF, lower and upper edge, each (G,)."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, 2.8 * columns, 2.3 * rows, sharex=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (name, (z, curve, low, high)) in zip(axes.flat, panels.items()):
        ax.fill_between(z, low - z, high - z, color=GRID)
        ax.axhline(0, color=MUTED, lw=0.8)
        outside = bool(((curve < low) | (curve > high)).any())
        ax.plot(z, curve - z, color=ORANGE if outside else BLUE, ls="--" if outside else "-", lw=1.5)
        tidy(ax, name + (" (outside)" if outside else ""), "rank", "ECDF - uniform")
    return figure


def spread_skill_plot(spread: np.ndarray, rmse: np.ndarray) -> Figure:
    """Error made against error predicted, one point per bin of pixels."""
    figure, axes = new_figure(1, 1, 3.7, 3.3)
    ax = axes[0, 0]
    top = 1.05 * float(max(spread.max(), rmse.max()))
    ax.plot((0, top), (0, top), color=MUTED, lw=0.9, label="calibrated")
    ax.plot(spread, rmse, "o-", color=BLUE, ms=4, lw=1.2, label="bins of pixels")
    ax.set_xlim(0, top)
    ax.set_ylim(0, top)
    ax.legend(fontsize=7, frameon=False)
    tidy(ax, "", "predicted error", "actual error")
    return figure


def rank_histograms(counts: Mapping[str, np.ndarray], n: int) -> Figure:
    """Rank histogram per quantity with the binomial 95 % band of one bin."""
    from scipy.stats import binom

    columns = min(4, len(counts))
    rows = -(-len(counts) // columns)
    figure, axes = new_figure(rows, columns, 2.8 * columns, 2.0 * rows)
    for ax in axes.flat[len(counts) :]:
        ax.set_axis_off()
    for ax, (name, bars) in zip(axes.flat, counts.items()):
        low, high = binom.ppf((0.025, 0.975), n, 1 / len(bars))
        ax.axhspan(low, high, color=GRID)
        ax.bar((np.arange(len(bars)) + 0.5) / len(bars), bars, width=0.9 / len(bars), color=BLUE, alpha=0.85)
        tidy(ax, name, "rank", "count")
    return figure
