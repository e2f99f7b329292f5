"""How wrong the denoiser is, given what it shows: errors are largest where there is something to see."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, randn_like
from sciinstruct.inference.error_law import ErrorLaw

_BINS = 12
_LEAST = 1e-3  # of the largest standard deviation


@dataclass(frozen=True)
class LocalLaw:
    """Law of a clean image around its denoised one whose standard deviation follows the denoised image.

    The standard deviation of a pixel is a function of the denoised image averaged over 3x3 pixels around it, measured
    on draws of the prior. It is the same function everywhere, so the prior's law must not depend on place.

    Parameters
    ----------
    knots, values : Tensor, shape (K,)
        The function, linear between `knots` and constant beyond.
    covariance : Tensor, shape (H, W)
        Correlation of the errors divided by their standard deviation, as a function of the shift, on a torus.
    """

    knots: Tensor
    values: Tensor
    covariance: Tensor

    def at(self, denoised: Tensor) -> ErrorLaw:
        """The law of each image of a batch (B, C, H, W), of the size it was measured on or a larger one."""
        return ErrorLaw(_interpolate(local_mean(denoised), self.knots, self.values), self._power(denoised.shape[-2:]))

    def _power(self, size: torch.Size) -> Tensor:
        """Power per frequency on a torus of `size`."""
        height, width = self.covariance.shape
        if tuple(size) == (height, width):
            kernel = self.covariance
        else:
            kernel = self.covariance.new_zeros(size)
            rows, columns = torch.meshgrid(_shifts(height, size[0]), _shifts(width, size[1]), indexing="ij")
            kernel[rows, columns] = self.covariance
        power = torch.fft.rfft2(kernel).real
        return power.clamp_min(_LEAST * float(power.max()))


def _shifts(small: int, large: int) -> Tensor:
    """Where the shifts 0, 1, ..., -1 of a torus lie on a larger one."""
    if small > large:
        raise ValueError(f"images must have at least {small} pixels on a side, as the prior's, got {large}")
    return torch.fft.fftfreq(small, 1 / small).long().remainder(large)


def local_mean(x: Tensor) -> Tensor:
    """Average over 3x3 pixels, edges repeated, shape of `x` (B, C, H, W)."""
    return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    upper = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    left, right = knots[upper - 1], knots[upper]
    fraction = ((x - left) / (right - left)).clamp(0, 1)
    return values[upper - 1] + fraction * (values[upper] - values[upper - 1])


def local_laws(
    prior: Denoiser, draws: Tensor, sigmas: Sequence[float], generator: torch.Generator | None, batch: int = 64
) -> list[LocalLaw]:
    """Measure the law at each level on `draws` (n, C, H, W) of the prior."""
    laws = []
    for sigma in sigmas:
        with torch.no_grad():
            parts = [prior.denoise(x + sigma * randn_like(x, generator), sigma) for x in draws.split(batch)]
        denoised = torch.cat(parts)
        laws.append(_fit(draws - denoised, denoised))
    return laws


def _fit(errors: Tensor, denoised: Tensor) -> LocalLaw:
    seen, squared = local_mean(denoised).flatten(), errors.square().flatten()
    order = seen.argsort()
    parts, squares = seen[order].tensor_split(_BINS), squared[order].tensor_split(_BINS)
    knots = torch.stack([part.mean() for part in parts])
    values = torch.stack([square.mean().sqrt() for square in squares])
    knots = knots + torch.arange(_BINS).to(knots) * 1e-6 * (knots[-1] - knots[0]).clamp_min(1e-6)  # strictly growing
    values = values.clamp_min(_LEAST * float(values.max()))
    scaled = errors / _interpolate(local_mean(denoised), knots, values)
    power = torch.fft.rfft2(scaled, norm="ortho").abs().square().mean((0, 1))
    covariance = torch.fft.irfft2(power, s=errors.shape[-2:])
    return LocalLaw(knots, values, covariance / covariance[0, 0])
