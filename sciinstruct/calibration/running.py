"""Run a solver on many problems with known truths, in one process or over Dask, and calibrate what it says."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sciinstruct.calibration.draws import Draw, described, path_of, read_draw, write_draw
from sciinstruct.calibration.report import on_cpu
from sciinstruct.calibration.study import MIN_OBSERVATIONS, MIN_SAMPLES, CalibrationReport, Statistic, calibrate
from sciinstruct.calibration.study_report import StudyPaths, write_study
from sciinstruct.core import Denoiser, InverseProblem, Solver, SolverError, track
from sciinstruct.core.workers import fixed_threads, map_as_done
from sciinstruct.priors.analytic import AnalyticPrior

if TYPE_CHECKING:
    from distributed import Client

_STEIN_LEVEL = 1e-4  # noise of an exact prior's score, in truths' standard deviations: below any posterior's scale
_CHUNK = 64  # images a denoiser sees at once
_ENERGY_LEVELS = (0.1, 0.4)  # noise at which a denoiser without density judges texture, in the same unit


class KnownProblem(Protocol):
    """What a problem family returns for a seed: `sciinstruct.priors.problems.ExactProblem` is one."""

    @property
    def problem(self) -> InverseProblem:
        """Prior and likelihood with its data."""
        ...

    @property
    def truth(self) -> Tensor:
        """The image the data were made from, (1, *event_shape) or (*event_shape), in the likelihood's units."""
        ...


Family = Callable[[int], KnownProblem]


@dataclass(frozen=True)
class StudyRun:
    """What `run_study` made.

    Parameters
    ----------
    report : CalibrationReport
    paths : StudyPaths
        The report's page, JSON and ranks.
    samples : Tensor, shape (N, S, *event_shape)
    truth : Tensor, shape (N, *event_shape)
    seconds : Tensor, shape (N,)
        The solver's wall time per problem.
    """

    report: CalibrationReport
    paths: StudyPaths
    samples: Tensor
    truth: Tensor
    seconds: Tensor


def run_study(
    solver: Solver,
    problems: Family,
    *,
    folder: str | os.PathLike[str],
    n: int = 100,
    samples: int = 64,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    kind: str = "self-consistency",
    quantities: Mapping[str, Statistic] | None = None,
    features: Mapping[str, Callable[[KnownProblem], float]] | None = None,
    regions: Mapping[str, Tensor] | None = None,
    name: str | None = None,
    client: "Client | None" = None,
    threads: int = 1,
    progress: bool = False,
) -> StudyRun:
    """Solve `n` problems with known truths, test the samples against the truths, and write the report.

    Every problem's draws are kept in ``folder/draws`` as they come. A study that was killed goes on from there when
    called again; a longer one (`n` raised) adds to it.

    Parameters
    ----------
    solver : Solver
    problems : callable
        Seed -> an object with ``problem`` (an InverseProblem) and ``truth``. One prior for the whole family; the same
        seed must give the same problem.
    folder : path
        For draws and report; made if missing.
    n : int
        Problems, with seeds ``seed`` to ``seed + n - 1``. 16 at least; 100 for a verdict worth its name.
    samples : int
        Posterior samples per problem; 8 at least, 64 for fine ranks.
    dtype : torch.dtype, optional
        Handed to ``solver.run``, where the solver takes one.
    kind : {"self-consistency", "held-out"}
        Where the truths come from: the method's own prior, or elsewhere.
    quantities, regions
        As in `calibrate`.
    features : dict of callable, optional
        Numbers known from the data alone (signal-to-noise, say), problem -> float: ranks are tested apart for low,
        middle and high ones.
    name : str, optional
        Title of the report.
    client : distributed.Client, optional
        Solve over a Dask cluster; ``solver`` and ``problems`` must pickle. The numbers are those of one process.
    threads : int
        CPU threads of torch while a problem is solved, here or in a worker.
    progress : bool
        Show a bar.

    Returns
    -------
    StudyRun

    Raises
    ------
    ValueError
        If `n` or `samples` is too small, or a truth does not fit the prior.
    SciinstructError
        If `folder` holds the draws of another study.
    SolverError
        If the solver fails; the text names the seed. Draws made so far stay.
    OutputError
        If `folder` cannot be written.
    """
    home, seeds = Path(folder), range(seed, seed + n)
    _check_size(n, samples)
    settings = {"solver": described(solver), "samples": samples, "dtype": str(dtype)}
    known = {k: problems(k) for k in seeds}
    draws = {k: read_draw(path_of(home, k), settings, *_mark(known[k])) for k in seeds if path_of(home, k).exists()}
    missing = [k for k in seeds if k not in draws]
    solve = partial(_solve, solver=solver, problems=problems, samples=samples, dtype=dtype, threads=threads)
    arriving = map_as_done(solve, missing, client)
    for k, draw in track(arriving, progress=progress, description="problems", total=len(missing)):
        write_draw(path_of(home, k), draw, settings)
        draws[k] = draw
    done, images = list(known.values()), torch.stack([draws[k].samples for k in seeds])
    truth = torch.stack([draws[k].truth for k in seeds])
    measured = {key: torch.tensor([float(feature(item)) for item in done]) for key, feature in (features or {}).items()}
    extra = {"quantities": quantities or {}, "regions": regions, "features": measured or None}
    report = _calibrated(done, images, truth, kind, extra)
    title = name or f"{type(solver).__name__} on {getattr(problems, '__name__', 'problems')}"
    paths = write_study(report, home, name=title)
    return StudyRun(report, paths, images, truth, torch.tensor([draws[k].seconds for k in seeds]))


def _check_size(n: int, samples: int) -> None:
    if n < MIN_OBSERVATIONS:
        raise ValueError(f"n must be at least {MIN_OBSERVATIONS} problems, got {n}; 100 for a verdict worth its name")
    if samples < MIN_SAMPLES:
        raise ValueError(f"samples must be at least {MIN_SAMPLES} per problem, got {samples}")


def _truth(known: KnownProblem) -> Tensor:
    """The truth as one event on the CPU."""
    shape, truth = tuple(known.problem.prior.event_shape), known.truth.detach().cpu()
    if tuple(truth.shape) not in (shape, (1, *shape)):
        raise ValueError(f"truth must have the prior's shape {shape}, got {tuple(truth.shape)} from the problem family")
    return truth.reshape(shape).contiguous()


def _mark(known: KnownProblem) -> tuple[Tensor, float]:
    """What tells one problem from another: its truth, and how its data like it."""
    truth = _truth(known)
    device = _device(known.problem)
    with torch.no_grad():
        return truth, float(known.problem.likelihood.log_prob(truth[None].to(device)))


def solver_seed(seed: int) -> int:
    """Seed of the solver on the problem of `seed`: unrelated to the numbers that made truth and noise."""
    return int(np.random.SeedSequence((seed, 0x50C1)).generate_state(1, np.uint64)[0])


def _solve(
    k: int, solver: Solver, problems: Family, samples: int, dtype: torch.dtype | None, threads: int
) -> tuple[int, Draw]:
    """Solve one problem. All that a worker does: what it draws depends on `k` alone."""
    with fixed_threads(threads):
        known = problems(k)
        generator = torch.Generator(_device(known.problem)).manual_seed(solver_seed(k))
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        began = time.perf_counter()
        try:
            posterior = solver.run(known.problem, samples, generator=generator, **options)
        except SolverError as error:
            raise SolverError(f"problem of seed {k}: {error}") from error
        seconds = time.perf_counter() - began
        return k, Draw(posterior.samples.detach().cpu(), *_mark(known), seconds)


def _device(problem: InverseProblem) -> torch.device:
    for part in (problem.prior, problem.likelihood):
        for tensor in (*part.parameters(), *part.buffers()):
            return tensor.device
    return torch.device("cpu")


def _calibrated(
    known: Sequence[KnownProblem], samples: Tensor, truth: Tensor, kind: str, extra: Mapping[str, Any]
) -> CalibrationReport:
    """Every test the family's prior and likelihoods allow, in float64."""
    truth, prior = truth.double(), on_cpu(known[0].problem).prior
    laws: dict[str, Any] = {}
    if isinstance(prior, AnalyticPrior):
        laws = _exact_laws(prior, truth)
    else:
        extra = {**extra, "quantities": {**prior_energies(prior, truth), **extra["quantities"]}}
    likelihoods = [on_cpu(item.problem).likelihood for item in known]
    return calibrate(samples.double(), truth, likelihoods=likelihoods, kind=kind, **laws, **extra)


def _exact_laws(prior: AnalyticPrior, truth: Tensor) -> dict[str, Statistic]:
    """Log-density and score of an exact prior for physical images."""
    sigma = _STEIN_LEVEL * float(prior.from_physical(truth).var(0).mean().sqrt())
    return {
        "log_prior": lambda x: prior.log_prob(prior.from_physical(x)),
        "prior_score": lambda x: prior.score(prior.from_physical(x), sigma) / prior.scale,
    }


def prior_energies(prior: Denoiser, truth: Tensor) -> dict[str, Statistic]:
    r"""How far a denoiser moves an image, :math:`\|x - D(x, \sigma)\|^2`: a test of texture where no density is known.

    Parameters
    ----------
    prior : Denoiser
    truth : Tensor, shape (N, *event_shape)
        Typical images, in physical units: their spread sets two noise levels, a tenth and four tenths of it.

    Returns
    -------
    dict of callable
        Images (B, *event_shape), in physical units -> (B,).
    """
    spread = float(prior.from_physical(truth).var(0).mean().sqrt())

    def energy(sigma: float) -> Statistic:
        def of(images: Tensor) -> Tensor:
            return torch.cat([_moved(prior, part, sigma) for part in images.split(_CHUNK)]).to(images)

        return of

    low, high = prior.sigma_range
    return {
        f"change by denoising, {level:g} sd": energy(min(max(level * spread, low), high)) for level in _ENERGY_LEVELS
    }


def _moved(prior: Denoiser, images: Tensor, sigma: float) -> Tensor:
    """Squared change by denoising, (B,); infinite for an image that the prior's units cannot express."""
    try:
        z = prior.from_physical(images).float()
    except ValueError:
        if len(images) == 1:
            return images.new_full((1,), torch.inf)
        return torch.cat([_moved(prior, image[None], sigma) for image in images])
    return (z - prior.denoise(z, sigma)).flatten(1).square().sum(1).to(images)
