"""The diffusion prior while it learns, and as it is handed over."""

import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import expand_sigma
from sciinstruct.core.weights_folder import read_card, read_weights, write_folder
from sciinstruct.diffusion.edm import EDMPrecond
from sciinstruct.diffusion.unet import UNetConfig, make_unet
from sciinstruct.inference.conditional import ResidualMLP
from sciinstruct.priors.base import Prior

SIGMA_DATA = 0.5  # standard deviation of the events in the prior's units, as of the package's trained priors
_WAVES = (0.5, 1.0, 2.0, 4.0, 8.0)
_NAME = "a learned prior of vectors"


class VectorDenoiser(nn.Module):
    r"""A perceptron as a denoiser of vectors, :math:`c_{skip} x + c_{out} F(c_{in} x, \log\sigma)`.

    Parameters
    ----------
    dim, width, blocks : int
        Length of a vector, and size of the perceptron.
    seed : int
        Decides the starting weights.

    References
    ----------
    Karras et al. 2022, table 1 (the preconditioning).
    """

    def __init__(self, dim: int, width: int = 128, blocks: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.sigma_data = SIGMA_DATA
        self.settings = {"dim": dim, "width": width, "blocks": blocks, "seed": seed}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ResidualMLP(dim + 2 * len(_WAVES) + 1, dim, width, blocks)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Expectation of the clean vectors, (B, d) -> (B, d)."""
        s = expand_sigma(sigma, x).expand(len(x), 1)
        total = (s**2 + self.sigma_data**2).sqrt()
        c_noise = s.log() / 4
        angles = 0.5 * math.pi * c_noise * torch.tensor(_WAVES, dtype=x.dtype, device=x.device)
        answer = self.network(torch.cat([x / total, c_noise, angles.cos(), angles.sin()], 1))
        return (self.sigma_data / total) ** 2 * x + s * self.sigma_data / total * answer


Network = VectorDenoiser | EDMPrecond


def default_denoiser(event_shape: tuple[int, ...], seed: int) -> Network:
    """A perceptron for vectors, a small U-Net for images (C, H, W)."""
    if len(event_shape) == 1:
        return VectorDenoiser(event_shape[0], seed=seed)
    return EDMPrecond(make_unet(unet_config(event_shape), seed), SIGMA_DATA)


def unet_config(event_shape: tuple[int, ...]) -> UNetConfig:
    """The package's small U-Net, with as many levels as the image's sides can be halved, at most four."""
    levels = 1
    while levels < 4 and all(side % 2**levels == 0 and side >> levels >= 4 for side in event_shape[1:]):
        levels += 1
    multipliers = (1, 1, 2, 2)[:levels] if levels != 3 else (1, 2, 2)
    return UNetConfig(event_shape[0], event_shape[0], multipliers=multipliers)


class LearnedPrior(Prior):
    """A denoiser that may still be learning, with the map to physical units.

    Parameters
    ----------
    denoiser : nn.Module
        ``denoiser(x, sigma)``, trainable.
    event_shape, sigma_range, scale, shift
        As of every prior.
    """

    def __init__(
        self,
        denoiser: Network,
        event_shape: tuple[int, ...],
        sigma_range: tuple[float, float],
        scale: float,
        shift: float,
    ) -> None:
        super().__init__()
        self.denoiser, self.event_shape, self.sigma_range = denoiser, tuple(event_shape), sigma_range
        self.scale, self.shift = scale, shift

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Expectation of the clean event, shape of x."""
        self.check(x)
        return self.denoiser(x, sigma)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights and a card; for vectors (priors of images are saved as `NetworkPrior`)."""
        assert isinstance(self.denoiser, VectorDenoiser)
        card: dict[str, Any] = {
            "event_shape": list(self.event_shape),
            "sigma_range": list(self.sigma_range),
            "scale": self.scale,
            "shift": self.shift,
            "settings": self.denoiser.settings,
        }
        write_folder(folder, self.denoiser, card, half=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "LearnedPrior":
        """Read what `save` wrote; raises SolverError if it is missing, damaged or foreign."""
        card = read_card(folder, _NAME)
        denoiser = VectorDenoiser(**card["settings"])
        denoiser.load_state_dict(read_weights(folder, card, _NAME))
        low, high = card["sigma_range"]
        prior = cls(denoiser, tuple(card["event_shape"]), (low, high), card["scale"], card["shift"])
        return prior.requires_grad_(False)
