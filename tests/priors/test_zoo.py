"""Packaged priors: found by name, checked, offline."""

import socket

import pytest
import torch

from sciinstruct.core import PriorError
from sciinstruct.diffusion import EDMPrecond, UNet, UNetConfig
from sciinstruct.priors import Card, NetworkPrior, available, card, load, zoo
from sciinstruct.priors.samples import save_sample_grid

SMALL = UNetConfig(channels=16, multipliers=(1, 2), embedding=32)


def _prior(**about):
    torch.manual_seed(0)
    return NetworkPrior(EDMPrecond(UNet(SMALL)), Card((1, 8, 8), (0.02, 20.0), 1.0, 0.0, 0.5, vars(SMALL), **about))


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    for name in ("blackhole-32", "blackhole-64", "cells-64"):
        _prior(name=name).save(tmp_path / name)
    (tmp_path / "half-made").mkdir()
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    return tmp_path


def test_names_are_the_folders_with_a_card(packaged):
    assert available() == ["blackhole-32", "blackhole-64", "cells-64"]


def test_load_and_card_agree(packaged):
    prior = load("blackhole-64")
    assert prior.card == card("blackhole-64") and prior.card.name == "blackhole-64"
    assert prior.denoise(torch.zeros(1, 1, 8, 8), 0.5).shape == (1, 1, 8, 8)


def test_a_folder_loads_like_a_name(packaged, tmp_path):
    _prior(name="mine").save(tmp_path / "elsewhere" / "mine")
    assert load(tmp_path / "elsewhere" / "mine").card.name == "mine"
    assert card(str(tmp_path / "elsewhere" / "mine")).name == "mine"


def test_unknown_name_is_answered_with_the_nearest(packaged):
    with pytest.raises(PriorError, match="did you mean blackhole-32 or blackhole-64") as error:
        load("blackhole32")
    assert "cells-64" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(PriorError, match="packaged are blackhole-32") as error:
        card("zzz")
    assert "did you mean" not in str(error.value)


def test_no_packaged_priors_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "none")
    assert available() == []
    with pytest.raises(PriorError, match="packaged are none"):
        load("blackhole-32")


def test_a_changed_file_is_noticed(packaged):
    path = packaged / "cells-64" / "weights.safetensors"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PriorError, match="truncated or was changed"):
        load("cells-64")


def test_a_folder_that_is_no_prior_is_refused(packaged, tmp_path):
    with pytest.raises(PriorError, match="a prior is a folder with"):
        load(tmp_path / "half-made")


def test_loading_needs_no_network(packaged, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(socket, "socket", offline)
    load("blackhole-32")


def test_precision_is_the_callers_choice(packaged):
    assert load("blackhole-32", precision="float32").denoiser.precision == "float32"
    with pytest.raises(ValueError, match="precision"):
        load("blackhole-32", precision="int8")


def test_sample_grid_is_a_picture_that_repeats(tmp_path):
    prior = _prior()
    save_sample_grid(prior, tmp_path / "a.png", n=5)
    save_sample_grid(prior, tmp_path / "b.png", n=5)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("name", available())
def test_every_packaged_prior_loads_and_draws(name):
    prior = load(name)
    about = prior.card
    assert about.data and about.units and about.command and about.limits and about.steps > 0
    x = prior.sample(4, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(x).all()
    assert 0.2 < float(x.std()) < 1.2  # images are scaled to a spread of about 0.5
