"""`sciinstruct train flowdiff`: from an array of corrupted images to a prior, a posterior network and a report."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sciinstruct import cli
from sciinstruct.core import FileFormatError
from sciinstruct.inference.flowdiff_result import load_reconstructor
from sciinstruct.inference.simulator import MaskSimulator
from sciinstruct.jobs.flowdiff_training import Microscope, corrupted_images, read_stack
from sciinstruct.operators.microscopy import Optics
from sciinstruct.priors import zoo


def corrupted(folder, missing):
    g = np.random.default_rng(0)
    x = g.normal(size=(40, 1, 1)) + np.linspace(0, 2, 8) + 0.1 * g.normal(size=(40, 8, 8))
    if missing:
        x[g.random(x.shape) < 0.3] = np.nan
    np.save(folder / "data.npy", x.astype(np.float32))
    return str(folder / "data.npy")


def train(arguments):
    return CliRunner().invoke(cli.app, ["train", "flowdiff", *arguments, "--steps", "4", "--quiet"])


def test_missing_pixels_from_file_to_samples(tmp_path):
    result = train([corrupted(tmp_path, True), "--out", str(tmp_path / "out"), "--sigma", "0.1"])
    assert result.exit_code == 0, result.output
    prior = zoo.load(tmp_path / "out" / "prior")
    assert prior.event_shape == (1, 8, 8)
    law = MaskSimulator((1, 8, 8), 0.1, lambda n, g: torch.ones(n, 1, 8, 8, dtype=torch.bool))
    samples = load_reconstructor(tmp_path / "out", law).sample(torch.zeros(2, 2, 8, 8), 3, generator=0)
    assert samples.shape == (2, 3, 1, 8, 8) and samples.isfinite().all()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["command"] == "sciinstruct train flowdiff data.npy --sigma 0.1 --steps 4 --seed 0"
    assert report["identifiability"]["null_share"] == 0 and len(report["curves"]["denoising"]) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "say what corrupted"),
        (["--sigma", "0.1", "--blur", "1"], "python interface"),
        (["--na", "1.4"], "go together"),
        (["--sigma", "0.1", "--na", "1.4", "--wavelength", "520", "--pixel", "60"], "brings its blur"),
    ],
)
def test_a_corruption_told_wrongly_is_one_line(tmp_path, options, words):
    result = train([corrupted(tmp_path, True), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code in (1, 2)
    assert words.lower() in " ".join(result.output.lower().replace("│", "").split())


def test_a_microscope_is_its_optics_and_its_camera():
    microscope = Microscope(Optics(1.2, 520.0), 0.1, 1.6)
    y, law = corrupted_images(torch.full((20, 1, 12, 12), 50.0), None, None, microscope)
    dark, bright = (law.predict(torch.full((1, 1, 12, 12), level), y[:1]) for level in (1.0, 50.0))
    torch.testing.assert_close(bright, torch.full_like(bright, 50.0), rtol=1e-4, atol=0)
    assert float((1 / law.precision(y[:1], dark)).mean()) == pytest.approx(1 + 1.6**2, rel=1e-4)


def test_files_of_another_kind_are_refused(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(FileFormatError, match="real images"):
        read_stack(tmp_path / "flat.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(FileFormatError, match="cannot read"):
        read_stack(tmp_path / "text.npy")
