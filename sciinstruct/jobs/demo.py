"""The whole path on a simulated sky whose truth is known."""

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciinstruct.core import PriorError, randn_like
from sciinstruct.jobs.reconstruction import JobResult, reconstruct_observation
from sciinstruct.jobs.surroundings import usable_device, writable_folder

if TYPE_CHECKING:
    from sciinstruct.inference.ppm import PPM
    from sciinstruct.operators.interferometry import Observation

FLUX = 0.6
"""Compact flux in Jy, that of M87* in 2017."""
NON_CLOSING = 0.02
"""Error of each visibility that no station gain explains, as a fraction of its amplitude."""
_FINER = 4
_SEED_OF_THE_SKY = 2**20  # keeps sky and solver from drawing the same numbers


def demo(
    out: str | os.PathLike[str],
    *,
    npix: int = 32,
    n_samples: int = 256,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    resume: bool = False,
    solver: "PPM | None" = None,
) -> JobResult:
    """Observe a simulated black hole with the EHT of 2017, reconstruct it, and report with the truth beside.

    The sky is a ring the packaged prior has not seen, drawn on four times finer pixels than the reconstruction's.

    Parameters
    ----------
    out, n_samples, seed, device, progress, resume, solver
        As in `reconstruct_uvfits`; `seed` also chooses sky, gains and noise.
    npix : int
        Pixels on a side: 32 or 64, the sizes of the packaged priors.

    Returns
    -------
    JobResult
        With `truth`.
    """
    from sciinstruct import priors

    writable_folder(out)
    usable_device(device)
    name, packaged = f"blackhole-{npix}", priors.available()
    if name not in packaged:
        raise PriorError(f"no packaged prior {name!r} for npix {npix}; packaged are {', '.join(packaged) or 'none'}")
    fov = float(priors.card(name).pixel["fov_uas"])
    observation, truth = simulated_twin(npix, fov, torch.Generator().manual_seed(_SEED_OF_THE_SKY + seed))
    return reconstruct_observation(
        observation,
        out,
        prior=name,
        n_samples=n_samples,
        seed=seed,
        device=device,
        flux=FLUX,
        systematic=NON_CLOSING,
        progress=progress,
        resume=resume,
        solver=solver,
        about={"simulated": "m-ring, EHT 2017, gains"},
        truth=truth,
    )


def simulated_twin(npix: int, fov: float, generator: torch.Generator) -> tuple["Observation", Tensor]:
    """Draw a ring and observe it as `observe_like_m87` does; return the observation and the truth (1, npix, npix)."""
    from sciinstruct.datasets.blackholes import simulate_blackholes

    fine = simulate_blackholes(1, _FINER * npix, fov, weights={"m_ring": 1.0}, generator=generator).images
    truth = torch.nn.functional.avg_pool2d(fine, _FINER)[0]
    return observe_like_m87(fine, fov, generator), truth


def observe_like_m87(image: Tensor, fov: float, generator: torch.Generator) -> "Observation":
    """Observe an image as the EHT observed M87* on 11 April 2017: 22 scans, seven stations, gains, noise.

    Visibilities get the thermal noise of a scan average, 2 % of non-closing error, a phase per station and scan that is
    unknown, and amplitude gains of 10 % per station and per scan (LMT 30 %; none for ALMA, APEX, JCMT and SMA, which
    network calibration ties to the known flux through their neighbours).

    Parameters
    ----------
    image : Tensor, shape (1, 1, N, N)
        Relative brightness, mean 1; finer pixels than those of a reconstruction keep it honest.
    fov : float
        Side of the image in microarcseconds.
    generator : torch.Generator
        Of gains and noise.

    Returns
    -------
    Observation
        One row per scan and baseline.
    """
    from sciinstruct.operators.interferometry import VisibilityOperator
    from sciinstruct.operators.interferometry.arrays import eht2017
    from sciinstruct.operators.interferometry.simulation import (
        GainModel,
        Schedule,
        plan_observation,
        simulate_observation,
    )

    schedule = Schedule.regular(57854.0, start=0.534, n_scans=22, scan_length=345.0, gap=825.0)
    plan = plan_observation(
        eht2017(), schedule, ra=187.7059307575226, dec=12.39112323919932, frequency=227.070703125e9, bandwidth=1.856e9
    ).scan_average()
    npix = image.shape[-1]
    sky = image.double() * (FLUX / npix**2)

    def visibilities(u: Tensor, v: Tensor) -> Tensor:
        vis = VisibilityOperator(u, v, npix, fov, "rect")(sky)[0]
        error = torch.view_as_complex(randn_like(torch.view_as_real(vis), generator))
        return vis + NON_CLOSING * vis.abs() * error

    tied = dict.fromkeys(("AA", "AP", "JC", "SM"), 0.0)
    return simulate_observation(visibilities, plan, GainModel(station_std={"LM": 0.3, **tied}), generator).observation
