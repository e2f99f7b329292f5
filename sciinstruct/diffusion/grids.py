"""Grids of noise levels: float64 tensors that fall strictly from the largest level to the smallest, never to zero.

Choose `sigma_max` at least 20 standard deviations of the data, `sigma_min` at most a tenth of the smallest feature's.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sciinstruct.diffusion.schedules import FlowSchedule, LinearVP, Schedule


def check_sigmas(sigmas: Sequence[float] | Tensor) -> tuple[float, ...]:
    """Return the grid as floats; ValueError unless it has 2 or more finite, positive, strictly falling levels."""
    levels = tuple(torch.as_tensor(sigmas, dtype=torch.float64).flatten().tolist())
    if len(levels) < 2:
        raise ValueError(f"sigmas must hold at least 2 noise levels, got {len(levels)}")
    if not all(math.isfinite(s) and s > 0 for s in levels):
        raise ValueError(
            f"sigmas must be positive and finite, got {min(levels):.3g} to {max(levels):.3g}; "
            "end the grid at a small level, the final denoise goes on to zero"
        )
    for i, (high, low) in enumerate(pairwise(levels)):
        if not low < high:
            raise ValueError(f"sigmas must fall strictly, but entry {i + 1} ({low:.6g}) follows {high:.6g}")
    return levels


def _check_ends(n: int, sigma_min: float, sigma_max: float) -> None:
    if n < 2:
        raise ValueError(f"n must be at least 2 noise levels, got {n}")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")


def _pin_ends(sigmas: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    """Give back the ends as they were asked for, free of the roundoff of the maps there and back."""
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    check_sigmas(sigmas)
    return sigmas


def log_uniform(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Levels evenly spaced in log sigma, so every decade of structure gets the same number of steps: the default.

    Parameters
    ----------
    n : int
        Number of levels, both ends included.
    sigma_min, sigma_max : float
        Ends of the grid, in the prior's units.

    Returns
    -------
    Tensor, shape (n,)
        float64, falling from `sigma_max` to `sigma_min`.

    Raises
    ------
    ValueError
        If ``n < 2`` or not ``0 < sigma_min < sigma_max``.
    """
    _check_ends(n, sigma_min, sigma_max)
    levels = torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64).exp()
    return _pin_ends(levels, sigma_min, sigma_max)


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    r"""Levels evenly spaced in :math:`\sigma^{1/\rho}`; `log_uniform` is the limit of large `rho`.

    Spends few steps on small levels: 10 times and more worse than `log_uniform` on fields of high dynamic range.

    References
    ----------
    Karras et al. 2022, equation 5.
    """
    _check_ends(n, sigma_min, sigma_max)
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}")
    roots = torch.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n, dtype=torch.float64)
    return _pin_ends(roots**rho, sigma_min, sigma_max)


def uniform_time(n: int, sigma_min: float, sigma_max: float, schedule: Schedule) -> Tensor:
    """Levels evenly spaced in the time of `schedule`, between the given ends."""
    _check_ends(n, sigma_min, sigma_max)
    last, first = schedule.time(torch.tensor([sigma_min, sigma_max], dtype=torch.float64)).tolist()
    levels = schedule.sigma(torch.linspace(first, last, n, dtype=torch.float64))
    return _pin_ends(levels, sigma_min, sigma_max)


def vp_time(n: int, sigma_min: float, sigma_max: float, beta_start: float = 0.1, beta_end: float = 20.0) -> Tensor:
    """Levels evenly spaced in the time of the linear VP schedule, for wrapped models that must be run so.

    Not for fields of high dynamic range: on a k^-3 spectrum it is off by 0.1 nats per mode and more at 24 steps.
    """
    return uniform_time(n, sigma_min, sigma_max, LinearVP(beta_start, beta_end))


def flow_time(n: int, sigma_min: float, sigma_max: float, shift: float = 1.0) -> Tensor:
    r"""Levels evenly spaced in rectified-flow time, shifted towards noise by ``shift``.

    :math:`\sigma = \text{shift} \cdot t / (1 - t)` with t uniform; ``shift = 1`` is the plain flow time.

    References
    ----------
    Esser et al. 2024, equation 23 (timestep shift for higher resolutions).
    """
    if not shift > 0:
        raise ValueError(f"shift must be positive, got {shift}")
    _check_ends(n, sigma_min, sigma_max)
    levels = shift * uniform_time(n, sigma_min / shift, sigma_max / shift, FlowSchedule())
    return _pin_ends(levels, sigma_min, sigma_max)


def from_timesteps(timesteps: Sequence[float] | Tensor, schedule: Schedule) -> Tensor:
    """Noise levels of the times a wrapped model is to be evaluated at, in the order given.

    Raises
    ------
    ValueError
        If the levels do not fall strictly (a time repeated, or times in rising order).
    """
    levels = schedule.sigma(torch.as_tensor(timesteps, dtype=torch.float64))
    check_sigmas(levels)
    return levels
