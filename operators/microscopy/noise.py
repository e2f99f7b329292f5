r"""Laws of camera data in electrons, :math:`z = (\text{ADU} - \text{offset}) \times \text{conv}`, given their mean.

Predictions :math:`\lambda` are expected electrons per pixel, dark current included, (B, ...). A prior of images without
bounds, and a blur's ringing, make some of them slightly negative, where no Poisson law exists: the Gaussian laws then
keep the mean as it is and take only the variance at zero light, the Poisson laws bend the rate to stay positive
(`_positive`). Either way the gradient still pulls such a pixel up.
"""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.noise import NoiseModel
from sciinstruct.core.random import randn_like

_FLOOR = 1e-2  # e-: where the bend of the Poisson laws' rate begins; a rate of 0.5 grows by 2e-4
_EXACT_LIMIT = 300.0  # e-: the sum needs as many terms, and the Gaussian law is exact to 1e-3 nat long before


def _positive(prediction: Tensor) -> Tensor:
    r"""Rate above zero, :math:`(\lambda + \sqrt{\lambda^2 + 4 f^2})/2`: f at zero, and within f^2/lambda well above."""
    return 0.5 * (prediction + (prediction.square() + 4 * _FLOOR**2).sqrt())


def _poisson_log_prob(counts: Tensor, rate: Tensor) -> Tensor:
    """Poisson law continued between the integers by the gamma function, pixel by pixel."""
    return counts * rate.log() - rate - torch.lgamma(counts + 1)


class _ReadNoise(NoiseModel):
    """What the laws with read noise share."""

    read: Tensor

    def __init__(self, read: Tensor | float) -> None:
        super().__init__()
        read = torch.as_tensor(read)
        check_positive("read", read)
        self.register_buffer("read", read.double())

    def _read_variance(self, prediction: Tensor) -> Tensor:
        read = self.read.to(prediction.device, prediction.dtype)
        try:
            return read.square().expand(prediction.shape[1:])
        except RuntimeError:
            raise ValueError(
                f"read is a map of shape {tuple(read.shape)}, the predictions have shape "
                f"{tuple(prediction.shape[1:])}: cut or mask the camera's maps as the data were"
            ) from None

    def variance(self, prediction: Tensor) -> Tensor:
        """Light's and reading's, max(lambda, 0) + r^2, in e-^2."""
        return prediction.clamp(min=0) + self._read_variance(prediction)

    def whiten(self, y: Tensor, prediction: Tensor) -> Tensor:
        """(z - lambda)/sd, flattened, (B, n)."""
        return ((y - prediction) / self.variance(prediction).sqrt()).flatten(1)

    def _electrons(self, prediction: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.poisson(prediction.clamp(min=0), generator=generator)

    def sample(self, prediction: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Electrons as the sensor counts them, at rate max(lambda, 0), plus normal read noise."""
        read = self._read_variance(prediction).sqrt()
        return self._electrons(prediction, generator) + read * randn_like(prediction, generator)


class PoissonGaussianNoise(_ReadNoise):
    r"""Photon and read noise by a Gaussian of the right mean and variance: the default for a camera.

    :math:`-\log p(z \mid \lambda) = \frac{(z - \lambda)^2}{2 (\lambda + r^2)} + \frac12 \log 2\pi(\lambda + r^2)`.
    The logarithm is part of the law: without it bright predictions cost nothing and estimates come out too high.

    Parameters
    ----------
    read : float or Tensor
        Standard deviation r of the read noise, in electrons; a map that broadcasts to the data for sCMOS sensors.

    Raises
    ------
    ValueError
        If `read` is not positive and finite; on use, if a map does not fit the predictions.

    Notes
    -----
    `log_prob` stands for the sum over electrons of `ExactPoissonGaussian`, from which `sample` draws. Per pixel the
    divergence between the two is 0.050 nat at (lambda, r) = (0.5, 0.5) and 0.0082 at (10, 0.5); whatever lambda, at
    most 0.0049 with r = 1.6 and 0.00035 with r = 6.
    """

    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Normalised log-density of the electrons z, (B,)."""
        variance = self.variance(prediction)
        terms = (y - prediction).square() / variance + variance.log() + math.log(2 * math.pi)
        return -0.5 * terms.flatten(1).sum(1)


class MultipliedNoise(PoissonGaussianNoise):
    r"""Light seen through a gain register (EMCCD): the photon variance doubles, reading hardly counts.

    Gaussian of variance :math:`2 \lambda + r^2`. The register turns k electrons into a Gamma(k) number of gains,
    whose own variance adds a second k; data and `read` are in electrons before the register.

    Notes
    -----
    `sample` draws the Gamma law, which is skewed: `log_prob` diverges from it by 0.10 nat a pixel at lambda = 5, 0.041
    at 10, 0.0076 at 50. Estimates of a flat field stay unbiased.
    """

    def variance(self, prediction: Tensor) -> Tensor:
        """Excess factor 2 on the light's variance, in e-^2."""
        return 2 * prediction.clamp(min=0) + self._read_variance(prediction)

    def _electrons(self, prediction: Tensor, generator: torch.Generator | None) -> Tensor:
        return multiplied(super()._electrons(prediction, generator), generator)


def multiplied(electrons: Tensor, generator: torch.Generator | None) -> Tensor:
    """Output of a gain register over its gain, Gamma(k, 1) for k electrons and 0 for none."""
    # torch.distributions.Gamma takes no generator; this is the function it calls
    drawn = torch._standard_gamma(electrons.clamp(min=1), generator=generator)
    return torch.where(electrons > 0, drawn, torch.zeros_like(drawn))


class PoissonNoise(NoiseModel):
    r"""Photon noise alone, :math:`\log p(z \mid \lambda) = z \log \lambda - \lambda - \log \Gamma(z + 1)`.

    For counted photons (z = 0, 1, 2, ...). Cameras have read noise: data of theirs can fall below zero, where this
    law has none.

    Raises
    ------
    ValueError
        On use, if the data have a negative count.
    """

    def variance(self, prediction: Tensor) -> Tensor:
        """The rate itself."""
        return _positive(prediction)

    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Log-probability of the counts, (B,)."""
        if (y < 0).any():
            raise ValueError(
                f"PoissonNoise needs counts of zero or more, the smallest of y is {y.min():.3g}: "
                "a camera's read noise makes them, use PoissonGaussianNoise(read)"
            )
        return _poisson_log_prob(y, _positive(prediction)).flatten(1).sum(1)

    def whiten(self, y: Tensor, prediction: Tensor) -> Tensor:
        """(z - lambda)/sqrt(lambda), flattened, (B, n)."""
        return ((y - prediction) / self.variance(prediction).sqrt()).flatten(1)

    def sample(self, prediction: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Counts at the rate of `log_prob`."""
        return torch.poisson(_positive(prediction), generator=generator)


class ShiftedPoissonNoise(_ReadNoise):
    r"""Photon and read noise by a Poisson law, :math:`z + r^2 \sim \text{Poisson}(\lambda + r^2)`.

    Mean and variance are right and the law is skewed, as the data are; z below -r^2 counts as -r^2. That pulls
    estimates up where such data are common: by 12 % at (lambda, r) = (0.5, 0.5), hardly above lambda = 2.

    Parameters
    ----------
    read : float or Tensor
        Standard deviation r of the read noise, in electrons, or a map of it.

    Raises
    ------
    ValueError
        If `read` is not positive and finite; on use, if a map does not fit the predictions.
    """

    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Log-density of the shifted electrons, (B,), normalised over whole counts."""
        shift = self._read_variance(prediction)
        return _poisson_log_prob((y + shift).clamp(min=0), _positive(prediction) + shift).flatten(1).sum(1)


class ExactPoissonGaussian(_ReadNoise):
    r"""Photon and read noise without approximation, the reference of the others; slow.

    :math:`p(z \mid \lambda) = \sum_k \text{Poisson}(k; \lambda)\, N(z; k, r^2)`, the sum cut where it no longer counts.

    Parameters
    ----------
    read : float or Tensor
        Standard deviation r of the read noise, in electrons, or a map of it.

    Raises
    ------
    ValueError
        If `read` is not positive and finite; on use, if a map does not fit the predictions, or above 300 electrons.
    """

    def log_prob(self, y: Tensor, prediction: Tensor) -> Tensor:
        """Normalised log-density of the electrons z, (B,)."""
        rate, variance = _positive(prediction), self._read_variance(prediction)
        largest = float(torch.maximum(rate.detach(), y).max())
        if largest > _EXACT_LIMIT:
            raise ValueError(
                f"ExactPoissonGaussian sums over every electron and takes up to {_EXACT_LIMIT:.0f}, "
                f"got {largest:.3g}: use PoissonGaussianNoise"
            )
        k = torch.arange(int(largest + 12 * math.sqrt(largest + 1)) + 10, dtype=rate.dtype, device=rate.device)
        photons = _poisson_log_prob(k, rate.unsqueeze(-1))
        reading = (y.unsqueeze(-1) - k).square() / variance.unsqueeze(-1) + (2 * math.pi * variance).log().unsqueeze(-1)
        return (photons - 0.5 * reading).logsumexp(-1).flatten(1).sum(1)
