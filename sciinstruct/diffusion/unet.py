"""The default network: a compact U-Net that stays fast on a CPU."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUP = 16  # channels per normalisation group: narrower groups make bfloat16 group_norm up to 10x slower backwards
_HEAD = 32  # channels per attention head


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a `UNet`; plain numbers, so that a card can hold it.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of the answer.
    channels : int
        Width of the finest level, a multiple of 16.
    multipliers : tuple of int
        Width of each level relative to `channels`; image sides must be divisible by ``2 ** (len(multipliers) - 1)``.
    blocks : int
        Residual blocks per level, on the way down and on the way up.
    embedding : int
        Width of the noise-level embedding.
    periodic : bool
        Wrap the image around at its borders (fields on a torus) instead of padding with zeros.
    positions : bool
        Tell the network where each pixel is. Wrapped convolutions alone cannot: their law stays the same under shifts,
        and that of fields under a force fixed in space does not.
    """

    in_channels: int = 1
    out_channels: int = 1
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 1, 2, 2)
    blocks: int = 1
    embedding: int = 128
    periodic: bool = False
    positions: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        for name in ("in_channels", "out_channels", "channels", "blocks", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.channels % _GROUP:
            raise ValueError(f"channels must be a multiple of {_GROUP}, got {self.channels}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"multipliers must be positive integers, one per level, got {self.multipliers}")

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return 2 ** (len(self.multipliers) - 1)


PRESETS: dict[str, UNetConfig] = {
    "unet_s": UNetConfig(),
    "unet_m": UNetConfig(channels=64, multipliers=(1, 2, 2, 2), embedding=256),
    "unet_l": UNetConfig(channels=96, multipliers=(1, 2, 3, 4), blocks=2, embedding=384),
}
"""Sizes by name: `unet_s` for CPUs, `unet_m` and `unet_l` for GPUs."""


class _Wrap(torch.autograd.Function):
    """Periodic padding by one pixel; autograd's own backward of it writes six images where one is enough."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        x = torch.cat([x[:, :, -1:], x, x[:, :, :1]], 2)
        return torch.cat([x[..., -1:], x, x[..., :1]], 3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        inner = grad[:, :, 1:-1, 1:-1].clone(memory_format=torch.preserve_format)
        inner[:, :, -1] += grad[:, :, 0, 1:-1]
        inner[:, :, 0] += grad[:, :, -1, 1:-1]
        inner[..., -1] += grad[:, :, 1:-1, 0]
        inner[..., 0] += grad[:, :, 1:-1, -1]
        for row, near in ((0, -1), (-1, 0)):
            for column, beside in ((0, -1), (-1, 0)):
                inner[..., near, beside] += grad[..., row, column]
        return inner


class Conv3(nn.Conv2d):
    """3x3 convolution that keeps the image size, with zero or periodic borders."""

    def __init__(self, n_in: int, n_out: int, periodic: bool = False, zero: bool = False) -> None:
        super().__init__(n_in, n_out, 3, padding=0 if periodic else 1)
        self.periodic = periodic
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, n_out, H, W)."""
        return super().forward(_Wrap.apply(x) if self.periodic else x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // _GROUP, channels)


class NoiseEmbedding(nn.Module):
    """Fourier features of c_noise and a two-layer network."""

    frequencies: Tensor

    def __init__(self, width: int, features: int = 32) -> None:
        super().__init__()
        # c_noise = log(sigma)/4 spans about 2: periods from twice that span down to a fifteenth
        self.register_buffer("frequencies", math.pi / 2 * 2 ** torch.linspace(0, 5, features), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) -> (B, width)."""
        angles = c_noise[:, None] * self.frequencies
        return self.layers(torch.cat([angles.cos(), angles.sin()], 1))


def _places(x: Tensor) -> Tensor:
    """Sine and cosine of every pixel's row and column, each once around the image: (B, 4, H, W) for x (B, C, H, W)."""
    height, width = x.shape[-2:]
    rows, columns = (2 * math.pi * torch.arange(n, device=x.device) / n for n in (height, width))
    around = [rows.sin()[:, None], rows.cos()[:, None], columns.sin(), columns.cos()]
    return torch.stack([a.expand(height, width) for a in around]).to(x.dtype).expand(len(x), -1, -1, -1)


class ResidualBlock(nn.Module):
    """Two convolutions with feature-wise modulation by the noise level."""

    def __init__(self, n_in: int, n_out: int, embedding: int, periodic: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(n_in), Conv3(n_in, n_out, periodic)
        self.norm2, self.conv2 = _norm(n_out), Conv3(n_out, n_out, periodic, zero=True)
        self.modulation = nn.Linear(embedding, 2 * n_out)
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, n_in, H, W) and (B, embedding) -> (B, n_out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].to(h.dtype).chunk(2, 1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Attention between all pixels of one level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _HEAD)
        self.norm, self.qkv, self.out = (
            _norm(channels),
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        b, c, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self.qkv(tokens).reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = _attend(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(mixed).reshape(b, h, w, c).permute(0, 3, 1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):  # on a CPU its backward in bfloat16 takes 5 to 10 times that in float32
        dtype = torch.promote_types(q.dtype, torch.float32)
        return F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)


class UNet(nn.Module):
    """Convolutional U-Net with one noise level per image.

    Each level halves the image by averaging; the way up adds the coarser level's answer to the features of the way down
    (a sum, projected at the coarser level, costs a third of joining channels at the finer one). Self-attention sits at
    the coarsest level only. The last convolution of every block and of the network starts at zero.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        widths = [config.channels * m for m in config.multipliers]
        emb, periodic = config.embedding, config.periodic
        self.embed = NoiseEmbedding(emb)
        self.first = Conv3(config.in_channels + 4 * config.positions, widths[0], periodic)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for above, width in zip([widths[0], *widths], widths):
            sizes = [above] + [width] * config.blocks
            self.down.append(nn.ModuleList(ResidualBlock(a, b, emb, periodic) for a, b in zip(sizes, sizes[1:])))
        bottom = widths[-1]
        self.middle = ResidualBlock(bottom, bottom, emb, periodic)
        self.attention = SelfAttention(bottom)
        self.project = nn.ModuleList(nn.Conv2d(below, width, 1) for below, width in zip(widths[1:], widths))
        for width in widths:
            self.up.append(nn.ModuleList(ResidualBlock(width, width, emb, periodic) for _ in range(config.blocks)))
        self.last_norm = _norm(widths[0])
        self.last = Conv3(widths[0], config.out_channels, periodic, zero=True)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Raw output of the network.

        Parameters
        ----------
        x : Tensor, shape (B, in_channels, H, W)
            Noisy images of about unit variance.
        c_noise : Tensor, shape (B,)
            Noise level as the preconditioning gives it.

        Returns
        -------
        Tensor, shape (B, out_channels, H, W)

        Raises
        ------
        ValueError
            If H or W is not a multiple of ``config.stride``.
        """
        if x.shape[-1] % self.config.stride or x.shape[-2] % self.config.stride:
            raise ValueError(
                f"image sides must be multiples of {self.config.stride} for {len(self.config.multipliers)} levels, "
                f"got {tuple(x.shape[-2:])}; pad the image or take fewer multipliers"
            )
        embedding = self.embed(c_noise)
        h, skips = self.first(torch.cat([x, _places(x)], 1) if self.config.positions else x), []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(h)
                h = F.avg_pool2d(h, 2)
            h = _run(blocks, h, embedding)
        h = self.attention(self.middle(h, embedding))
        h = _run(self.up[-1], h, embedding)
        for blocks, project in zip(self.up[-2::-1], self.project[::-1]):
            h = skips.pop() + F.interpolate(project(h), scale_factor=2.0, mode="nearest")
            h = _run(blocks, h, embedding)
        return self.last(F.silu(self.last_norm(h)))


def _run(blocks: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    for block in blocks:  # type: ignore[attr-defined]
        h = block(h, embedding)
    return h


def make_unet(config: UNetConfig, seed: int = 0) -> UNet:
    """Network whose starting weights `seed` alone decides; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config)
