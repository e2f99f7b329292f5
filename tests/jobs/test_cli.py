"""The command line: exit codes, one readable line for what is wrong, results where it says they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sciinstruct import cli, jobs
from sciinstruct.core import SolverError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from sciinstruct.cli import main; main()"


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def run(*arguments, cwd, code=PROGRAM):
    """A process of its own, as a user starts it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def assert_one_line(text, *words):
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    assert "Traceback" not in text
    for word in words:
        assert word in lines[0]


def test_help_names_every_command():
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("demo", "reconstruct", "priors", "train"):
        assert command in result.output


def test_version():
    from sciinstruct import __version__

    assert invoke("--version").output.strip() == f"sciinstruct {__version__}"


@pytest.mark.parametrize(
    "arguments",
    [["reconstruct"], ["demo", "--samples", "1"], ["demo", "--nonsense"], ["train", "prior"], ["frobnicate"]],
)
def test_usage_errors_exit_with_2(arguments):
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "no such file"), (b"", "cannot"), (b"not a measurement\n" * 300, "FITS"), (b"SIMPLE  =", "")],
)
def test_missing_and_foreign_files_are_one_line(content, word, tmp_path):
    path = tmp_path / "data.uvfits"
    if content is not None:
        path.write_bytes(content)
    result = invoke("reconstruct", path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert_one_line(result.stderr, str(path) if content is None else "data.uvfits")


def test_a_truncated_real_file_is_one_line(eht_dir, tmp_path):
    whole = next(eht_dir.glob("*.uvfits")).read_bytes()
    path = tmp_path / "cut.uvfits"
    path.write_bytes(whole[: len(whole) // 2])
    result = invoke("reconstruct", path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert_one_line(result.stderr, "cut.uvfits")


def test_unknown_prior_is_one_line_with_what_there_is(uvfits, tmp_path):
    for arguments in (
        ["priors", "show", "blackhole-33"],
        ["reconstruct", uvfits, "--prior", "blackhole-33", "-o", tmp_path],
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert_one_line(result.stderr, "blackhole-33", "packaged are")


def test_damaged_weights_are_one_line(prior_folder, uvfits, tmp_path):
    import shutil

    folder = shutil.copytree(prior_folder, tmp_path / "prior")
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    result = invoke("reconstruct", uvfits, "--prior", folder, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert_one_line(result.stderr, "weights")


def test_unwritable_output_is_one_line(uvfits, prior_folder, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    for out in (blocker, blocker / "below"):
        result = invoke("reconstruct", uvfits, "--prior", prior_folder, "--out", out)
        assert result.exit_code == 1
        assert_one_line(result.stderr, "cannot write")
    assert blocker.read_text() == "kept"


def test_unusable_device_is_one_line(uvfits, prior_folder, tmp_path):
    result = invoke("reconstruct", uvfits, "--prior", prior_folder, "--out", tmp_path / "out", "--device", "xpu:7")
    assert result.exit_code == 1
    assert_one_line(result.stderr, "xpu:7")


def test_unknown_terms_are_one_line(uvfits, prior_folder, tmp_path):
    result = invoke("reconstruct", uvfits, "--prior", prior_folder, "--out", tmp_path / "out", "--terms", "closures+x")
    assert result.exit_code == 1
    assert_one_line(result.stderr, "closures+x")


def test_errors_of_several_lines_become_one(monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise SolverError("step 3:\n  the prior term is nan")

    monkeypatch.setattr(jobs, "demo", fail)
    result = invoke("demo", "--out", tmp_path)
    assert result.exit_code == 1
    assert_one_line(result.stderr, "step 3: the prior term is nan")


def test_ctrl_c_exits_with_130_and_a_word_on_resuming(monkeypatch, tmp_path):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "demo", stop)
    result = invoke("demo", "--out", tmp_path)
    assert result.exit_code == 130
    assert "--resume" in result.stderr and "Traceback" not in result.stderr


def test_reconstruct_says_where_the_report_is(uvfits, prior_folder, tmp_path, quick):
    out = tmp_path / "out"
    result = invoke(
        "reconstruct", uvfits, "--prior", prior_folder, "--out", out, "--samples", 8, "--quiet", "--seed", 4
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().splitlines()[-1] == f"report: {out / 'report.html'}"
    assert json.loads((out / "report.json").read_text())["run"]["seed"] == 4


def test_train_prior_makes_a_prior_that_show_reads(tmp_path):
    out = tmp_path / "mine"
    result = invoke(
        "train", "prior", "--data", "blackholes", "--images", 24, "--npix", 16, "--steps", 2, "--out", out, "--quiet"
    )
    assert result.exit_code == 0, result.output
    card = json.loads(invoke("priors", "show", out).stdout)
    assert card["event_shape"] == [1, 16, 16] and card["pixel"] == {"fov_uas": 128.0}
    assert card["command"].startswith("sciinstruct train prior --data blackholes")


def test_priors_list_names_what_is_packaged():
    from sciinstruct import priors

    result = invoke("priors", "list")
    assert result.exit_code == 0
    for name in priors.available():
        assert name in result.output


def test_exit_codes_of_a_process(tmp_path):
    """As a shell sees them, with nothing but the one line on stderr."""
    wrong = run("reconstruct", "nothing.uvfits", cwd=tmp_path)
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert_one_line(wrong.stderr, "nothing.uvfits")
    assert run("reconstruct", cwd=tmp_path).returncode == 2
    assert run("--help", cwd=tmp_path).returncode == 0


def test_a_real_ctrl_c_in_a_process(uvfits, prior_folder, tmp_path):
    """SIGINT in the middle of the solver: 130, a checkpoint, no traceback."""
    code = (
        "import os, signal\n"
        "from sciinstruct.operators.interferometry import InterferometryLikelihood as L\n"
        "plain, asked = L.log_prob, []\n"
        "def log_prob(self, image):\n"
        "    asked.append(1)\n"
        "    if len(asked) == 8: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return plain(self, image)\n"
        "L.log_prob = log_prob\n" + PROGRAM
    )
    out = tmp_path / "out"
    done = run(
        "reconstruct",
        uvfits,
        "--prior",
        prior_folder,
        "--out",
        out,
        "--samples",
        "32",
        "--quiet",
        cwd=tmp_path,
        code=code,
    )
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr and "Traceback" not in done.stderr
    assert (out / "run.ckpt.pt").is_file()
