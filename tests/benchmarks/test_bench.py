"""The bench counts, measures, resumes and writes what it should."""

import json
from dataclasses import dataclass

import pytest
import torch

from benchmarks import bench
from benchmarks.bench_measures import counted, floor, measure
from benchmarks.bench_page import summarise, uniform_p
from benchmarks.bench_solvers import table
from sciinstruct.core import Posterior
from sciinstruct.inference.baselines.dps import DPS
from sciinstruct.priors.problems import make_problem


@dataclass(frozen=True)
class Shifted:
    """Exact draws of the 2-D mixture, moved."""

    by: float = 0.0

    def run(self, problem, n_samples, *, generator, dtype):
        if self.by < 0:
            raise RuntimeError("no sample\nand a second line")
        exact = make_problem("2-D mixture", int(problem.name.split()[-1])).posterior
        return Posterior(exact.sample(n_samples, generator=generator, dtype=dtype) + self.by)


def test_calls_are_counted_per_image_and_the_problem_is_left_alone():
    exact = make_problem("2-D mixture", 0)
    problem, calls = counted(exact.problem)
    x = torch.zeros(7, 2, dtype=torch.float64)
    assert torch.equal(problem.prior.score(x, 1.0), exact.problem.prior.score(x, 1.0))
    assert calls.total == calls.denoised == 7
    problem.prior.log_prob(x)
    assert calls.total == 14
    run = DPS(steps=10).run(problem, 20, generator=0)
    assert calls.denoised >= 7 + 10 * 20 and len(run.samples) == 20
    exact.problem.prior.denoise(x, 1.0)
    assert calls.densities == 7


def test_measures_of_exact_and_of_shifted_draws():
    exact = make_problem("2-D mixture", 1)
    draws = exact.posterior.sample(1000, generator=torch.Generator().manual_seed(5))
    right, wrong = measure(exact, draws, 0), measure(exact, draws + 1.0, 0)
    base = floor(exact, 1000, 0)
    assert 0.4 * base < right["sliced_w2"] < 2.5 * base
    # every direction moves by the projection of (1, 1): root mean square 1
    assert wrong["sliced_w2"] == pytest.approx(1, abs=0.1 + 2 * base)
    assert wrong["crps"] > right["crps"] + 0.1
    assert right["weight_error"] < 4 * (0.25 / 1000) ** 0.5 + 0.02 and right["missed_modes"] == 0


def test_a_mode_without_samples_is_missed():
    exact = make_problem("2-D mixture", 1)  # two modes of nearly equal weight
    draws = exact.posterior.sample(2000, generator=torch.Generator().manual_seed(5))
    heavy = int(exact.posterior.weights.argmax())
    one = draws[exact.posterior.law.responsibilities(draws).argmax(1) == heavy]
    assert measure(exact, one, 0)["missed_modes"] == 1


def _study(monkeypatch, path, solvers, draws=2):
    monkeypatch.setattr(bench, "table", lambda exact: solvers)
    bench.study(["2-D mixture"], None, range(draws), path)
    return list(bench.read_records(path).values())


def test_resume_failure_and_changed_settings(monkeypatch, tmp_path, capsys):
    path = tmp_path / "bench.jsonl"
    first = _study(monkeypatch, path, {"right": Shifted(), "broken": Shifted(-1.0)})
    assert len(first) == 6
    assert [r["error"] for r in first if r["solver"] == "broken"] == ["RuntimeError: no sample"] * 2
    path.write_text(path.read_text()[:-20])  # an interruption in the middle of a line
    again = _study(monkeypatch, path, {"right": Shifted(), "broken": Shifted(-1.0)})
    assert "seed 1  2-D mixture          broken" in capsys.readouterr().out
    _study(monkeypatch, path, {"right": Shifted(1.0), "broken": Shifted(-1.0)})
    rows = {row["solver"]: row for row in summarise(bench.read_records(path).values())}
    assert rows["right"]["sliced_w2"] > 0.9 and rows["right"]["draws"] == 2
    assert rows["broken"]["failed"] == 2 and "sliced_w2" not in rows["broken"]
    assert rows["exact"]["w2_ratio"] == 1
    assert len(again) == 6


def test_pages(monkeypatch, tmp_path):
    path = tmp_path / "bench.jsonl"
    _study(monkeypatch, path, {"PPM": Shifted(0.1), "other": Shifted(1.0), "broken": Shifted(-1.0)})
    bench.write_pages(bench.read_records(path).values(), path)
    text = path.with_suffix(".md").read_text()
    assert "| broken | failed: RuntimeError: no sample |" in text
    assert "| 2-D mixture | 1 of 2 | other | -" in text
    assert path.with_suffix(".csv").read_text().count("\n") == 5  # head, exact, three solvers
    assert {r["solver"] for r in json.loads(path.with_suffix(".json").read_text())["rows"]} >= {"PPM", "broken"}
    for name in ("bench_calls.png", "bench_coverage.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_ranks_of_one_value_are_not_uniform():
    assert uniform_p([0.01] * 10) < 1e-6 < 0.01 < uniform_p([0.05 + 0.1 * i for i in range(10)])


def test_names_are_matched_whole_before_in_part():
    names = ["DPS", "deepinv DPS", "PPM"]
    assert bench.chosen(names, ["DPS"]) == ["DPS"]
    assert bench.chosen(names, ["deepinv"]) == ["deepinv DPS"]
    assert bench.chosen(names, None) == names


def test_the_table_holds_the_packages_solvers():
    from sciinstruct.inference import baselines

    kinds = {type(solver).__name__ for solver in table(make_problem("16x16 blur")).values()}
    assert kinds >= {"PPM", "AnnealedGaussNewton", "DPS", "RedDiff"}
    assert kinds >= {name for name in baselines.__all__ if isinstance(getattr(baselines, name), type)}
