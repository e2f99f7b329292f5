r"""Measurements as noisy numbers of the clean event, each with noise of its own.

Linear data with :math:`A^T V^{-1} A` diagonal in an orthonormal basis say of every coordinate u of the event
:math:`z = u + s n`, independently, and nothing of coordinates of precision :math:`1/s^2 = 0`. Masks have that form
pixel by pixel; an instrument that is the same for all items has it in the eigenvectors of its Fisher information.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import PriorError
from sciinstruct.inference.flowdiff_gaussian import item_information
from sciinstruct.inference.instrument import Instrument

_ROUNDING = 10  # units in the last place of the largest precision: what is below may be nothing


class Coordinates(NamedTuple):
    """Data of n items in d coordinates, float64 before `to`."""

    values: Tensor  # (n, d): z, 0 where nothing was measured
    precision: Tensor  # (n, d), or (1, d) for all: one over the noise's variance
    basis: Tensor | None  # (d, d), coordinates in columns; None: the event's own numbers

    @property
    def measured(self) -> Tensor:
        """Where data say something, shape of `precision`."""
        return self.precision > 0

    @property
    def noise(self) -> Tensor:
        """Standard deviations s, 0 where nothing was measured, shape of `precision`."""
        return torch.where(self.measured, self.precision, torch.ones_like(self.precision)).rsqrt() * self.measured

    def rows(self, index: Tensor) -> "Coordinates":
        """Some of the items."""
        shared = len(self.precision) == 1
        return Coordinates(self.values[index], self.precision if shared else self.precision[index], self.basis)

    def enter(self, x: Tensor) -> Tensor:
        """Coordinates (B, d) of events (B, *event)."""
        return x.flatten(1) if self.basis is None else x.flatten(1) @ self.basis

    def leave(self, u: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        """Events (B, *event) of coordinates (B, d)."""
        return (u if self.basis is None else u @ self.basis.T).reshape(-1, *event_shape)

    def to(self, like: Tensor) -> "Coordinates":
        """In the dtype and on the device of a tensor."""
        return Coordinates(self.values.to(like), self.precision.to(like), self._moved(like))

    def _moved(self, like: Tensor) -> Tensor | None:
        return None if self.basis is None else self.basis.to(like)


def coordinates(instrument: Instrument, y: Tensor) -> Coordinates:
    """Bring measurements (n, *range_shape) into that form, in the units of the instrument's prior.

    Raises
    ------
    PriorError
        If items are seen through instruments that differ other than number by number, as blurs do.
    """
    zero = instrument.centre.to(y.real).expand(len(y), *instrument.event_shape) * 0
    pulled = instrument.weighted(instrument.misfit(zero, y), y).flatten(1).double()
    least = _ROUNDING * torch.finfo(zero.dtype).eps
    if not instrument.law.varies:  # type: ignore[attr-defined]
        return _shared(item_information(instrument, y[:1])[0][0], pulled, least)
    if not _number_by_number(instrument, y[:1]):
        raise PriorError(
            "the instrument differs from item to item and mixes the event's numbers: only masks and noise levels may "
            "differ here; FlowDiff takes such measurements"
        )
    return _quotient(pulled, instrument.information(y)(torch.ones_like(zero)).flatten(1).double(), None, least)


def _shared(information: Tensor, pulled: Tensor, least: float) -> Coordinates:
    diagonal = information.diagonal()
    if torch.equal(information, diagonal.diag()):
        return _quotient(pulled, diagonal[None], None, least)
    values, vectors = torch.linalg.eigh(information)
    return _quotient(pulled @ vectors, values[None], vectors, least)


def _quotient(pulled: Tensor, precision: Tensor, basis: Tensor | None, least: float) -> Coordinates:
    precision = torch.where(precision > least * precision.max(), precision, torch.zeros_like(precision))
    safe = torch.where(precision > 0, precision, torch.ones_like(precision))
    return Coordinates(torch.where(precision > 0, pulled / safe, torch.zeros_like(pulled)), precision, basis)


def _number_by_number(instrument: Instrument, y: Tensor) -> bool:
    """Whether every number of an event has data of its own, for the item y (1, *range_shape)."""
    d = torch.Size(instrument.event_shape).numel()
    eye = torch.eye(d, dtype=y.real.dtype, device=y.device).reshape(d, *instrument.event_shape)
    found = instrument.information(y.expand(d, *y.shape[1:]))(eye).flatten(1)
    return torch.equal(found, found.diagonal().diag())
