"""What a report of sky images holds beyond that of any image: ring parameters, alignment, world coordinates."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Posterior

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
    ring = extract_ring(images.double().cpu(), fov)
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
    posterior: Posterior, folder: Path, problem: InverseProblem, truth: Tensor | None = None
) -> "ReportPaths":
    """Write the report of a sky reconstruction, whose coordinates tell the field of view; see `write_report`."""
    from sciinstruct.calibration.report import write_report

    return write_report(
        posterior,
        folder,
        problem=problem,
        truth=truth,
        ring=ring_table(posterior.samples, field_of_view(posterior), truth),
    )
