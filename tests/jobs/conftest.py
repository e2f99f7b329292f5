"""A small untrained prior on disk, a simulated file, and a solver that takes a second."""

import functools

import pytest
import torch

from sciinstruct.diffusion.edm import EDMPrecond
from sciinstruct.diffusion.unet import UNet, UNetConfig
from sciinstruct.inference import ppm
from sciinstruct.jobs.demo import simulated_twin
from sciinstruct.priors.network import Card, NetworkPrior

FOV = 128.0


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory):
    """An untrained 16x16 sky prior: the path through the code is that of a trained one."""
    config = UNetConfig(channels=16, multipliers=(1, 1), embedding=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(config)
    card = Card((1, 16, 16), (0.05, 10.0), 2.0, 1.0, 0.5, vars(config), units="mean brightness", pixel={"fov_uas": FOV})
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    NetworkPrior(EDMPrecond(network, 0.5), card).save(folder)
    return folder


@pytest.fixture(scope="session")
def uvfits(tmp_path_factory):
    """A simulated observation as a file."""
    observation, _ = simulated_twin(16, FOV, torch.Generator().manual_seed(3))
    path = tmp_path_factory.mktemp("data") / "twin.uvfits"
    observation.to_uvfits(path)
    return path


@pytest.fixture
def quick(monkeypatch):
    """PPM with few steps and few components, as every job's default."""
    small = functools.partial(ppm.PPM, steps=12, batch=8, groups=4, family=ppm.Mixture(components=2, rank=4))
    monkeypatch.setattr(ppm, "PPM", small)
