"""The report of a calibration study: HTML, JSON, ranks and maps."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinstruct.calibration import plots
from sciinstruct.calibration.bands import bootstrap_band, ecdf, ecdf_band
from sciinstruct.calibration.page import staging, write_json, write_page
from sciinstruct.calibration.pictures import Section
from sciinstruct.calibration.ranks import LEVELS, coverage_from_ranks, rank_histogram
from sciinstruct.calibration.study import CalibrationReport
from sciinstruct.calibration.summary import versions

if TYPE_CHECKING:
    import xarray

SCHEMA_VERSION = "1.0"


@dataclass(frozen=True)
class StudyPaths:
    """Where the parts of a study's report are."""

    html: Path
    json: Path
    ranks: Path


def write_study(
    report: CalibrationReport, folder: str | os.PathLike[str], *, name: str = "Calibration study"
) -> StudyPaths:
    """Write ``study.html``, ``study.json`` and ``ranks.nc`` into `folder`, all or none.

    Parameters
    ----------
    report : CalibrationReport
        From `calibrate`.
    name : str
        Title of the page: method and problem.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    content = study_content(report, name)
    with staging(Path(folder)) as stage:
        write_page(stage / "study.html", "study.html.j2", title=name, report=content, sections=_sections(report))
        write_json(stage / "study.json", content)
        _rank_dataset(report).to_netcdf(stage / "ranks.nc", engine="h5netcdf")
    home = Path(folder)
    return StudyPaths(home / "study.html", home / "study.json", home / "ranks.nc")


def study_content(report: CalibrationReport, name: str) -> dict[str, Any]:
    """Everything the study found, JSON-able."""
    return {
        "schema": "sciinstruct-study",
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "kind": report.kind,
        "versions": versions(),
        "overall": report.status,
        "verdicts": [verdict.to_dict() for verdict in report.verdicts],
        **report.numbers,
    }


def compare(reports: Mapping[str, CalibrationReport]) -> list[dict[str, Any]]:
    """One row per method: the numbers worth putting side by side. The smallest p is Holm-corrected."""
    return [
        {
            "method": name,
            "status": report.status,
            "n": report.n,
            "pixel_coverage_error": report.numbers["coverage"]["mean_error"]["pixels, all"],
            "smallest_p": min(report.numbers["p_values"].values()),
            "chi2": {term: value["mean"] for term, value in report.numbers.get("chi2", {}).items()},
            "stein_ratio": report.numbers.get("stein", {}).get("ratio"),
            "crps": report.numbers["crps"],
            "energy_score": report.numbers["energy_score"],
            "rmse_of_mean": report.numbers["rmse_of_mean"],
        }
        for name, report in reports.items()
    ]


def _rank_dataset(report: CalibrationReport) -> "xarray.Dataset":
    import xarray

    ranks = torch.stack(list(report.ranks.values())).cpu().numpy()
    pixels = report.pit_map.float().cpu().numpy()
    axes = tuple(f"event_{i}" for i in range(report.mean_z.ndim))
    data = {
        "ranks": (("quantity", "observation"), ranks),
        "pixel_ranks": (("observation", *axes), pixels),
        "mean_z": (axes, report.mean_z.cpu().numpy()),
    }
    attrs = {"n_samples": report.n_samples, "kind": report.kind}
    return xarray.Dataset(data, {"quantity": list(report.ranks)}, attrs)


def _sections(report: CalibrationReport) -> list[Section]:
    curves = {name: coverage_from_ranks(rank).tolist() for name, rank in list(report.pixel_ranks.items())[:4]}
    coverage = plots.coverage_curve(LEVELS, curves, np.asarray(report.numbers["coverage"]["pixels_by_chance"]))
    counts = {name: rank_histogram(rank, report.n_samples).numpy() for name, rank in report.ranks.items()}
    skill = plots.spread_skill_plot(report.skill.spread.cpu().numpy(), report.skill.rmse.cpu().numpy())
    found = [
        (
            "coverage",
            "Pixel coverage",
            "Share of true pixels inside the central interval of each level, from ranks. On the diagonal: intervals "
            "hold what they say; below: too narrow; above: too wide. Grey: where 95 % of right methods fall with so "
            "many observations, the correlation of pixels included.",
            coverage,
        ),
        (
            "ecdf",
            "Ranks of scalar quantities",
            "Distribution of the truth's rank minus the uniform one, with the 95 % band for all ranks at once (for "
            "pixels: bootstrap over observations). For pixels and flux a hump left of a dip says too narrow, the "
            "reverse too wide, one sign a bias. For log-likelihood, log-prior and TARP, which measure a distance, one "
            "sign says too narrow or too wide.",
            _ecdf_figure(report),
        ),
        ("histograms", "Rank histograms", "Grey: 95 % band of one bar.", plots.rank_histograms(counts, report.n)),
        (
            "skill",
            "Error against predicted error",
            "Pixels of all observations, in bins of predicted error. Above the line: too narrow.",
            skill,
        ),
    ]
    if report.mean_z.ndim in (2, 3):
        found.append(_maps(report))
    return [Section(anchor, title, caption, *plots.embed(figure)) for anchor, title, caption, figure in found]


def _maps(report: CalibrationReport) -> tuple[str, str, str, Any]:
    """Where in the image errors lie: first channel of the mean z, the mean rank, and the 90 % coverage."""
    n = report.n
    ranks = report.pit_map
    inside = torch.where(ranks.isnan(), torch.nan, ((2 * ranks - 1).abs() <= 0.9).double())
    layers = [
        ("error over predicted sd", report.mean_z, 0.0, 1.0),
        ("rank of the truth", ranks.mean(0), 0.5, (1 / 12) ** 0.5),
        ("share inside 90 % interval", inside.mean(0), 0.9, 0.3),
    ]
    figure, axes = plots.new_figure(1, len(layers), plots.WIDTH, 3.2)
    for ax, (title, image, centre, sd) in zip(axes[0], layers):
        z = image.detach().cpu().numpy()
        z = np.where(np.isfinite(z), z, np.nan)
        z = z if z.ndim == 2 else z[0]
        reach = max(4 * sd / n**0.5, float(np.nanmax(np.abs(z - centre), initial=0.0)))
        frame = plots.Frame(np.arange(z.shape[1]), np.arange(z.shape[0]), "pixel")
        limits = (centre - reach, centre + reach)
        plots.show_image(ax, z, frame, title=title, cmap=plots.SIGNED, limits=limits, label="")
    caption = (
        f"Averages over {n} observations; featureless is good. Chance alone moves a pixel by {2 / n**0.5:.2f}, "
        f"{2 * (1 / 12) ** 0.5 / n**0.5:.2f} and {2 * 0.3 / n**0.5:.2f} (two standard errors)."
    )
    return "maps", "Where in the image", caption, figure


def _ecdf_figure(report: CalibrationReport) -> Any:
    band = ecdf_band(report.n, report.n_samples)
    panels = {name: (band.z, ecdf(rank, band.z), band.low, band.high) for name, rank in report.ranks.items()}
    pooled = report.pixel_ranks["all"]
    centre = ecdf(pooled, band.z)
    low, high = bootstrap_band(pooled, band.z, generator=torch.Generator().manual_seed(0))
    panels["pixels (pooled)"] = (band.z, centre, low - centre + band.z, high - centre + band.z)
    return plots.ecdf_differences(panels)
