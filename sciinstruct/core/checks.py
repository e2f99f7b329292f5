"""Checks at the door: each names the argument, what was expected, what came."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_finite(name: str, value: Tensor) -> None:
    """Raise ValueError if `value` holds a NaN or an infinity."""
    bad = ~torch.isfinite(torch.view_as_real(value) if value.is_complex() else value)
    if bad.any():
        raise ValueError(f"{name} must be finite, {int(bad.sum())} of {bad.numel()} values are NaN or infinite")


def check_positive(name: str, value: Tensor | float) -> None:
    """Raise ValueError unless every entry is finite and above zero."""
    smallest = float(torch.as_tensor(value).min())
    if not smallest > 0 or smallest == float("inf"):
        raise ValueError(f"{name} must be positive and finite, its smallest value is {smallest:.3g}")


def check_event(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise TypeError or ValueError unless `value` is a floating batch of events of `shape`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not (value.is_floating_point() or value.is_complex()):
        raise TypeError(f"{name} must be a floating tensor, got {value.dtype}; convert it with .float()")
    n = len(shape)
    if value.ndim < n + 1 or tuple(value.shape[-n:]) != tuple(shape):
        raise ValueError(f"{name} must have shape (batch, {', '.join(map(str, shape))}), got {tuple(value.shape)}")
