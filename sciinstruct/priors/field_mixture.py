"""Mixture of periodic Gaussian random fields: a non-Gaussian law of images with an exact denoiser."""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.priors.analytic import AnalyticPrior


class MixtureOfFields(AnalyticPrior):
    r"""Mixture of stationary Gaussian fields on a periodic grid, each a mean image plus a power spectrum.

    Component k is :math:`x = \mu_k + F^{-1} \sqrt{P_k} F z` with F the orthonormal 2-D Fourier transform and z white.

    Parameters
    ----------
    means : Tensor, shape (K, C, H, W)
        Mean images.
    spectra : Tensor, shape (H, W), (C, H, W), (K, 1, H, W) or (K, C, H, W)
        Variance of every orthonormal Fourier mode, in the layout of ``torch.fft.fft2``; the pixel variance is its
        average over modes. Shared by all components unless it has four axes.
    weights : Tensor, shape (K,), optional
        Positive; divided by their sum. Equal by default.
    sigma_range : tuple of float, optional
        Noise levels the diffusion solvers span; by default from a tenth of the finest mode's standard deviation up.

    Raises
    ------
    ValueError
        On shapes that disagree, or spectra that are negative or not symmetric under k -> -k (the field is real).

    Notes
    -----
    A call costs two FFTs and two matrix products with shared spectra, and O(B K C H W) more with one per component.
    """

    spectra: Tensor
    multiplicity: Tensor
    means_hat: Tensor

    def __init__(
        self,
        means: Tensor,
        spectra: Tensor,
        weights: Tensor | None = None,
        *,
        sigma_range: tuple[float, float] | None = None,
    ) -> None:
        if means.ndim != 4:
            raise ValueError(f"means must have shape (K, C, H, W), got {tuple(means.shape)}")
        super().__init__(means, weights)
        half = _half_spectra(spectra, tuple(means.shape))
        self.register_buffer("spectra", half)  # (K or 1, n): rfft2 modes, flattened
        self.register_buffer("multiplicity", _multiplicity(self.event_shape, means.device))  # (n,)
        self.register_buffer("means_hat", torch.fft.rfft2(self.means, norm="ortho").flatten(1))
        self.sigma_range = sigma_range or self._default_range()

    def eigenvalue_range(self) -> tuple[float, float]:
        """Smallest and largest mode variance over all components."""
        return float(self.spectra.min()), float(self.spectra.max())

    @property
    def shared_covariance(self) -> bool:
        """Whether all components have one spectrum."""
        return len(self.spectra) == 1

    def _analyse(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, norm="ortho").flatten(1)

    def _synthesise(self, modes: Tensor) -> Tensor:
        c, h, w = self.event_shape
        return torch.fft.irfft2(modes.reshape(-1, c, h, w // 2 + 1), s=(h, w), norm="ortho")

    def full_spectra(self, half: Tensor) -> Tensor:
        """Spectra (K, C, H, W) in the layout of ``torch.fft.fft2`` from those of rfft2, (K, n)."""
        c, h, w = self.event_shape
        half = half.reshape(-1, c, h, w // 2 + 1)
        mirrored = half.flip(-2, -1).roll(1, -2)  # P(-k) for the columns rfft2 leaves out
        start = 0 if w % 2 else 1
        return torch.cat([half, mirrored[..., start : start + w - half.shape[-1]]], -1)

    def _component_log_prob(self, coefficients: Tensor, variance: Tensor) -> Tensor:
        total = self.spectra + variance[:, None, None]  # (B or 1, K or 1, n)
        volume = (self.multiplicity * (2 * math.pi * total).log()).sum(-1)
        if len(self.spectra) > 1:
            difference = coefficients[:, None] - self.means_hat
            power = difference.real.square() + difference.imag.square()
            return -0.5 * ((self.multiplicity * power / total).sum(-1) + volume)
        inverse = self.multiplicity / total[:, 0]
        power = coefficients.real.square() + coefficients.imag.square()
        cross = (inverse * coefficients) @ self.means_hat.mH
        size = inverse @ (self.means_hat.real.square() + self.means_hat.imag.square()).T
        return -0.5 * ((inverse * power).sum(1, keepdim=True) - 2 * cross.real + size + volume)

    def _shrink(self, coefficients: Tensor, variance: Tensor, gamma: Tensor) -> Tensor:
        spectra, means = self.spectra.to(variance.dtype), self.means_hat.to(coefficients.dtype)
        variance = variance[:, None, None]
        gain = spectra / (spectra + variance)  # (B or 1, K or 1, n)
        if len(spectra) == 1:
            gain = gain[:, 0]
            return self._synthesise(gain * coefficients + (1 - gain) * (gamma.to(means.dtype) @ means))
        pull = variance / (spectra + variance)
        gamma = gamma[..., None]
        return self._synthesise((gamma * gain).sum(1) * coefficients + (gamma * pull * means).sum(1))

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        modes = self._analyse(x)
        return self._synthesise(gain.to(modes.real.dtype) * modes)

    def _colour(self, white: Tensor, labels: Tensor) -> Tensor:
        return self._filter(white, self.spectra.sqrt()[labels if len(self.spectra) > 1 else 0])

    def covariance_product(self, x: Tensor, component: int) -> Tensor:
        """Covariance of one component times each image of the batch `x` (B, C, H, W)."""
        return self._filter(x, self.spectra[component if len(self.spectra) > 1 else 0])

    def component_variances(self) -> Tensor:
        """Variance of every pixel within each component, (K, C, H, W): the average of its spectrum."""
        return self.full_spectra(self.spectra).mean((-2, -1), keepdim=True).expand_as(self.means)


def _half_spectra(spectra: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Checked spectra as (K or 1, n), the modes of rfft2."""
    k, c, h, w = shape
    check_finite("spectra", spectra)
    allowed = ((h, w), (c, h, w), (k, 1, h, w), (k, c, h, w))
    if tuple(spectra.shape) not in allowed:
        raise ValueError(f"spectra must have one of the shapes {allowed}, got {tuple(spectra.shape)}")
    full = spectra.detach().double()
    mirrored = full.flip(-2, -1).roll((1, 1), (-2, -1))  # P(-k)
    if (full < 0).any() or (full - mirrored).abs().max() > 1e-6 * full.max():
        raise ValueError("spectra must be non-negative and symmetric, P(k) = P(-k), in the layout of torch.fft.fft2")
    full = 0.5 * (full + mirrored)
    full = full if full.ndim == 4 else full.expand(1, *full.shape[-3:-2] or (1,), h, w)
    return full[..., : w // 2 + 1].expand(-1, c, -1, -1).flatten(1).contiguous()


def _multiplicity(event_shape: tuple[int, ...], device: torch.device) -> Tensor:
    """How many modes of the full transform each mode of rfft2 stands for, flattened."""
    c, h, w = event_shape
    count = torch.full((w // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    count[0] = 1
    if w % 2 == 0:
        count[-1] = 1
    return count.expand(c, h, -1).flatten()
