"""Studies that run a solver: killed and gone on, over Dask as in one process, refused where they do not belong."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from sciinstruct.calibration import running
from sciinstruct.calibration.running import prior_energies, run_study, solver_seed
from sciinstruct.calibration.study_report import StudyPaths
from sciinstruct.core import Denoiser, InverseProblem, Likelihood, Posterior, SciinstructError, SolverError
from sciinstruct.inference.baselines.dps import DPS
from sciinstruct.operators.mask import PixelMask
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.exact import exact_posterior
from sciinstruct.priors.problems import fields_16, mixture_2d

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Exact:
    """Draws of the exact posterior, `width` times as wide about their mean, `bias` standard deviations off."""

    width: float = 1.0
    bias: float = 0.0
    stop_at: int | None = field(default=None, repr=False)  # Ctrl-C at this problem
    fail_at: int | None = field(default=None, repr=False)

    def run(self, problem, n_samples=256, *, generator=None, progress=False, callback=None):
        seed = int(problem.name.rsplit(" ", 1)[-1])
        if seed == self.stop_at:
            raise KeyboardInterrupt
        if seed == self.fail_at:
            raise SolverError("the loss is nan at step 3")
        x = exact_posterior(problem.prior, problem.likelihood).sample(n_samples, generator=generator)
        return Posterior(x.mean(0) + self.width * (x - x.mean(0)) + self.bias * x.std(0))


@pytest.fixture(autouse=True)
def pages(monkeypatch, request):
    """Most of these tests are not about the page, which takes two seconds to draw."""
    if "real_page" not in request.fixturenames:
        monkeypatch.setattr(running, "write_study", lambda report, folder, name: StudyPaths(*[Path(folder)] * 3))


@pytest.fixture
def real_page():
    """The report is written."""


def drawn(folder):
    return {path.name: path.read_bytes() for path in sorted((Path(folder) / "draws").iterdir())}


def test_a_study_of_exact_draws_is_not_rejected(tmp_path, real_page):
    run = run_study(Exact(), mixture_2d, folder=tmp_path, n=64, samples=32)
    assert [v.check for v in run.report.verdicts if v.status == "fail"] == []
    assert run.samples.shape == (64, 32, 2) and run.truth.shape == (64, 2) and run.seconds.shape == (64,)
    assert run.paths.html.is_file() and "Exact on mixture_2d" in run.paths.html.read_text()
    assert {"log prior", "log likelihood", "TARP, data"} <= set(run.report.ranks) and "stein" in run.report.numbers


def test_ctrl_c_keeps_what_was_done_and_the_rest_is_drawn_alike(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_study(Exact(stop_at=9), mixture_2d, folder=tmp_path / "a", n=16, samples=8)
    assert len(drawn(tmp_path / "a")) == 9 and not (tmp_path / "a" / "study.html").exists()
    resumed = run_study(Exact(), mixture_2d, folder=tmp_path / "a", n=16, samples=8)
    afresh = run_study(Exact(), mixture_2d, folder=tmp_path / "b", n=16, samples=8)
    assert torch.equal(resumed.samples, afresh.samples)
    assert resumed.report.numbers == afresh.report.numbers


SCRIPT = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from sciinstruct.calibration import running
from sciinstruct.calibration.running import run_study
from sciinstruct.priors.problems import mixture_2d
from study_of_a_slow_solver import Slow
torch.set_num_threads(1)
run_study(Slow(), mixture_2d, folder={folder!r}, n=16, samples=8)
"""
SLOW = """
import time
from dataclasses import dataclass
from sciinstruct.core import Posterior
from sciinstruct.priors.exact import exact_posterior

@dataclass(frozen=True)
class Slow:
    def run(self, problem, n_samples=256, *, generator=None, progress=False, callback=None):
        time.sleep(0.05)
        return Posterior(exact_posterior(problem.prior, problem.likelihood).sample(n_samples, generator=generator))
"""


def test_a_killed_process_leaves_whole_draws_and_the_next_goes_on(tmp_path, monkeypatch):
    (tmp_path / "study_of_a_slow_solver.py").write_text(SLOW)
    folder = tmp_path / "out"
    code = SCRIPT.format(tests=str(tmp_path), folder=str(folder))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(folder.glob("draws/problem-*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: content for name, content in drawn(folder).items() if name.startswith("problem-")}
    assert 0 < len(before) < 16
    monkeypatch.syspath_prepend(str(tmp_path))
    from study_of_a_slow_solver import Slow

    half = folder / "draws" / ".problem-00000015.safetensors.left.safetensors"
    half.write_bytes(b"what a kill in the middle of writing leaves")
    resumed = run_study(Slow(), mixture_2d, folder=folder, n=16, samples=8)
    after = drawn(folder)
    assert len(after) == 16 and not half.exists()
    assert all(after[name] == content for name, content in before.items())
    afresh = run_study(Slow(), mixture_2d, folder=tmp_path / "afresh", n=16, samples=8)
    assert torch.equal(resumed.samples, afresh.samples)
    assert resumed.report.numbers == afresh.report.numbers


def test_a_longer_study_keeps_the_shorter_ones_draws(tmp_path):
    run_study(Exact(), mixture_2d, folder=tmp_path, n=16, samples=8)
    before = drawn(tmp_path)
    longer = run_study(Exact(), mixture_2d, folder=tmp_path, n=20, samples=8)
    assert longer.report.n == 20 and before.items() <= drawn(tmp_path).items()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"solver": Exact(width=0.5)}, "solver was"),
        ({"samples": 9}, "samples was 8, now 9"),
        ({"problems": lambda k: fields_16("mask", k)}, "another truth or other data"),
    ],
)
def test_a_folder_of_another_study_is_refused(tmp_path, change, text):
    run_study(Exact(), lambda k: fields_16("blur", k), folder=tmp_path, n=16, samples=8)
    arguments = {"solver": Exact(), "problems": lambda k: fields_16("blur", k), "samples": 8} | change
    with pytest.raises(SciinstructError, match=text):
        run_study(arguments.pop("solver"), arguments.pop("problems"), folder=tmp_path, n=16, **arguments)


def test_a_damaged_draw_is_named(tmp_path):
    run_study(Exact(), mixture_2d, folder=tmp_path, n=16, samples=8)
    path = tmp_path / "draws" / "problem-00000003.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SciinstructError, match="problem-00000003.safetensors is no draw of a study or damaged"):
        run_study(Exact(), mixture_2d, folder=tmp_path, n=16, samples=8)


def test_a_solver_that_fails_names_the_seed_and_leaves_the_others(tmp_path):
    with pytest.raises(SolverError, match="problem of seed 5: the loss is nan"):
        run_study(Exact(fail_at=5), mixture_2d, folder=tmp_path, n=16, samples=8)
    assert len(drawn(tmp_path)) == 5


@pytest.mark.parametrize("change, text", [({"n": 15}, "n must be at least 16"), ({"samples": 7}, "at least 8")])
def test_too_small_a_study_is_refused_at_once(tmp_path, change, text):
    with pytest.raises(ValueError, match=text):
        run_study(Exact(), mixture_2d, folder=tmp_path, **({"n": 16, "samples": 8} | change))
    assert not (tmp_path / "draws").exists()


def test_threads_are_as_they_were(tmp_path):
    torch.set_num_threads(2)
    run_study(Exact(), mixture_2d, folder=tmp_path, n=16, samples=8)
    assert torch.get_num_threads() == 2


def test_the_solver_does_not_draw_the_truths_numbers():
    truth = torch.randn(4, generator=torch.Generator().manual_seed(7))
    assert not torch.equal(torch.randn(4, generator=torch.Generator().manual_seed(solver_seed(7))), truth)
    assert len({solver_seed(k) for k in range(1000)}) == 1000


class Shrink(Denoiser):
    """Denoiser of a unit Gaussian, its density kept to itself."""

    event_shape, sigma_range, scale = (1, 1, 3), (0.01, 10.0), 2.0

    def denoise(self, x, sigma):
        return x / (1 + sigma**2)


def test_energy_of_a_gaussians_denoiser_is_the_squared_norm(generator):
    images = 2 * torch.randn(200, 1, 1, 3, generator=generator, dtype=torch.float64)
    sd = float((images / 2).var(0).mean().sqrt())
    for level, found in zip((0.1, 0.4), prior_energies(Shrink(), images).values()):
        part = (level * sd) ** 2 / (1 + (level * sd) ** 2)
        torch.testing.assert_close(found(images), ((images / 2) * part).square().flatten(1).sum(1), rtol=1e-3, atol=0)


def test_an_image_that_the_prior_cannot_express_ranks_last(generator):
    class Positive(Shrink):
        def from_physical(self, image):
            if image.min() <= 0:
                raise ValueError("images must stay above 0")
            return image.log()

    images = torch.rand(8, 1, 1, 3, generator=generator) + 0.1
    energy = next(iter(prior_energies(Positive(), images).values()))
    both = torch.cat([images, -images[:1]])
    assert energy(both)[-1] == torch.inf and torch.equal(energy(both)[:-1], energy(images))


def test_a_prior_without_density_is_judged_by_its_denoiser(tmp_path):
    class Known:
        def __init__(self, k):
            g = torch.Generator().manual_seed(k)
            self.truth = 2 * torch.randn(1, 1, 1, 3, generator=g)
            operator = PixelMask(torch.tensor([[True, True, False]]))
            y = operator(self.truth)
            y = y + 0.5 * torch.randn(y.shape, generator=g)
            self.problem = InverseProblem(Shrink(), Likelihood(operator, 0.5, y[0]), name=f"seed {k}")

    class FromPrior:
        def run(self, problem, n_samples=256, *, generator=None, progress=False, callback=None):
            return Posterior(2 * torch.randn(n_samples, 1, 1, 3, generator=generator))

    assert not isinstance(Shrink(), AnalyticPrior)
    report = run_study(FromPrior(), Known, folder=tmp_path, n=16, samples=16).report
    assert sum(name.startswith("change by denoising") for name in report.ranks) == 2
    assert report.status == "fail" and "stein" not in report.numbers


def test_features_are_taken_from_the_problems(tmp_path):
    def level(known):
        return float(known.problem.likelihood.y.mean())

    run = run_study(Exact(), mixture_2d, folder=tmp_path, n=48, samples=8, features={"datum": level})
    assert sum(part["n"] for part in run.report.numbers["features"]["datum"]) == 48


@pytest.mark.slow
def test_dask_and_one_process_give_identical_numbers(tmp_path):
    pytest.importorskip("distributed")
    from distributed import Client, LocalCluster

    solver = DPS(steps=20)
    here = run_study(solver, _blurred, folder=tmp_path / "here", n=16, samples=8)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        there = run_study(solver, _blurred, folder=tmp_path / "there", n=16, samples=8, client=client)
        with pytest.raises(SolverError, match="problem of seed 5"):
            run_study(Exact(fail_at=5), mixture_2d, folder=tmp_path / "fails", n=16, samples=8, client=client)
    assert torch.equal(here.samples, there.samples)
    assert here.report.numbers == there.report.numbers


def _blurred(seed):
    return fields_16("blur", seed)
