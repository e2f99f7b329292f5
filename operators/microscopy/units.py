"""Units at the door: plain numbers in the unit of the argument's name, or quantities that know their own."""

import math
from typing import Any

import torch
from torch import Tensor


def to_unit(value: Any, unit: str, name: str) -> float:
    """One number in `unit`.

    Parameters
    ----------
    value : float or astropy.units.Quantity
        A plain number is taken to be in `unit` already; a quantity is converted.
    unit : str
        Unit as astropy spells it: "um", "nm", "rad".
    name : str
        Name of the argument, for the error message.

    Raises
    ------
    TypeError
        If `value` is not a number.
    ValueError
        If it has a unit that does not convert to `unit`, or is NaN or infinite.
    """
    number = _in_unit(value, unit, name)
    try:
        if isinstance(number, (bool, str)):
            raise TypeError
        result = float(number)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be one number in {unit}, got {value!r}") from None
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {result}")
    return result


def to_unit_tensor(value: Any, unit: str, name: str) -> Tensor:
    """A number or a sequence of numbers in `unit` as a float64 tensor; errors as for :func:`to_unit`."""
    numbers = _in_unit(value, unit, name)
    try:
        result = torch.as_tensor(numbers, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be numbers in {unit}, got {value!r}") from None
    if not torch.isfinite(result).all():
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def _in_unit(value: Any, unit: str, name: str) -> Any:
    """`value` without its unit: told by its method `to_value`, so that astropy need not be imported."""
    if not hasattr(value, "to_value"):
        return value
    try:
        return value.to_value(unit)
    except Exception as error:  # astropy's own class, a subclass of TypeError and ValueError by version
        raise ValueError(f"{name} must be convertible to {unit}: {error}") from error
