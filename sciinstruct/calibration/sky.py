"""What a report shows of interferometric data: how the samples fit closure phases and amplitudes."""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinstruct.calibration import plots
from sciinstruct.operators.interferometry import InterferometryLikelihood, Observation
from sciinstruct.operators.interferometry.closures import triangle_phases
from sciinstruct.operators.interferometry.likelihood import ZERO_BASELINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODELS = 48  # samples whose visibilities are drawn
TRIANGLES = 6


class TriangleFit(NamedTuple):
    """Closure phase of one triangle against time, in degrees."""

    name: str
    hours: np.ndarray  # (n,)
    data: np.ndarray  # (n,) without jumps of 360
    sigma: np.ndarray  # (n,)
    models: np.ndarray  # (K, n), each within 180 degrees of the data


def model_visibilities(likelihood: InterferometryLikelihood, samples: Tensor) -> Tensor:
    """Visibilities of the first samples, complex128 (K, M), on the CPU."""
    with torch.no_grad():
        return likelihood.visibilities(samples[:MODELS]).cpu().to(torch.complex128)


def triangle_fits(observation: Observation, models: Tensor) -> list[TriangleFit]:
    """The triangles seen most often, without those that hold a zero baseline (their closure phase is trivial)."""
    found = []
    for stations in _triangles(observation):
        data = triangle_phases(observation, stations)
        if len(data.phase) < 2:
            continue
        phases = torch.stack(
            [triangle_phases(observation.evolve("model", vis=model), stations).phase for model in models]
        )
        error = torch.rad2deg(phases - data.phase)
        error = error - 360 * torch.round(error / 360)
        degrees = torch.as_tensor(np.unwrap(torch.rad2deg(data.phase).numpy(), period=360))
        found.append(
            TriangleFit(
                "-".join(stations),
                data.time.numpy(),
                degrees.numpy(),
                torch.rad2deg(data.sigma).numpy(),
                (degrees + error).numpy(),
            )
        )
    return found


def _triangles(observation: Observation) -> list[tuple[str, str, str]]:
    """Names of the triangles whose three long baselines appear in most scans, at most `TRIANGLES`."""
    long = observation.uv_distance > ZERO_BASELINE
    counts: dict[tuple[int, int], int] = {}
    for a, b in torch.stack([observation.station1, observation.station2], 1)[long].tolist():
        pair = (min(a, b), max(a, b))
        counts[pair] = counts.get(pair, 0) + 1
    names = observation.stations
    seen = [
        (min(counts[(a, b)], counts[(b, c)], counts[(a, c)]), (names[a], names[b], names[c]))
        for a, b, c in combinations(range(len(names)), 3)
        if {(a, b), (b, c), (a, c)} <= counts.keys()
    ]
    return [stations for _, stations in sorted(seen, key=lambda item: -item[0])[:TRIANGLES]]


def triangle_figure(fits: Sequence[TriangleFit]) -> "Figure":
    """Closure phases against time: data with errors, and the samples' predictions."""
    columns = min(3, len(fits))
    rows = -(-len(fits) // columns)
    figure, axes = plots.new_figure(rows, columns, plots.WIDTH, 2.3 * rows)
    for ax in axes.flat[len(fits) :]:
        ax.set_axis_off()
    for ax, fit in zip(axes.flat, fits):
        ax.plot(fit.hours, fit.models.T, color=plots.BLUE, lw=0.7, alpha=0.25)
        ax.errorbar(fit.hours, fit.data, fit.sigma, fmt="o", ms=3.5, color=plots.INK, lw=1, capsize=0)
        plots.tidy(ax, fit.name, "hours (UTC)", "closure phase (deg)")
    return figure


def amplitude_figure(observation: Observation, models: Tensor) -> "Figure":
    """Visibility amplitudes against baseline length: data as they are, and the central 90 % of the samples."""
    figure, axes = plots.new_figure(1, 1, 7.5, 3.2)
    ax = axes[0, 0]
    length = observation.uv_distance.numpy() / 1e9
    low, high = np.quantile(models.abs().numpy(), (0.05, 0.95), axis=0)
    amplitude, sigma = observation.vis.abs().numpy(), observation.sigma.numpy()
    ax.errorbar(length, amplitude, sigma, fmt="o", ms=2.5, color=plots.INK, lw=0.7, alpha=0.75, label="data")
    ax.vlines(length, low, high, color=plots.BLUE, lw=3, alpha=0.45, label="90 % of samples")
    ax.set_yscale("log")
    ax.set_ylim(0.5 * float(np.quantile(amplitude, 0.02)), 1.5 * float(amplitude.max()))
    ax.legend(fontsize=8, frameon=False)
    plots.tidy(ax, "", "baseline length (Gλ)", "amplitude (Jy)")
    return figure
