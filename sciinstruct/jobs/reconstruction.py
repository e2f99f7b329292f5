"""From an interferometric observation to posterior images and their report."""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core import FileFormatError, InverseProblem, Posterior, PriorError
from sciinstruct.jobs.sky import PEERS, sky_report
from sciinstruct.jobs.surroundings import claim, release, usable_device, writable_folder

if TYPE_CHECKING:
    from sciinstruct.calibration.report import ReportPaths
    from sciinstruct.inference.ppm import PPM
    from sciinstruct.operators.interferometry import Observation


@dataclass(frozen=True)
class JobResult:
    """What a reconstruction made.

    Parameters
    ----------
    posterior : Posterior
        Samples of relative brightness: pixels of mean 1 carry the compact flux.
    problem : InverseProblem
        What was solved.
    report : ReportPaths
        Where the report's parts are.
    seconds : float
        Wall time of the whole job.
    truth : Tensor, shape (1, N, N), optional
        The true image, where it is known.
    """

    posterior: Posterior
    problem: InverseProblem
    report: "ReportPaths"
    seconds: float
    truth: Tensor | None = None


def interferometry_problem(
    observation: "Observation",
    prior: str = "blackhole-32",
    *,
    flux: float = 0.6,
    systematic: float = 0.02,
    snr_min: float = 4.0,
    terms: str = "closures+flux",
    device: torch.device | str = "cpu",
) -> InverseProblem:
    """Put a prior and the likelihood of an observation together, on the prior's pixels and field of view.

    Parameters
    ----------
    observation : Observation
        As read from a file; averaging, noise budget and closures follow here.
    prior : str
        Name of a packaged prior, or a trained prior's folder. Its card must give the field of view.
    flux, systematic, snr_min, terms
        See `InterferometryLikelihood.from_observation`.
    device : torch.device or str
        Where prior and likelihood compute.

    Raises
    ------
    PriorError
        If there is no such prior, it is damaged, or it is not one of square single-channel sky images.
    """
    from sciinstruct import priors
    from sciinstruct.operators.interferometry import InterferometryLikelihood

    loaded = priors.load(prior).to(device)
    fov = loaded.card.pixel.get("fov_uas")
    channels, height, width = loaded.event_shape
    if fov is None or channels != 1 or height != width:
        raise PriorError(
            f"prior {prior!r} makes images {loaded.event_shape} with geometry {loaded.card.pixel}; an interferometric "
            "reconstruction needs (1, N, N) and 'fov_uas' in the card: train it with --fov"
        )
    likelihood = InterferometryLikelihood.from_observation(
        observation,
        npix=width,
        fov=fov,
        flux=flux,
        systematic=systematic,
        snr_min=snr_min,
        terms=terms,
        pulse="average",  # the priors' pixels are averages of finer ones
    ).to(device)
    offset = ((width - 1) / 2 - torch.arange(width, dtype=torch.float64)) * (fov / width)
    axis = (offset.numpy(), "uas")  # row 0 is North, column 0 is East: both offsets fall
    return InverseProblem(loaded, likelihood, coordinates={"y": axis, "x": axis}, name=observation.source)


def reconstruct_uvfits(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prior: str = "blackhole-32",
    n_samples: int = 256,
    seed: int = 0,
    device: str = "cpu",
    flux: float = 0.6,
    systematic: float = 0.02,
    snr_min: float = 4.0,
    terms: str = "closures+flux",
    progress: bool = True,
    resume: bool = False,
    solver: "PPM | None" = None,
) -> JobResult:
    """Posterior images of one UVFITS observation, with a report in `out`.

    Parameters
    ----------
    path : path
        Stokes I or parallel hands, one antenna table.
    out : path
        Folder for report, samples and checkpoint; made if missing.
    prior, flux, systematic, snr_min, terms
        See `interferometry_problem`.
    n_samples, seed : int
        Posterior samples, and the seed of all randomness.
    device : str
        As torch names it: cpu, cuda, cuda:1, mps.
    progress : bool
        Show progress bars.
    resume : bool
        Go on from the checkpoint an interrupted run left in `out`; all settings but these last ones must be the same.
    solver : PPM, optional
        Other settings than the default ones.

    Returns
    -------
    JobResult

    Raises
    ------
    FileFormatError
        If the file is missing, truncated or foreign.
    PriorError
        If the prior is unknown, damaged, or not one of sky images.
    OutputError
        If `out` cannot be written; nothing has been computed then.
    SciinstructError
        If the device cannot be used, or there is nothing to resume.
    SolverError
        If the solver fails.
    """
    from sciinstruct.operators.interferometry import Observation

    folder = writable_folder(out)
    source = Path(path)
    if not source.is_file():
        raise FileFormatError(f"no such file: {source}")
    observation = Observation.from_uvfits(source)
    return reconstruct_observation(
        observation,
        folder,
        prior=prior,
        n_samples=n_samples,
        seed=seed,
        device=device,
        flux=flux,
        systematic=systematic,
        snr_min=snr_min,
        terms=terms,
        progress=progress,
        resume=resume,
        solver=solver,
        about={"file": source.name, "file_sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
    )


def reconstruct_observation(
    observation: "Observation",
    out: str | os.PathLike[str],
    *,
    prior: str = "blackhole-32",
    n_samples: int = 256,
    seed: int = 0,
    device: str = "cpu",
    flux: float = 0.6,
    systematic: float = 0.02,
    snr_min: float = 4.0,
    terms: str = "closures+flux",
    progress: bool = True,
    resume: bool = False,
    solver: "PPM | None" = None,
    about: Mapping[str, Any] | None = None,
    truth: Tensor | None = None,
) -> JobResult:
    """As `reconstruct_uvfits`, from an observation in memory.

    Parameters
    ----------
    observation : Observation
        Read or simulated.
    about : dict, optional
        Where the data come from: kept in the posterior's provenance, and what a resumed run is compared with.
    truth : Tensor, shape (1, N, N), optional
        True image of relative brightness, for the report.
    """
    from sciinstruct.inference.ppm import PPM

    began = time.perf_counter()
    folder, where = writable_folder(out), usable_device(device)
    data: dict[str, Any] = {"flux": flux, "systematic": systematic, "snr_min": snr_min, "terms": terms}
    settings = {"prior": prior, **data, "seed": seed, **(about or {})}
    problem = interferometry_problem(observation, prior, **data, device=where)
    solver = solver or PPM.for_trained_prior(n_samples)
    checkpoint = claim(folder, {**settings, "solver": repr(solver)}, resume)
    posterior = solver.run(
        problem,
        n_samples,
        generator=torch.Generator(where).manual_seed(seed),
        progress=progress,
        checkpoint=checkpoint,
        resume=resume,
    )
    facts = {
        **posterior.attributes,
        **settings,
        "device": device,
        "unit": "mean brightness",
        "history": observation.history,
    }
    posterior = replace(posterior, samples=posterior.samples.cpu(), attributes=facts)
    report = sky_report(posterior, folder, problem, truth, PEERS.get(settings.get("file", "")))
    release(folder)
    return JobResult(posterior, problem, report, time.perf_counter() - began, truth)
