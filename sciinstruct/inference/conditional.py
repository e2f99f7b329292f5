"""Networks that see the measurement: generators x = g(y, z) and the denoiser that follows their law.

The ones here are for vectors of up to a few dozen numbers, those for images are in `image_networks`. For others,
subclass `ConditionalGenerator` (or wrap a network in `OneHead`) and give any module ``auxiliary(x, sigma, y)``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sciinstruct.core import Denoiser, expand_sigma


class Heads(NamedTuple):
    """Draws of every head, and the probabilities of the heads."""

    x: Tensor  # (B, K, *event)
    log_weights: Tensor  # (B, K), normalised


class ConditionalGenerator(nn.Module, ABC):
    """A law q(x | y), sampled in one pass: head k with probability pi_k(y), then x = g_k(y, z) with z standard normal.

    A single continuous map of z must bridge the modes of a posterior; heads need not, and their probabilities are
    learned.

    Attributes
    ----------
    latent_shape : tuple of int
        Shape of one z: at least as many numbers as there are directions that y does not determine.
    n_heads : int
        1 for an ordinary generator.
    blueprint : dict
        Of the built-in networks: the plain numbers from which one can be built anew.
    """

    latent_shape: tuple[int, ...]
    n_heads: int = 1
    blueprint: Mapping[str, str | int] = MappingProxyType({})

    @abstractmethod
    def forward(self, y: Tensor, z: Tensor) -> Heads:
        """One draw per head for y (B, *range_shape) and z (B, K, *latent_shape)."""

    def draw(self, y: Tensor, generator: torch.Generator | None) -> Heads:
        """One draw per head and measurement, with fresh z."""
        shape = (len(y), self.n_heads, *self.latent_shape)
        return self(y, torch.randn(shape, generator=generator, dtype=y.real.dtype, device=y.device))

    def sample(self, y: Tensor, generator: torch.Generator | None) -> Tensor:
        """One image per measurement, (B, *event)."""
        heads = self.draw(y, generator)
        if self.n_heads == 1:
            return heads.x[:, 0]
        chosen = torch.multinomial(heads.log_weights.detach().exp(), 1, generator=generator)[:, 0]
        return heads.x[torch.arange(len(y), device=y.device), chosen]


class OneHead(ConditionalGenerator):
    """Any network ``network(y, z) -> x`` as a generator.

    Parameters
    ----------
    network : nn.Module
        Maps (B, *range_shape) and (B, *latent_shape) to (B, *event).
    latent_shape : tuple of int
        For images, one noise channel per scale is a good start.
    """

    def __init__(self, network: nn.Module, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.latent_shape = network, tuple(latent_shape)

    def forward(self, y: Tensor, z: Tensor) -> Heads:
        """Run the network."""
        return Heads(self.network(y, z[:, 0])[:, None], y.real.new_zeros(len(y), 1))


class Standardise(nn.Module):
    """Batches flattened, made real, and brought to mean zero and unit variance.

    Parameters
    ----------
    examples : Tensor, shape (n, ...)
        Whose mean and spread count; entries that do not vary are only centred.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, examples: Tensor) -> None:
        super().__init__()
        flat = _flat(examples)
        sd = flat.std(0)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("sd", torch.where(sd > 0, sd, torch.ones_like(sd)))

    def forward(self, y: Tensor) -> Tensor:
        """Features (B, n)."""
        return (_flat(y) - self.mean) / self.sd


def _flat(y: Tensor) -> Tensor:
    return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)


class ResidualMLP(nn.Module):
    """Multilayer perceptron of residual blocks whose answer starts at zero."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.leave = nn.Linear(width, outputs)
        for p in self.leave.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(F.silu(h))
        return self.leave(F.silu(h))


class VectorGenerator(ConditionalGenerator):
    r"""Heads :math:`x = \mu_k(y) + S_k(y) z_{1..d} + r_k(y, z)` and probabilities :math:`\pi_k(y)`, for vectors.

    Parameters
    ----------
    measurements : Tensor, shape (n, *range_shape)
        Examples, for the standardisation of y.
    draws : Tensor, shape (n, d)
        Of the prior: they set the scale, and the first `heads` are where the heads start.
    heads : int
        Number of heads; more than the posterior has modes does no harm.
    latents : int
        Numbers in z, at least d.
    width, blocks : int
        Of both networks.
    """

    centres: Tensor
    sd: Tensor

    def __init__(self, measurements: Tensor, draws: Tensor, heads: int, latents: int, width: int, blocks: int) -> None:
        super().__init__()
        d = draws.shape[1]
        if latents < d:
            raise ValueError(f"latents must be at least the {d} numbers of one vector, got {latents}")
        self.latent_shape, self.n_heads, self.dim = (latents,), heads, d
        self.blueprint = {"kind": "vector", "heads": heads, "latents": latents, "width": width, "blocks": blocks}
        self.register_buffer("sd", draws.var(0).mean().sqrt())
        self.encode = Standardise(measurements)
        self.register_buffer("centres", draws[:heads].clone() if heads > 1 else draws.mean(0, keepdim=True))
        seen = len(self.encode.mean)
        self.affine = ResidualMLP(seen, heads * (d + d * d + 1), width, blocks)
        self.warp = ResidualMLP(seen + latents + heads, d, width, blocks)

    def forward(self, y: Tensor, z: Tensor) -> Heads:
        """One draw per head."""
        seen, k, d = self.encode(y), self.n_heads, self.dim
        shift, matrix, logits = self.affine(seen).reshape(len(y), k, -1).split((d, d * d, 1), 2)
        matrix = matrix.reshape(len(y), k, d, d) + torch.eye(d, dtype=z.dtype, device=z.device)
        linear = shift + (matrix @ z[..., :d, None])[..., 0]
        label = torch.eye(k, dtype=z.dtype, device=z.device).expand(len(y), k, k)
        bent = self.warp(torch.cat([seen[:, None].expand(-1, k, -1), z, label], 2).flatten(0, 1))
        return Heads(self.centres + self.sd * (linear + bent.reshape(linear.shape)), logits[..., 0].log_softmax(1))


class TiltedDenoiser(nn.Module):
    r"""The prior's denoiser plus networks that see the data: :math:`D_p(x; \sigma) + c(\sigma) [a + B x + f(x)]`.

    At the posterior the bracket has only to learn :math:`\sigma^2 \nabla \log p(y | x_\sigma)`, which is smooth where
    the prior's own score is not, and affine in x for Gaussian posteriors and, at small noise, for linear operators with
    Gaussian noise; a, B and f depend on sigma and y, and start at zero.

    Parameters
    ----------
    prior : Denoiser
        Of vectors; its parameters are not trained.
    measurements, draws : Tensor, shape (n, *range_shape) and (n, d)
        Examples, for standardisation.
    width, blocks : int
        Of both networks.
    """

    prior: Denoiser
    centre: Tensor
    sd: Tensor

    def __init__(self, prior: Denoiser, measurements: Tensor, draws: Tensor, width: int, blocks: int) -> None:
        super().__init__()
        object.__setattr__(self, "prior", prior)  # not a submodule: not trained, not part of the state
        self.register_buffer("sd", draws.var(0).mean().sqrt())
        self.encode = Standardise(measurements)
        self.register_buffer("centre", draws.mean(0))
        d, context = draws.shape[1], 8 + len(self.encode.mean)
        self.affine = ResidualMLP(context, d + d * d, width, blocks)
        self.body = ResidualMLP(context + 2 * d, d, width, blocks)

    def forward(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """Denoise (B, d) at sigma (B,) given y (B, *range_shape)."""
        s, d = expand_sigma(sigma, x), x.shape[1]
        base = self.prior.denoise(x, sigma)
        total = (s**2 + self.sd**2).sqrt()
        unit = (x - self.centre) / total
        phase = (s / self.sd).log() * math.pi * torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=x.dtype, device=x.device)
        context = torch.cat([phase.sin(), phase.cos(), self.encode(y)], 1)
        shift, matrix = self.affine(context).split((d, d * d), 1)
        tilt = shift + (matrix.reshape(-1, d, d) @ unit[..., None])[..., 0]
        tilt = tilt + self.body(torch.cat([unit, (base - self.centre) / self.sd, context], 1))
        return base + s * self.sd / total * tilt
