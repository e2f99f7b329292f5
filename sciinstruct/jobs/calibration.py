"""Is it calibrated? Samples that somebody brings, or a solver on problems whose truths are known."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, LinearOperator, Posterior, SciinstructError, Solver
from sciinstruct.jobs.surroundings import local_cluster, writable_folder

if TYPE_CHECKING:
    from sciinstruct.calibration import CalibrationReport
    from sciinstruct.calibration.study_report import StudyPaths


@dataclass(frozen=True)
class CalibrationResult:
    """What a calibration found, and where its page, JSON and ranks are."""

    report: "CalibrationReport"
    paths: "StudyPaths"


@dataclass(frozen=True)
class Exact:
    """Draws of the exact posterior behind a solver's verb: what a study of a right answer looks like."""

    def run(
        self,
        problem: InverseProblem,
        n_samples: int = 256,
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Posterior:
        """Return exact draws; the problem's prior is a Gaussian mixture, its operator linear or of two parameters."""
        from sciinstruct.priors.analytic import AnalyticPrior
        from sciinstruct.priors.exact import exact_posterior
        from sciinstruct.priors.problems import GridPosterior

        prior, likelihood = problem.prior, problem.likelihood
        assert isinstance(prior, AnalyticPrior)
        linear = isinstance(getattr(likelihood, "operator", None), LinearOperator)
        law = exact_posterior(prior, likelihood) if linear else GridPosterior(problem)  # type: ignore[arg-type]
        samples: Tensor = law.sample(n_samples, generator=generator)
        return Posterior(samples, attributes={"solver": "exact"})


def solvers(problem: str) -> dict[str, Solver]:
    """Solvers by name, set for one of `sciinstruct.priors.problems.PROBLEMS`: exact draws, PPM and every baseline."""
    from sciinstruct.inference import PPM, Mixture, baselines

    plane = Mixture(components=32, rank=None, laplace_levels=())
    field = Mixture(components=32, rank=32, laplace_levels=(0.6, 0.2))
    matching = (
        PPM(family=field, steps=100, batch=96, groups=3, weight_rounds=384)
        if "x" in problem.split(" ")[0]
        else PPM(family=plane, steps=400, batch=128, anneal_from=2.5, sigma_min=0.05, sigma_max=30.0, weight_rounds=256)
    )
    found: dict[str, Solver] = {"exact": Exact(), "PPM": matching}
    classes = {name: getattr(baselines, name) for name in baselines.__all__}
    return found | {name: one() for name, one in classes.items() if isinstance(one, type) and hasattr(one, "run")}


def calibrate_files(
    samples: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    kind: str = "held-out",
    chains: int | None = None,
) -> CalibrationResult:
    """Test samples from a file against truths from a file, and write the report.

    Parameters
    ----------
    samples, truth : path
        See `sciinstruct.calibration.files.read_events`.
    out : path
        Folder for the report; made if missing.
    kind, chains
        See `sciinstruct.calibration.calibrate`.

    Returns
    -------
    CalibrationResult

    Raises
    ------
    FileFormatError
        If a file cannot be read.
    ValueError
        If samples and truths do not fit.
    OutputError
        If `out` cannot be written.
    """
    from sciinstruct.calibration import calibrate, write_study
    from sciinstruct.calibration.files import read_events

    folder = writable_folder(out)
    report = calibrate(*read_events(samples, truth), kind=kind, chains=chains)
    return CalibrationResult(report, write_study(report, folder, name=f"Samples of {Path(samples).name}"))


def calibrate_solver(
    problem: str,
    solver: str,
    out: str | os.PathLike[str],
    *,
    n: int = 100,
    n_samples: int = 64,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> CalibrationResult:
    """Run a solver on many draws of a packaged problem, test it against the truths, and write the report.

    What was drawn stays in ``out/draws``: the same call goes on where a killed one stopped.

    Parameters
    ----------
    problem : str
        A name of `sciinstruct.priors.problems.PROBLEMS`.
    solver : str
        A name of `solvers`; case and hyphens do not matter.
    out : path
        Folder for draws and report; made if missing.
    n, n_samples, seed, progress
        See `sciinstruct.calibration.run_study`.
    workers : int
        Processes of a local Dask cluster; 0 runs in this one. The numbers are the same.

    Returns
    -------
    CalibrationResult

    Raises
    ------
    SciinstructError
        If problem or solver is unknown, `out` holds another study, or Dask is not installed.
    SolverError
        If the solver fails.
    """
    from sciinstruct.calibration import run_study
    from sciinstruct.priors.problems import PROBLEMS

    if problem not in PROBLEMS:
        raise SciinstructError(f"no problem {problem!r}; there are {', '.join(PROBLEMS)}")
    known = {_plain(name): (name, one) for name, one in solvers(problem).items()}
    if _plain(solver) not in known:
        raise SciinstructError(f"no solver {solver!r}; there are {', '.join(name for name, _ in known.values())}")
    name, chosen = known[_plain(solver)]
    folder, title = writable_folder(out), f"{name} on {problem}"
    with local_cluster(workers) as client:
        run = run_study(
            chosen,
            PROBLEMS[problem],
            folder=folder,
            n=n,
            samples=n_samples,
            seed=seed,
            name=title,
            client=client,
            progress=progress,
        )
    return CalibrationResult(run.report, run.paths)


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").casefold()
