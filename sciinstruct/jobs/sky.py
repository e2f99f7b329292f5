"""What a report of sky images holds beyond that of any image: ring parameters, alignment, world coordinates."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Posterior
from sciinstruct.core.posterior_io import json_safe
from sciinstruct.operators.interferometry import InterferometryLikelihood

if TYPE_CHECKING:
    from sciinstruct.calibration.quantities import Quantity
    from sciinstruct.calibration.report import ReportPaths

_RING = {
    "diameter": ("uas", None),
    "width": ("uas", None),
    "position_angle": ("deg", 360.0),
    "asymmetry": ("", None),
    "central_brightness": ("", None),
}

_CLOSURES_096 = {"closure_phase": 0.91, "log_closure_amplitude": 1.23}
_CLOSURES_101 = {"closure_phase": 0.82, "log_closure_amplitude": 0.65}
PEERS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits": {
        "eht-imaging": {**_CLOSURES_096, "diameter": 39.4, "width": 15.2, "position_angle": 152.0, "asymmetry": 0.25}
    },
    "SR1_M87_2017_101_lo_hops_netcal_StokesI.uvfits": {
        "eht-imaging": {**_CLOSURES_101, "diameter": 41.0, "width": 15.2, "position_angle": 167.0, "asymmetry": 0.20}
    },
}
"""One image of eht-imaging 1.3.2 (regularised maximum likelihood, 64 pixels) of a released file, 2 % noise budget."""


def ring_table(samples: Tensor, fov: float, truth: Tensor | None = None) -> dict[str, "Quantity"]:
    """Ring parameters of every sample, for the report; a sample that is no ring has none.

    Parameters
    ----------
    samples : Tensor, shape (S, 1, N, N)
        Brightness in any unit.
    fov : float
        Side of the images in microarcseconds.
    truth : Tensor, shape (1, N, N), optional
        True image.

    Returns
    -------
    dict of str to Quantity
        ``diameter``, ``width`` (uas), ``position_angle`` (deg East of North), ``asymmetry``, ``central_brightness``.
    """
    from sciinstruct.calibration.quantities import Quantity
    from sciinstruct.operators.interferometry.ring import extract_ring

    images = samples if truth is None else torch.cat([samples, truth[None].to(samples)])
    ring = extract_ring(images.float().cpu(), fov)
    table = {}
    for name, (unit, period) in _RING.items():
        values = torch.where(ring.is_ring, getattr(ring, name), math.nan)
        true = None if truth is None or not math.isfinite(values[-1]) else float(values[-1])
        table[name] = Quantity(values[: len(samples)], unit, true, period)
    return table


def field_of_view(posterior: Posterior) -> float:
    """Side of the images in microarcseconds, from their coordinates."""
    x = posterior.coordinates["x"][0]
    return float(abs(x[0] - x[1]) * len(x))


def sky_report(
    posterior: Posterior,
    folder: Path,
    problem: InverseProblem,
    truth: Tensor | None = None,
    peers: Mapping[str, Mapping[str, float]] | None = None,
) -> "ReportPaths":
    """Write the report of an interferometric reconstruction, images aligned, with ring table and FITS.

    Parameters
    ----------
    posterior, folder, problem, truth, peers
        See `sciinstruct.calibration.report.write_report`. The problem's likelihood is an `InterferometryLikelihood`.
    """
    from sciinstruct.calibration.report import write_report
    from sciinstruct.operators.interferometry.fits import write_posterior_fits
    from sciinstruct.operators.interferometry.metrics import align

    fov, likelihood = field_of_view(posterior), problem.likelihood
    if not isinstance(likelihood, InterferometryLikelihood):
        raise TypeError(f"problem must have an InterferometryLikelihood, got {type(likelihood).__name__}")

    def write_fits(kept: Posterior, path: Path) -> None:
        facts = json_safe(kept.attributes)
        write_posterior_fits(path, likelihood.to_jy(kept.samples), fov, likelihood.observation, facts)

    return write_report(
        posterior,
        folder,
        problem=problem,
        truth=truth,
        ring=ring_table(posterior.samples, fov, truth),
        peers=peers,
        align=align,
        write_fits=write_fits,
    )
