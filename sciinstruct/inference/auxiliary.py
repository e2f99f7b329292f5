"""Auxiliary scores: what stands for the score of a variational law that has none in closed form.

The capacity of the auxiliary score is the bandwidth of the method. Fitted perfectly to a few particles it attributes
every noisy image to its own particle and nothing pushes particles apart; a smooth score turns the same particles into
a density.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.core import expand_sigma
from sciinstruct.diffusion import EDMPrecond, UNet, UNetConfig
from sciinstruct.divergences import Divergence
from sciinstruct.inference.families.base import Family

_KL = Divergence("exact_kl")


class Auxiliary(nn.Module, ABC):
    """A denoiser of the variational law's diffused samples that follows the law as it moves."""

    @abstractmethod
    def update(self, family: Family, lo: float, hi: float, generator: torch.Generator) -> float:
        """Follow the law; returns the loss of the fit (0 where there is none)."""

    def dump(self) -> dict[str, Any]:
        """State that must survive an interruption."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] under the law, (B, *event); differentiable in x, parameters frozen."""


class GaussianFit(Auxiliary):
    """Gaussian with the mean and covariance of the law's draws.

    The covariance is shrunk only where it is singular, with no more draws than dimensions: a shrunk one is too wide
    along its short axes, and the law would narrow there until the fit looks right.

    Parameters
    ----------
    count : int
        Draws per fit.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.mean = self.values = self.vectors = torch.empty(0)

    def update(self, family: Family, lo: float, hi: float, generator: torch.Generator) -> float:
        """Refit to the present draws; a singular covariance is shrunk towards a sphere as Ledoit and Wolf 2004."""
        with torch.no_grad():
            x = family.sample(self.count, generator).flatten(1)
            self.mean = x.mean(0)
            centred = x - self.mean
            covariance = centred.T @ centred / max(1, len(x) - 1)
            if len(x) <= x.shape[1]:
                covariance = _shrunk(covariance, centred)
            self.values, self.vectors = torch.linalg.eigh(covariance)
        return 0.0

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Wiener filter of the fitted Gaussian."""
        variance = expand_sigma(sigma, x).reshape(-1, 1) ** 2
        along = (x.flatten(1) - self.mean) @ self.vectors
        return (self.mean + (along * self.values / (self.values + variance)) @ self.vectors.T).reshape(x.shape)


def _shrunk(covariance: Tensor, centred: Tensor) -> Tensor:
    """Convex combination of a sample covariance and a multiple of the identity, with the optimal weight."""
    n, d = centred.shape
    target = covariance.diagonal().mean()
    distance = (covariance.square().sum() - d * target**2).clamp(min=1e-300)
    spread = (centred.square().sum(1).square().mean() - covariance.square().sum()) / n
    weight = (spread / distance).clamp(0, 1)
    return (1 - weight) * covariance + weight * target * torch.eye(d, dtype=covariance.dtype, device=covariance.device)


class ParticleScore(Auxiliary):
    """The exact denoiser of the particles' kernel mixture: no smoothing, kept to show what that does."""

    def __init__(self, family: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "family", family)  # not a submodule: the law owns its parameters

    def update(self, family: Family, lo: float, hi: float, generator: torch.Generator) -> float:
        """Nothing to fit."""
        return 0.0

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Softmax-weighted particles, pulled towards x by the kernel's width."""
        points, tau2 = self.family.points.detach().flatten(1), self.family.tau**2  # type: ignore[union-attr, operator]
        variance = expand_sigma(sigma, x).reshape(-1, 1) ** 2
        flat = x.flatten(1)
        square = flat.square().sum(1, keepdim=True) - 2 * flat @ points.T + points.square().sum(1)
        gamma = (-0.5 * square / (variance + tau2)).softmax(1)
        mean = gamma @ points
        return (mean + tau2 / (tau2 + variance) * (flat - mean)).reshape(x.shape)


class NetworkScore(Auxiliary):
    """A network trained online on the law's draws by denoising score matching.

    Parameters
    ----------
    network : nn.Module
        ``network(x, sigma) -> D``; trained here.
    sigma_data : float
        Standard deviation of the images, in the prior's units.
    steps, warmup : int
        Fits per generator step, and before the first.
    batch : int
        Draws per fit.
    learning_rate : float
        Of Adam.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: float,
        *,
        steps: int = 3,
        warmup: int = 500,
        batch: int = 64,
        learning_rate: float = 2e-3,
    ) -> None:
        super().__init__()
        self.network = network
        self.sigma_data, self.steps, self.warmup, self.batch = sigma_data, steps, warmup, batch
        self.optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.99))

    def update(self, family: Family, lo: float, hi: float, generator: torch.Generator) -> float:
        """Take `steps` fits (after the warm-up of the first call) on fresh draws."""
        loss = torch.zeros(())
        for p in self.network.parameters():
            p.requires_grad_(True)
        for _ in range(self.steps + self.warmup):
            x = family.sample(self.batch, generator)
            loss = _KL.student_loss(x, self.network, lo, hi, sigma_data=self.sigma_data, generator=generator)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        self.warmup = 0
        for p in self.network.parameters():
            p.requires_grad_(False)
        return float(loss.detach())

    def dump(self) -> dict[str, Any]:
        """Network, optimiser, and whether the warm-up is over."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), "warmup": self.warmup}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from `dump`."""
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.warmup = saved["warmup"]

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The network, frozen."""
        return self.network(x, sigma)


class PointDenoiser(nn.Module):
    """EDM-preconditioned multilayer perceptron for vectors.

    Parameters
    ----------
    dim, width, depth : int
        Coordinates, hidden units, hidden layers.
    sigma_data : float
        Standard deviation of the data.
    """

    def __init__(self, dim: int, sigma_data: float, width: int = 96, depth: int = 3) -> None:
        super().__init__()
        sizes = [dim + 8, *[width] * depth]
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*layers, nn.Linear(width, dim))
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise (B, dim) at sigma, a number or (B,)."""
        s = expand_sigma(sigma, x)
        total = (s**2 + self.sigma_data**2).sqrt()
        phase = (s / self.sigma_data).log() * torch.tensor([0.25, 0.5, 1.0, 2.0], dtype=x.dtype, device=x.device)
        features = torch.cat([x / total, phase.sin().expand(len(x), -1), phase.cos().expand(len(x), -1)], 1)
        skip = self.sigma_data**2 / total**2
        return skip * x + s * self.sigma_data / total * self.body(features)


def auxiliary_network(prior: nn.Module, event_shape: tuple[int, ...], sigma_data: float, like: Tensor) -> nn.Module:
    """A trainable copy of a network prior's denoiser, or a small network of the right shape."""
    own = getattr(prior, "denoiser", None)
    if isinstance(own, nn.Module):
        return copy.deepcopy(own)
    if len(event_shape) == 1:
        return PointDenoiser(event_shape[0], sigma_data).to(like)
    channels = event_shape[0]
    return EDMPrecond(UNet(UNetConfig(in_channels=channels, out_channels=channels, channels=16)), sigma_data).to(like)
