"""Whatever holds samples and truths, as tensors whose axes are checked against each other."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinstruct.calibration.chains import independent_draws, is_arviz, per_observation, stack_arviz


class Events(NamedTuple):
    """Samples and truths of N observations."""

    samples: Tensor  # (N, S, *event_shape)
    truth: Tensor  # (N, *event_shape)
    chains: dict[str, Any] | None  # what thinning chains to independent draws found


def as_events(samples: Any, truth: Any, chains: int | None) -> Events:
    """Take tensors, arrays, labelled arrays or arviz objects.

    Parameters
    ----------
    samples : Tensor, array, xarray.DataArray, arviz object, or sequence of N of them
        (N, S, *event_shape); an arviz object holds the chains of one observation, or has a dim ``observation``.
    truth : Tensor, array or xarray.DataArray, shape (N, *event_shape)
    chains : int, optional
        Chains that an observation's samples consist of, one after the other.

    Raises
    ------
    ValueError
        If labelled axes differ, values are complex or no numbers, or `chains` does not divide the number of samples.
    """
    _check_labels(samples, truth)
    if is_arviz(samples):
        samples = per_observation(samples)
    if isinstance(samples, Sequence) and len(samples) and all(is_arviz(one) for one in samples):
        walks = stack_arviz(samples)
        return _thinned(walks, _tensor(truth))
    found, truth = _tensor(samples, "samples"), _tensor(truth)
    if chains is None:
        return Events(found, truth, None)
    if chains < 1 or found.ndim < 2 or found.shape[1] % chains:
        raise ValueError(f"chains must divide the number of samples, got {chains} for shape {tuple(found.shape)}")
    return _thinned(found.unflatten(1, (chains, -1)), truth)


def _thinned(walks: Tensor, truth: Tensor) -> Events:
    samples, numbers = independent_draws(walks)
    return Events(samples, truth, numbers)


def _tensor(values: Any, name: str = "truth") -> Tensor:
    try:
        found = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a tensor, an array of numbers, or arviz objects with a posterior, got "
            f"{type(values).__name__}{_dtype_of(values)}"
        ) from error
    if found.is_complex():
        raise ValueError(f"{name} must be real, got {found.dtype}; stack real and imaginary parts along an axis")
    return found if found.is_floating_point() else found.double()


def _dtype_of(values: Any) -> str:
    return f" of {values.dtype}" if hasattr(values, "dtype") else ""


def _check_labels(samples: Any, truth: Any) -> None:
    """Labelled axes after observation and sample must be the same, in the same order."""
    if not (hasattr(samples, "dims") and hasattr(truth, "dims") and hasattr(samples, "coords")):
        return
    axes = list(samples.dims)[2:]
    if list(truth.dims)[1:] != axes:
        raise ValueError(f"axes of samples (after two) and truth (after one) differ: {axes} and {list(truth.dims)[1:]}")
    given = {str(axis): truth[axis].values for axis in axes if axis in truth.coords}
    check_coordinates(given, {str(axis): samples[axis].values for axis in axes if axis in samples.coords})


def check_coordinates(truth: Mapping[str, Any], samples: Mapping[str, Any]) -> None:
    """Raise ValueError if an axis that both label has other coordinates: a truth on another grid, or turned around."""
    for axis in truth.keys() & samples.keys():
        a, b = np.asarray(truth[axis], dtype=float), np.asarray(samples[axis], dtype=float)
        step = abs(b[1] - b[0]) if len(b) > 1 else 1.0
        if a.shape != b.shape or np.abs(a - b).max() > 1e-3 * step:
            raise ValueError(
                f"coordinates of axis {axis!r} differ: samples {_range(b)}, truth {_range(a)}; bring the truth onto "
                "the samples' grid (turn the axis, or truth.interp_like(samples))"
            )


def _range(values: np.ndarray) -> str:
    return f"{values[0]:.6g} to {values[-1]:.6g} in {len(values)}"
