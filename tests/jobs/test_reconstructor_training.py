"""`sciinstruct train reconstructor`: what it leaves on disk gives samples, says how it was made, and goes on."""

import json

import pytest
import torch
from typer.testing import CliRunner

from sciinstruct import cli
from sciinstruct.core import SolverError
from sciinstruct.inference.packaged import load_reconstructor
from sciinstruct.jobs import train_reconstructor

ARGUMENTS = ["train", "reconstructor", "cells-64-blur", "--scoring", "1", "--images", "1024", "--quiet", "--out"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One step: the path through the code is that of a long run."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    result = CliRunner().invoke(cli.app, [*ARGUMENTS, str(out)])
    assert result.exit_code == 0, result.output
    assert str(out) in result.output.replace("\n", "")
    return out


def test_what_was_trained_loads_by_the_set_ups_name_and_samples(folder):
    reconstructor, instrument = load_reconstructor("cells-64-blur", folder=folder)
    y = instrument.pack(torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)), width=2.0, noise=0.1)
    samples = reconstructor.sample(y, 3, generator=1)
    assert samples.shape == (2, 3, 1, 64, 64) and samples.isfinite().all()


def test_the_card_says_how_it_was_made(folder):
    card = json.loads((folder / "card.json").read_text())
    told = card.get("attributes", card)
    assert told["name"] == "mine" and told["device"] == "cpu" and told["settings"]["scoring_steps"] == 1
    assert (
        told["command"] == "sciinstruct train reconstructor cells-64-blur --scoring 1 --steps 0 --seed 0 --images 1024"
    )


def test_other_settings_do_not_go_on_from_its_state(folder):
    with pytest.raises(SolverError, match="other settings"):
        train_reconstructor("cells-64-blur", folder, scoring_steps=2, n_images=1024, progress=False, resume=True)


def test_unknown_set_ups_are_named_and_nothing_is_written(tmp_path):
    result = CliRunner().invoke(cli.app, ["train", "reconstructor", "cells-65", "--out", str(tmp_path / "no")])
    assert result.exit_code != 0
    assert "cells-64-blur" in result.stderr.replace("\n", " ")
    assert not (tmp_path / "no").exists()
