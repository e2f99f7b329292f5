r"""A stationary Gaussian field seen by an instrument: solves with :math:`C^{-1} + A^T V^{-1} A + \sigma^{-2}`.

The same algebra gives posterior means, posterior draws, and posterior denoisers at every noise level. It is diagonal
where the instrument is a circular convolution with constant noise; images of up to 1024 pixels behind one fixed
instrument are diagonalised once; everything else goes by conjugate gradients, and no matrix is formed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sciinstruct.inference.gaussian_draw import conjugate_gradients
from sciinstruct.inference.instrument import Instrument

_TOLERANCE, _MOST = 3e-5, 300
_Map = Callable[[Tensor], Tensor]


class ConditionedField(nn.Module, ABC):
    """Zero-mean field of covariance C, conditioned on data with Fisher information :math:`N = A^T V^{-1} A`.

    Attributes
    ----------
    latents : int
        Standard normal numbers that one draw takes.
    """

    latents: int

    @abstractmethod
    def shrink(self, v: Tensor, y: Tensor, sigma: Tensor | None = None) -> Tensor:
        r""":math:`(C^{-1} + N + \sigma^{-2})^{-1} v` for v (B, C, H, W), sigma (B,); None leaves the last term out."""

    @abstractmethod
    def soften(self, v: Tensor, y: Tensor, sigma: Tensor | None = None) -> Tensor:
        """White images v given the scale and the smoothness of what the data leave open, linear in v."""

    @abstractmethod
    def whiten(self, v: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """Differences v from the posterior mean, seen in noise of level sigma (B,), with all modes brought alike."""

    @abstractmethod
    def draw(self, y: Tensor, z: Tensor) -> Tensor:
        """Posterior fluctuations (B, C, H, W), of zero mean, from standard normal z (B, latents)."""

    @abstractmethod
    def spread(self, y: Tensor) -> Tensor:
        """Images (B, m, H, W) that tell a network what was measured where."""


class DiagonalField(ConditionedField):
    """Diagonal in a basis that is computed once: Fourier modes (`basis` None), or any orthonormal one.

    Parameters
    ----------
    values : Tensor, shape (C, H, W // 2 + 1) or (d,)
        Posterior variance of every mode.
    basis : Tensor, shape (d, d), or None
        Modes in columns.
    event_shape : tuple of int
    """

    values: Tensor
    basis: Tensor | None
    pixel: Tensor

    def __init__(self, values: Tensor, basis: Tensor | None, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("basis", basis)
        self.event_shape, self.latents = tuple(event_shape), torch.Size(event_shape).numel()
        pixel = values.new_ones(event_shape)
        if basis is not None:
            pixel = (basis.square() @ values).reshape(event_shape).sqrt()
        self.register_buffer("pixel", pixel / pixel.max())

    def shrink(self, v: Tensor, y: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Scale every mode."""
        return self._scale(v, self._variance(sigma))

    def soften(self, v: Tensor, y: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The symmetric square root of `shrink`."""
        return self._scale(v, self._variance(sigma).sqrt())

    def whiten(self, v: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """Every mode over its standard deviation: white if the posterior is the field's own."""
        square = sigma.square().reshape(-1, *[1] * self.values.ndim)
        return self._scale(v, (self.values + square).rsqrt())

    def draw(self, y: Tensor, z: Tensor) -> Tensor:
        """The root times z."""
        return self.soften(z.reshape(-1, *self.event_shape), y)

    def spread(self, y: Tensor) -> Tensor:
        """Posterior standard deviation of each pixel over the largest."""
        return self.pixel.expand(len(y), *self.event_shape)

    def _variance(self, sigma: Tensor | None) -> Tensor:
        if sigma is None:
            return self.values
        square = sigma.square().reshape(-1, *[1] * self.values.ndim)
        return self.values * square / (self.values + square)

    def _scale(self, v: Tensor, gain: Tensor) -> Tensor:
        if self.basis is None:
            return torch.fft.irfft2(torch.fft.rfft2(v) * gain, s=v.shape[-2:])
        return (((v.flatten(1) @ self.basis) * gain) @ self.basis.T).reshape(v.shape)


class IterativeField(ConditionedField):
    """Any instrument, also one that differs from measurement to measurement, by conjugate gradients.

    Parameters
    ----------
    power : Tensor, shape (C, H, W // 2 + 1)
        Variance of every mode of the field, half-plane of ``torch.fft.rfft2``.
    instrument : Instrument
    examples : Tensor, shape (n, *range_shape)
        One measurement or more: the size of the data.
    """

    power: Tensor

    def __init__(self, power: Tensor, instrument: Instrument, examples: Tensor) -> None:
        super().__init__()
        self.register_buffer("power", power)
        object.__setattr__(self, "instrument", instrument)
        self.event_shape = instrument.event_shape
        self.data = instrument.noise_shape(examples[:1])
        self.pixels = torch.Size(self.event_shape).numel()
        self.latents = self.pixels + self.data.numel()

    instrument: Instrument

    def shrink(self, v: Tensor, y: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Conjugate gradients forwards and, the matrix being symmetric, backwards."""
        root = self._root(sigma)
        return filter_modes(self._solve(filter_modes(v, root), y, root), root)

    def soften(self, v: Tensor, y: Tensor, sigma: Tensor | None = None) -> Tensor:
        """As the posterior covariance times the inverse root of C: no square root without a matrix."""
        root = self._root(sigma)
        return filter_modes(self._solve(v, y, root), root)

    def whiten(self, v: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """The noise that the field would find in v, over sigma."""
        s = sigma.reshape(-1, 1, 1, 1)
        return (v - self.shrink(v / s.square(), y, sigma)) / s

    def draw(self, y: Tensor, z: Tensor) -> Tensor:
        """Perturbation and optimisation (Orieux, Feron and Giovannelli 2012)."""
        white, noise = z.split((self.pixels, z.shape[1] - self.pixels), 1)
        root = self._root(None)
        pulled = self.instrument.pull_white(noise.reshape(-1, *self.data), y)
        right = white.reshape(-1, *self.event_shape) + filter_modes(pulled, root)
        return filter_modes(self._solve(right, y, root), root)

    def spread(self, y: Tensor) -> Tensor:
        """What the simulator says varies."""
        return self.instrument.law.maps(y)

    def _root(self, sigma: Tensor | None) -> Tensor:
        if sigma is None:
            return self.power.sqrt()
        square = sigma.square().reshape(-1, 1, 1, 1)
        return (self.power * square / (self.power + square)).sqrt()

    def _solve(self, right: Tensor, y: Tensor, root: Tensor) -> Tensor:
        """(I + L N L)^-1 right, differentiable in it; L is diagonal in Fourier modes, `root`."""
        information, scale = self.instrument.information(y), _isometry(right)

        def matrix(u: Tensor) -> Tensor:
            image = _from_modes(u, root / scale, right.shape)
            return u + _to_modes(information(image), root * scale)

        # with N replaced by its mean eigenvalue the matrix is diagonal; one probe gives the trace, of a mask exactly
        probe = torch.ones_like(right)
        probe[..., ::2] = -1
        share = (probe * information(probe)).mean((1, 2, 3), keepdim=True).clamp_min(0)
        gain = (1 / (1 + root.square() * share))[..., None]
        solution = _Solve.apply(_to_modes(right, scale), matrix, lambda u: u * gain)
        return _from_modes(solution, 1 / scale, right.shape)


def _to_modes(x: Tensor, gain: Tensor) -> Tensor:
    """Orthonormal Fourier modes times `gain`, real and imaginary parts along a last axis."""
    return torch.view_as_real(torch.fft.rfft2(x, norm="ortho") * gain)


def _from_modes(u: Tensor, gain: Tensor, shape: torch.Size) -> Tensor:
    """Image of a shape from modes as `_to_modes` gives them, after `gain`."""
    return torch.fft.irfft2(torch.view_as_complex(u) * gain, s=shape[-2:], norm="ortho")


def _isometry(x: Tensor) -> Tensor:
    """What the columns of the half-plane count, as roots: with it, modes have the images' scalar product."""
    scale = x.new_full((x.shape[-1] // 2 + 1,), 2**0.5)
    scale[0] = 1
    if x.shape[-1] % 2 == 0:
        scale[-1] = 1
    return scale


def filter_modes(x: Tensor, gain: Tensor) -> Tensor:
    """Multiply Fourier modes, half-plane of ``torch.fft.rfft2``."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=x.shape[-2:])


class _Solve(torch.autograd.Function):
    """Solution of a symmetric system, differentiable in its right-hand side."""

    @staticmethod
    def forward(ctx: Any, right: Tensor, matrix: _Map, precondition: _Map) -> Tensor:
        ctx.matrix, ctx.precondition = matrix, precondition
        return conjugate_gradients(matrix, right, _TOLERANCE, _MOST, precondition)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            return conjugate_gradients(ctx.matrix, grad, _TOLERANCE, _MOST, ctx.precondition), None, None
