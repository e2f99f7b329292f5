"""A small untrained prior on disk, a simulated file, and a solver that takes a second."""

import pytest
import torch

from sciinstruct.diffusion.edm import EDMPrecond
from sciinstruct.diffusion.unet import UNet, UNetConfig
from sciinstruct.inference import AnnealedGaussNewton, ppm
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
    """The default solver with few particles, levels and steps."""
    family = ppm.Particles(8, auxiliary="network", warmup=2, auxiliary_steps=1, start=AnnealedGaussNewton(levels=4))
    small = ppm.PPM(family=family, steps=12, batch=8, learning_rate=0.003, damping=1e-8)
    monkeypatch.setattr(ppm.PPM, "for_trained_prior", classmethod(lambda cls, particles=256, **settings: small))
