"""The cheapest way to condition a stationary field on an instrument: Fourier modes, a basis, or iterations."""

import torch
from torch import Tensor

from sciinstruct.core import PriorError
from sciinstruct.inference.conditioned_field import ConditionedField, DiagonalField, IterativeField, filter_modes
from sciinstruct.inference.fourier_field import FourierField
from sciinstruct.inference.instrument import Instrument

_DENSE = 1024  # numbers in one image up to which a basis is computed


def condition(power: Tensor, instrument: Instrument, examples: Tensor) -> ConditionedField:
    """Condition a field of given power on an instrument by the cheapest way; arguments as above."""
    if instrument.law.varies:
        return varying_field(power, instrument, examples)
    y, exact, shape = _double(examples[:1]), power.double(), instrument.event_shape
    gain = _circular_gain(instrument, y, exact)
    if gain is not None:
        return DiagonalField((exact / (1 + exact * gain)).to(power), None, shape)
    if torch.Size(shape).numel() > _DENSE:
        return IterativeField(power, instrument, examples)
    values, basis = _eigenmodes(instrument, y, exact)
    return DiagonalField(values.to(power), basis.to(power), shape)


def varying_field(power: Tensor, instrument: Instrument, examples: Tensor) -> ConditionedField:
    """For instruments that differ from measurement to measurement; arguments as above."""
    if instrument.law.circular_information(examples[:1]) is None:
        return IterativeField(power, instrument, examples)
    if not isinstance(instrument.prior.scale, int | float):
        raise PriorError("blurs that differ need a prior of one unit for all channels")
    return FourierField(power, instrument.law, instrument.prior.scale)


def _double(y: Tensor) -> Tensor:
    return y.to(torch.complex128 if y.is_complex() else torch.float64)


def _eigenmodes(instrument: Instrument, y: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior variances (d,) and modes (d, d), by dense algebra."""
    shape = instrument.event_shape
    d = torch.Size(shape).numel()
    eye = torch.eye(d, dtype=power.dtype, device=power.device)
    images = eye.reshape(d, *shape)
    root = filter_modes(images, power.sqrt()).flatten(1)
    information = instrument.information(y.expand(d, *y.shape[1:]))(images).flatten(1)
    system = eye + root @ (0.5 * (information + information.T)) @ root
    posterior = root @ torch.linalg.solve(system, root)
    values, basis = torch.linalg.eigh(0.5 * (posterior + posterior.T))
    return values.clamp_min(0), basis


def _circular_gain(instrument: Instrument, y: Tensor, power: Tensor) -> Tensor | None:
    """Eigenvalues of the Fisher information where it is a circular convolution, channel by channel; else None."""
    shape = instrument.event_shape
    points = power.new_zeros(shape[0], *shape)
    points[torch.arange(shape[0]), torch.arange(shape[0]), 0, 0] = 1
    kernel = instrument.information(y.expand(shape[0], *y.shape[1:]))(points)[range(shape[0]), range(shape[0])]
    gain = torch.fft.rfft2(kernel).real
    probe = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[None].to(power)
    found = instrument.information(y)(probe)
    scale = 100 * torch.finfo(power.dtype).eps * float(found.abs().max())
    return gain.clamp_min(0) if torch.allclose(filter_modes(probe, gain), found, rtol=0, atol=scale) else None
