r"""Noise schedules of models trained in their own time: which :math:`t` is which noise level, and back.

A model trained on :math:`z_t = \alpha_t x_0 + s_t n` is used here at the noise level :math:`\sigma = s_t / \alpha_t` of
:math:`x = z_t / \alpha_t = x_0 + \sigma n`. A schedule is the pair of maps :math:`t \leftrightarrow \sigma` and
:math:`\alpha(\sigma)`; the noise in z is then :math:`s_t = \alpha \sigma`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Schedule(ABC):
    """The maps between a model's time and the noise level; all take and return tensors of any shape."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of time `t`."""

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """Time of noise level `sigma` > 0; inverse of `sigma`."""

    @abstractmethod
    def alpha(self, sigma: Tensor) -> Tensor:
        """Factor on the clean image in the model's state z."""

    @property
    @abstractmethod
    def time_range(self) -> tuple[float, float]:
        """Times of the smallest and the largest noise level the schedule defines."""


class VPSchedule(Schedule):
    r"""Variance preserving, :math:`\alpha^2 + s^2 = 1`."""

    def alpha(self, sigma: Tensor) -> Tensor:
        r"""Return :math:`(1 + \sigma^2)^{-1/2}`."""
        return (1 + sigma**2).rsqrt()


@dataclass(frozen=True)
class LinearVP(VPSchedule):
    r"""VP with :math:`\beta(t)` linear in :math:`t \in [0, 1]`, :math:`\sigma(t)^2 = e^{(b_1-b_0)t^2/2 + b_0 t} - 1`.

    Parameters
    ----------
    beta_start, beta_end : float
        :math:`b_0` and :math:`b_1` (Song et al. 2021, appendix C).
    time_min : float
        Smallest time the model was trained at; the noise vanishes at 0.

    Raises
    ------
    ValueError
        Unless ``0 < beta_start < beta_end`` and ``0 < time_min < 1``.
    """

    beta_start: float = 0.1
    beta_end: float = 20.0
    time_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.beta_start < self.beta_end < math.inf:
            raise ValueError(f"expected 0 < beta_start < beta_end, got {self.beta_start} and {self.beta_end}")
        if not 0 < self.time_min < 1:
            raise ValueError(f"time_min must lie in (0, 1), got {self.time_min}")

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of time `t`."""
        return torch.expm1(0.5 * (self.beta_end - self.beta_start) * t**2 + self.beta_start * t).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """Root of the quadratic in t, in the form that does not cancel at small noise."""
        exponent = torch.log1p(sigma**2)
        slope = self.beta_end - self.beta_start
        return 2 * exponent / (self.beta_start + (self.beta_start**2 + 2 * slope * exponent).sqrt())

    @property
    def time_range(self) -> tuple[float, float]:
        """From `time_min` to 1."""
        return self.time_min, 1.0


@dataclass(frozen=True)
class DiscreteVP(VPSchedule):
    r"""VP on integer times 0..T-1, as DDPM models are trained.

    Between two integers log sigma is linear in time, so the two maps are exact inverses of each other; beyond the ends
    the time is clamped.

    Parameters
    ----------
    alphas_cumprod : sequence of float
        :math:`\bar\alpha_t = \alpha_t^2`, strictly falling inside (0, 1).

    Raises
    ------
    ValueError
        If the sequence is shorter than 2, leaves (0, 1) or does not fall strictly.
    """

    alphas_cumprod: Sequence[float] | Tensor
    _log_sigmas: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bars = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64).detach().cpu()
        if bars.ndim != 1 or len(bars) < 2 or not ((bars > 0) & (bars < 1)).all() or not (bars.diff() < 0).all():
            raise ValueError("alphas_cumprod must be a list of at least 2 values in (0, 1) that fall strictly")
        object.__setattr__(self, "alphas_cumprod", tuple(bars.tolist()))
        object.__setattr__(self, "_log_sigmas", 0.5 * (torch.log1p(-bars) - bars.log()))

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> "DiscreteVP":
        r"""Make the schedule from the :math:`\beta_t` of DDPM."""
        return cls(torch.cumprod(1 - torch.as_tensor(betas, dtype=torch.float64), 0))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of the (fractional) time index `t`."""
        table = self._log_sigmas.to(t)
        low = t.floor().clamp(0, len(table) - 2).long()
        part = (t - low).clamp(0, 1)
        return torch.lerp(table[low], table[low + 1], part).exp()

    def time(self, sigma: Tensor) -> Tensor:
        """Fractional time index of noise level `sigma`."""
        table = self._log_sigmas.to(sigma)
        value = sigma.log()
        low = (torch.searchsorted(table, value.contiguous(), right=True) - 1).clamp(0, len(table) - 2)
        part = (value - table[low]) / (table[low + 1] - table[low])
        return low + part.clamp(0, 1)

    @property
    def time_range(self) -> tuple[float, float]:
        """First and last index."""
        return 0.0, float(len(self._log_sigmas) - 1)


@dataclass(frozen=True)
class FlowSchedule(Schedule):
    r"""Rectified flow :math:`z = (1-t) x_0 + t n`, :math:`\sigma = t/(1-t)`; data at t = 0.

    Parameters
    ----------
    time_min, time_max : float
        Times the model is used between; the noise vanishes at 0 and is infinite at 1.
    """

    time_min: float = 1e-3
    time_max: float = 1 - 1e-2

    def __post_init__(self) -> None:
        if not 0 < self.time_min < self.time_max < 1:
            raise ValueError(f"expected 0 < time_min < time_max < 1, got {self.time_min} and {self.time_max}")

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of time `t`."""
        return t / (1 - t)

    def time(self, sigma: Tensor) -> Tensor:
        """Time of noise level `sigma`."""
        return sigma / (1 + sigma)

    def alpha(self, sigma: Tensor) -> Tensor:
        """Return 1 - t."""
        return 1 / (1 + sigma)

    @property
    def time_range(self) -> tuple[float, float]:
        """From `time_min` to `time_max`."""
        return self.time_min, self.time_max


@dataclass(frozen=True)
class GeometricVE(Schedule):
    r"""Variance exploding, :math:`\sigma(t) = \sigma_{min} (\sigma_{max}/\sigma_{min})^t`, :math:`\alpha = 1`.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Noise levels at t = 0 and t = 1 (Song et al. 2021, appendix C).
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of time `t`."""
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def time(self, sigma: Tensor) -> Tensor:
        """Time of noise level `sigma`."""
        return torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def alpha(self, sigma: Tensor) -> Tensor:
        """Ones."""
        return torch.ones_like(sigma)

    @property
    def time_range(self) -> tuple[float, float]:
        """From 0 to 1."""
        return 0.0, 1.0
