"""`sciinstruct calibrate`: any samples file or a packaged problem; one line of verdict, and an exit code that tells."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sciinstruct import cli, jobs
from sciinstruct.core import Posterior
from sciinstruct.jobs.calibration import solvers

N, S = 40, 32


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["calibrate", *map(str, arguments)])


def normal(width=1.0, shape=(5,)):
    """Truths and samples from one law: calibrated if `width` is 1."""
    rng = np.random.default_rng(4)
    centre = 3 * rng.standard_normal((N, 1, *shape))
    draws = centre + rng.standard_normal((N, S + 1, *shape)) * np.r_[1.0, np.full(S, width)].reshape(
        -1, *[1] * len(shape)
    )
    return draws[:, 1:], draws[:, 0]


@pytest.fixture(autouse=True)
def quick_pages(monkeypatch):
    """Pages are tested elsewhere, and take seconds to draw."""
    from sciinstruct.calibration import study_report

    monkeypatch.setattr(study_report, "_sections", lambda report: [])


def assert_verdict(result, word, code):
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"{word}: ") and lines[1].startswith("report: "), result.output
    assert result.exit_code == code and "calibrated" not in lines[0]


@pytest.mark.parametrize(("width", "word", "code"), [(1.0, "warn", 0), (0.6, "fail", 3)])
def test_an_archive_is_judged(tmp_path, width, word, code):
    samples, truth = normal(width)
    np.savez(tmp_path / "a.npz", samples=samples, truth=truth)
    out = tmp_path / "out"
    result = invoke("--samples", tmp_path / "a.npz", "--out", out)
    assert_verdict(result, word, code)  # 40 observations are too few for a plain pass
    content = json.loads((out / "study.json").read_text())
    assert content["overall"] == word and content["kind"] == "held-out" and content["n_samples"] == S


def test_every_kind_of_file_gives_the_same_numbers(tmp_path):
    import xarray

    samples, truth = normal(shape=(1, 4, 4))
    np.savez(tmp_path / "a.npz", samples=samples, truth=truth)
    np.save(tmp_path / "s.npy", samples)
    np.save(tmp_path / "t.npy", truth)
    axes = ("channel", "y", "x")
    arrays = {"samples": (("obs", "sample", *axes), samples), "truth": (("obs", *axes), truth)}
    xarray.Dataset(arrays, {"x": np.arange(4.0)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    (tmp_path / "many").mkdir()
    for i, draws in enumerate(samples):
        Posterior(torch.as_tensor(draws)).to_netcdf(tmp_path / "many" / f"{i:03d}.nc")
    calls = [("a.npz", None), ("s.npy", "t.npy"), ("a.nc", None), ("many", "t.npy")]
    found = [
        jobs.calibrate_files(tmp_path / a, tmp_path / "out", truth=None if b is None else tmp_path / b)
        for a, b in calls
    ]
    assert all(result.report.numbers == found[0].report.numbers for result in found)


def test_arviz_files_are_thinned_and_their_chains_judged(tmp_path):
    import arviz as az

    samples, truth = normal()
    (tmp_path / "many").mkdir()
    for i, draws in enumerate(samples):
        az.from_dict(posterior={"theta": draws.reshape(4, S // 4, 5)}).to_netcdf(
            str(tmp_path / "many" / f"{i:03d}.nc"), engine="h5netcdf"
        )
    np.save(tmp_path / "t.npy", truth)
    result = jobs.calibrate_files(tmp_path / "many", tmp_path / "out", truth=tmp_path / "t.npy")
    numbers = result.report.numbers["chains"]
    assert numbers["chains"] == 4 and 8 <= numbers["thinned_to"] == result.report.n_samples <= S
    assert "chains" in {verdict.check for verdict in result.report.verdicts}


def test_a_packaged_problem_is_solved_and_goes_on(tmp_path):
    out = tmp_path / "out"
    first = invoke("--problem", "2-D mixture", "--solver", "EXACT", "--n", 16, "--draws", 16, "-o", out, "-q")
    assert_verdict(first, "warn", 0)
    made = {path: path.stat().st_mtime_ns for path in (out / "draws").iterdir()}
    again = invoke("--problem", "2-D mixture", "--solver", "exact", "--n", 18, "--draws", 16, "-o", out, "-q")
    assert again.exit_code == 0 and len(list((out / "draws").iterdir())) == 18
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in made.items())
    assert json.loads((out / "study.json").read_text())["name"] == "exact on 2-D mixture"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples", "{}/none.npz"], ["no such file"]),
        (["--samples", "{}/a.npz"], ["no array 'truth'", "samples"]),
        (["--samples", "{}/damaged.nc"], ["cannot read"]),
        (["--samples", "{}/a.txt"], ["cannot read", ".npz"]),
        (["--samples", "{}/empty"], ["no .nc files"]),
        (["--samples", "{}/s.npy"], ["holds no truths"]),
        (["--samples", "{}/s.npy", "--truth", "{}/s.npy"], ["must match"]),
        (["--samples", "{}/s.npy", "--truth", "{}/t.npy", "--kind", "guess"], ["kind must be one of"]),
        (["--samples", "{}/s.npy", "--truth", "{}/t.npy", "--chains", "3"], ["chains must divide"]),
        (["--samples", "{}/s.npy", "--truth", "{}/t.npy", "--chains", "16"], ["at least 4 draws each", "16 of 2"]),
        (["--samples", "{}/text.npy", "--truth", "{}/t.npy"], ["cannot read", "damaged, or holds Python objects"]),
        (["--problem", "16x16 fog"], ["no problem '16x16 fog'", "16x16 blur"]),
        (["--problem", "2-D mixture", "--solver", "magic"], ["no solver 'magic'", "PPM", "DPS"]),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, arguments, words):
    samples, truth = normal()
    np.savez(tmp_path / "a.npz", samples=samples)
    np.save(tmp_path / "s.npy", samples)
    np.save(tmp_path / "t.npy", truth)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("1 2 3")
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "damaged.nc").write_bytes(b"\x89HDF\r\n")
    result = invoke(*(text.format(tmp_path) for text in arguments), "--out", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1 and result.stderr.startswith("error: ")
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--samples", "a.npz", "--problem", "2-D mixture"],
        ["--problem", "2-D mixture", "--truth", "t.npy"],
        ["--problem", "2-D mixture", "--kind", "held-out"],
        ["--samples", "s.npy", "--solver", "DPS"],
        ["--samples", "s.npy", "--n", "20"],
        ["--problem", "2-D mixture", "--n", "3"],
    ],
)
def test_usage_errors_exit_with_2(arguments):
    assert invoke(*arguments).exit_code == 2


def test_every_baseline_has_a_name():
    from sciinstruct.inference import baselines

    for problem in ("2-D mixture", "16x16 blur"):
        methods = {name for name in baselines.__all__ if isinstance(getattr(baselines, name), type)}
        assert {"exact", "PPM", *methods} == set(solvers(problem)) and "DPS" in methods


def test_posterior_matching_is_set_as_in_the_benchmarks():
    from benchmarks.exact_posteriors import FIELD_PPM, PLANE_PPM

    planes, images = ("2-D mixture", "phase retrieval", "closure phases"), ("16x16 blur", "32x32 Gaussian mask")
    assert all(solvers(name)["PPM"] == PLANE_PPM for name in planes)
    assert all(solvers(name)["PPM"] == FIELD_PPM for name in images)


def test_exact_draws_of_a_non_linear_problem_are_the_grids(tmp_path):
    from sciinstruct.jobs.calibration import Exact
    from sciinstruct.priors.problems import PROBLEMS

    known = PROBLEMS["phase retrieval"](3)
    found = Exact().run(known.problem, 50, generator=torch.Generator().manual_seed(1)).samples
    assert torch.equal(found, known.posterior.sample(50, generator=torch.Generator().manual_seed(1)))
