r"""Priors made from a network that was trained elsewhere, whatever it predicts.

The network was trained on :math:`z_t = \alpha_t x_0 + s_t n` and is called as ``network(z, t)`` with z of shape
(B, ...) and t of shape (B,), both in the dtype of the images. Each wrapper turns its output into what the package uses,
:math:`D(x, \sigma) = E[x_0 | x_0 + \sigma n = x]` at :math:`x = z_t/\alpha_t`, :math:`\sigma = s_t/\alpha_t`:

=================== ============================= ==================================
class               the network predicts          D
=================== ============================= ==================================
`EpsPrior`          n                             :math:`x - \sigma\,\text{net}(z, t)`
`VPrior`            :math:`\alpha n - s x_0` (VP) :math:`\alpha z - s\,\text{net}(z, t)`
`ScorePrior`        :math:`\nabla \log p_t(z)`    :math:`(z + s^2\,\text{net}(z, t))/\alpha`
`FlowPrior`         :math:`n - x_0`               :math:`z - t\,\text{net}(z, t)`
`DenoiserPrior`     D, called with (x, sigma)     itself
=================== ============================= ==================================

A network that takes or returns something else (an object with ``.sample``, a label, time from 1 to 0) is wrapped in a
two-line function first.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import PriorError, expand_sigma
from sciinstruct.core.checks import check_positive
from sciinstruct.diffusion import DiscreteVP, FlowSchedule, Schedule, VPSchedule
from sciinstruct.priors.base import Prior

Network = Callable[[Tensor, Tensor], Tensor]


class DenoiserPrior(Prior):
    """A prior from a function that already denoises, such as an EDM-preconditioned network.

    Parameters
    ----------
    network : callable
        ``network(x, sigma) -> D`` with x (B, *event_shape) and sigma (B,); a module is registered and moves along.
    event_shape : sequence of int
        Shape of one image.
    sigma_range : tuple of float
        Smallest and largest noise level the network was trained at, in its own units.
    scale, shift : float
        ``physical = scale * x + shift``.

    Raises
    ------
    PriorError
        On use, if the network returns another shape than it was given.
    TypeError, ValueError
        If the network is no callable, a shape or range is not positive or rising, or `scale` is zero or not finite.
    """

    def __init__(
        self,
        network: Network,
        event_shape: Sequence[int],
        sigma_range: tuple[float, float],
        *,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        if not callable(network):
            raise TypeError(f"network must be a callable or torch module, got {type(network).__name__}")
        if not event_shape or min(event_shape) < 1:
            raise ValueError(f"event_shape must hold positive sides, got {tuple(event_shape)}")
        low, high = sigma_range
        check_positive("sigma_range", torch.tensor([low, high], dtype=torch.float64))
        if not low < high:
            raise ValueError(f"sigma_range must rise, got {(low, high)}")
        check_positive("abs(scale)", abs(scale))
        self.network = network
        self.event_shape = tuple(event_shape)
        self.sigma_range = (float(low), float(high))
        self.scale, self.shift = float(scale), float(shift)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Expectation of the clean image. `x` (B, *event_shape); `sigma` a number or (B,), in units of x."""
        self.check(x)
        wide = _levels(sigma, x)
        return self._predict(x, wide).to(x.dtype)

    def _predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D at `sigma`, (B, 1, ...) in float64."""
        return self._call(x, sigma.flatten().to(x.dtype))

    def _call(self, state: Tensor, level: Tensor) -> Tensor:
        out = self.network(state, level)
        if not isinstance(out, Tensor) or out.shape != state.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise PriorError(f"network must return a tensor of shape {tuple(state.shape)}, got {got}")
        return out


class ScheduledPrior(DenoiserPrior):
    """Base of the wrappers of networks that run in their own time; subclasses write `_clean`.

    Parameters
    ----------
    network : callable
        ``network(z, t)`` with z (B, *event_shape) and t (B,), the time of `schedule`.
    event_shape : sequence of int
        Shape of one image.
    schedule : Schedule
        The maps between time and noise level the network was trained with.
    sigma_range : tuple of float, optional
        Noise levels to use; default those of the schedule's time range.
    scale, shift : float
        ``physical = scale * x + shift``.
    """

    def __init__(
        self,
        network: Network,
        event_shape: Sequence[int],
        schedule: Schedule,
        *,
        sigma_range: tuple[float, float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a sciinstruct.diffusion.Schedule, got {type(schedule).__name__}")
        if sigma_range is None:
            low, high = schedule.sigma(torch.tensor(schedule.time_range, dtype=torch.float64)).tolist()
            sigma_range = (low, high)
        super().__init__(network, event_shape, sigma_range, scale=scale, shift=shift)
        self.schedule = schedule

    def _predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        alpha, time = self.schedule.alpha(sigma), self.schedule.time(sigma)
        state = alpha.to(x.dtype) * x
        out = self._call(state, time.flatten().to(x.dtype))
        return self._clean(x, out, sigma.to(x.dtype), alpha.to(x.dtype))

    @abstractmethod
    def _clean(self, x: Tensor, out: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
        """D from the network's output; z is ``alpha * x``, the noise in z ``alpha * sigma``."""


class EpsPrior(ScheduledPrior):
    """A prior from a network that predicts the noise n (DDPM, most released image models)."""

    def _clean(self, x: Tensor, out: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
        return x - sigma * out


class VPrior(ScheduledPrior):
    r"""A prior from a network that predicts :math:`v = \alpha n - s x_0` (Salimans and Ho 2022, appendix D).

    Raises
    ------
    TypeError
        If the schedule is not variance preserving: v is defined by :math:`\alpha^2 + s^2 = 1`.
    """

    def __init__(
        self,
        network: Network,
        event_shape: Sequence[int],
        schedule: VPSchedule,
        *,
        sigma_range: tuple[float, float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        if not isinstance(schedule, VPSchedule):
            raise TypeError(f"schedule must be LinearVP or DiscreteVP for v prediction, got {type(schedule).__name__}")
        super().__init__(network, event_shape, schedule, sigma_range=sigma_range, scale=scale, shift=shift)

    def _clean(self, x: Tensor, out: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
        return alpha * (alpha * x - sigma * out)


class ScorePrior(ScheduledPrior):
    r"""A prior from a network that predicts the score :math:`\nabla_z \log p_t(z)`, in 1/units of z (Song et al.)."""

    def _clean(self, x: Tensor, out: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
        return x + alpha * sigma**2 * out


class FlowPrior(ScheduledPrior):
    """A prior from a rectified-flow network that predicts ``n - x0`` at ``z = (1 - t) x0 + t n`` (data at t = 0).

    For a network with data at t = 1 pass ``lambda z, t: -net(z, 1 - t)``.
    """

    def __init__(
        self,
        network: Network,
        event_shape: Sequence[int],
        schedule: FlowSchedule | None = None,
        *,
        sigma_range: tuple[float, float] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> None:
        schedule = FlowSchedule() if schedule is None else schedule
        if not isinstance(schedule, FlowSchedule):
            raise TypeError(f"schedule must be a FlowSchedule, got {type(schedule).__name__}")
        super().__init__(network, event_shape, schedule, sigma_range=sigma_range, scale=scale, shift=shift)

    def _clean(self, x: Tensor, out: Tensor, sigma: Tensor, alpha: Tensor) -> Tensor:
        return alpha * (x - sigma * out)  # z = alpha x, t = alpha sigma


def from_diffusers(network: Callable[..., Any], scheduler: object, event_shape: Sequence[int]) -> ScheduledPrior:
    """Wrap an unconditional model of the diffusers package with the scheduler it was trained with.

    Parameters
    ----------
    network : callable
        A ``UNet2DModel`` or alike, called as ``network(z, t)`` and returning an object with ``.sample``.
    scheduler : object
        Its scheduler: ``alphas_cumprod`` and ``config.prediction_type`` ("epsilon" or "v_prediction") are read.
    event_shape : sequence of int
        Shape of one image.

    Raises
    ------
    PriorError
        If the scheduler has no ``alphas_cumprod`` or another prediction type.
    """
    bars = getattr(scheduler, "alphas_cumprod", None)
    if bars is None:
        raise PriorError(
            "scheduler must be a discrete VP scheduler with alphas_cumprod; else use FlowPrior or ScorePrior"
        )
    kind = getattr(getattr(scheduler, "config", None), "prediction_type", None)
    wrappers: dict[object, type[ScheduledPrior]] = {"epsilon": EpsPrior, "v_prediction": VPrior}
    if kind not in wrappers:
        raise PriorError(f"scheduler.config.prediction_type must be one of {sorted(map(str, wrappers))}, got {kind!r}")
    return wrappers[kind](_SampleOf(network), event_shape, DiscreteVP(bars))


class _SampleOf(torch.nn.Module):
    """Unwraps the output object of a diffusers model."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Return ``network(z, t).sample``."""
        out: Tensor = self.network(z, t).sample
        return out


def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Return sigma as (B, 1, ...) in float64, so that the maps to the network's time lose nothing in float32."""
    check_positive("sigma", sigma)
    wide = torch.as_tensor(sigma, dtype=torch.float64, device=x.device)
    expand_sigma(wide, x)  # shape check
    return wide.reshape(-1, *[1] * (x.ndim - 1)).expand(len(x), *[1] * (x.ndim - 1))
