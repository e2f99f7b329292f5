"""The law of a clean image around its denoised one: how wrong the denoiser is, pixel by pixel and scale by scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, randn_like


@dataclass(frozen=True)
class ErrorLaw:
    r"""Gaussian of covariance :math:`C = S F^* P F S`: standard deviation per pixel, power per spatial frequency.

    For a stationary Gaussian prior on a torus this is the exact law of the clean image given the noisy one. Images
    (..., H, W) have frequencies; other events have standard deviations alone.

    Parameters
    ----------
    scale : Tensor, shape (*event) or (B, *event)
        Diagonal of S, in the prior's units; a batch of them for a batch of images, in `draw`, `root` and
        `root_transposed`.
    power : Tensor or None, shape (..., H, W // 2 + 1)
        Diagonal of P on the half-plane of ``torch.fft.rfft2``, of mean 1; None is white.
    """

    scale: Tensor
    power: Tensor | None

    def factor(self, rows: Tensor) -> Tensor:
        """Rows (B, n, D) times a factor L of C = L L^T, (B, n, K), with K about D."""
        scaled = rows.unflatten(-1, self.scale.shape) * self.scale
        if self.power is None:
            return scaled.flatten(2)
        # the half-plane stands for the whole one: all columns but the first (and the last of even widths) count twice
        width = self.scale.shape[-1]
        twice = torch.full((self.power.shape[-1],), 2.0, dtype=rows.dtype, device=rows.device)
        twice[0] = 1.0
        if width % 2 == 0:
            twice[-1] = 1.0
        spectrum = torch.fft.rfft2(scaled, norm="ortho") * (twice * self.power).sqrt()
        return torch.view_as_real(spectrum).flatten(2)

    def apply(self, x: Tensor) -> Tensor:
        """C x for vectors (B, D)."""
        images = x.unflatten(-1, self.scale.shape) * self.scale
        if self.power is not None:
            images = torch.fft.irfft2(torch.fft.rfft2(images) * self.power, s=images.shape[-2:])
        return (images * self.scale).flatten(1)

    def draw(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Errors of the shape of `like` (B, *event)."""
        return self.root(randn_like(like, generator))

    def root(self, white: Tensor) -> Tensor:
        """L w, images (B, *event), with C = L L^T."""
        return self.scale * self._filter(white)

    def root_transposed(self, x: Tensor) -> Tensor:
        """L^T x, images (B, *event)."""
        return self._filter(self.scale * x)

    def _filter(self, x: Tensor) -> Tensor:
        if self.power is None:
            return x
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.power.sqrt(), s=x.shape[-2:])


def error_laws(
    prior: Denoiser, draws: Tensor, sigmas: Sequence[float], generator: torch.Generator | None, batch: int = 64
) -> list[ErrorLaw]:
    """Measure, on `draws` (n, *event) of the prior, how far the denoised image is from the clean one at each level."""
    laws = []
    for sigma in sigmas:
        with torch.no_grad():
            parts = [x - prior.denoise(x + sigma * randn_like(x, generator), sigma) for x in draws.split(batch)]
        laws.append(_fit(torch.cat(parts)))
    return laws


def _fit(errors: Tensor) -> ErrorLaw:
    scale = errors.square().mean(0).sqrt()
    scale = scale.clamp_min(1e-3 * scale.max().clamp_min(torch.finfo(scale.dtype).tiny))
    if errors.ndim < 4:
        return ErrorLaw(scale, None)
    power = torch.fft.rfft2(errors / scale, norm="ortho").abs().square().mean(0)
    return ErrorLaw(scale, power)
