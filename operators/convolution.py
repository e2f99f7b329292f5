"""Convolution with a point-spread function, with every boundary and its exact transpose."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sciinstruct.core.checks import check_finite
from sciinstruct.core.operator import LinearOperator
from sciinstruct.operators.padding import Boundary, check_boundary, extend, fast_length, fold


class PaddedFilter(LinearOperator):
    """Work on an image extended beyond its edges, margins cut off: what convolutions have in common.

    Parameters
    ----------
    reach : tuple of int, (kh, kw)
        Sides of the point-spread function, centre at ``(kh // 2, kw // 2)``.
    image_shape : tuple of int, (H, W) or (C, H, W)
        Shape of the image; two numbers mean one channel.
    boundary : str
        See `Convolution`.

    Attributes
    ----------
    margins : pair of pairs of int, ((top, bottom), (left, right))
        Samples that the filter needs beyond the data on each side; zeros where the grid is periodic anyway.
    grid : tuple of int, (M, N)
        Sides of the FFTs: the extended image, and a few more where that makes them fast.

    Raises
    ------
    ValueError
        If `boundary` is unknown or `image_shape` has another number of axes.
    """

    def __init__(self, reach: tuple[int, int], image_shape: tuple[int, ...], boundary: Boundary) -> None:
        super().__init__()
        check_boundary(boundary)
        channels, height, width = with_channel(image_shape)
        self.boundary, self.margins, self.grid = boundary, ((0, 0), (0, 0)), (height, width)
        self.domain_shape = self.range_shape = (channels, height, width)
        if boundary == "circular":
            return
        (kh, kw), added = reach, (0, 0) if boundary == "valid" else (reach[0] - 1, reach[1] - 1)
        self.margins = ((kh - 1 - kh // 2, kh // 2), (kw - 1 - kw // 2, kw // 2))
        self.grid = (fast_length(height + added[0]), fast_length(width + added[1]))
        if boundary == "valid":
            self.range_shape = (channels, height - kh + 1, width - kw + 1)

    def _widen(self, x: Tensor) -> Tensor:
        """Image (..., H, W) with its margins; nothing is added if they are part of the image."""
        (top, bottom), (left, right) = self.margins
        return extend(extend(x, -2, top, bottom, self.boundary), -1, left, right, self.boundary)

    def _widen_transpose(self, x: Tensor) -> Tensor:
        (top, bottom), (left, right) = self.margins
        return fold(fold(x, -1, left, right, self.boundary), -2, top, bottom, self.boundary)

    def _cut(self, spectrum: Tensor) -> Tensor:
        """Data (..., *range sides) from the half spectrum on the grid."""
        (top, _), (left, _) = self.margins
        rows, columns = self.range_shape[-2:]
        return torch.fft.irfft2(spectrum, s=self.grid)[..., top : top + rows, left : left + columns]

    def _cut_transpose(self, y: Tensor) -> Tensor:
        """Half spectrum of the data put back between zeros; `_correlated` is the other half of the transpose."""
        (top, _), (left, _) = self.margins
        return torch.fft.rfft2(pad(y, [left, 0, top, 0]), s=self.grid)

    def _correlated(self, spectrum: Tensor) -> Tensor:
        """Extended image (..., H + top + bottom, W + left + right) from a half spectrum on the grid."""
        sides = self.domain_shape[-2:]
        if self.boundary != "valid":
            sides = tuple(n + sum(pair) for n, pair in zip(sides, self.margins))
        return torch.fft.irfft2(spectrum, s=self.grid)[..., : sides[0], : sides[1]]


class Convolution(PaddedFilter):
    r"""Convolution with a measured point-spread function, :math:`y_i = \sum_j h_j\, x_{i - j + c}`.

    Parameters
    ----------
    psf : Tensor, shape (kh, kw)
        Point-spread function h. Its centre c is pixel ``(kh // 2, kw // 2)``: the middle of odd sides, the first
        pixel after the middle of even ones (where ``torch.fft.fftshift`` puts the zero). It is divided by its sum.
        Slightly negative values, left by a subtracted background, are kept.
    image_shape : tuple of int, (H, W) or (C, H, W)
        Shape of the image; two numbers mean one channel.
    boundary : str
        What lies beyond the edge: ``"circular"`` (default; diagonal in Fourier space), ``"reflect"`` (mirrored at the
        outer side of the edge pixel, as in ``scipy.ndimage``), ``"replicate"`` (the edge pixel again), ``"zero"``, or
        ``"valid"``: nothing is assumed, the image reaches beyond the data, which are (H - kh + 1, W - kw + 1). That
        is the right choice for a camera that sees a part of a larger scene; datum i is centred on pixel
        ``i + (kh - 1) // 2``.

    Attributes
    ----------
    transfer : Tensor, shape (H, W), complex128
        Circular boundary alone has it: eigenvalues in the order of ``torch.fft.fft2``.

    Raises
    ------
    TypeError
        If `psf` is not a floating tensor.
    ValueError
        If `psf` is not two-dimensional, not finite, larger than the image, or its sum is not positive.

    Notes
    -----
    Two FFTs per call, of the image plus the reach of the kernel. Both maps are exact transposes of each other.
    """

    gain: Tensor
    transfer: Tensor

    def __init__(self, psf: Tensor, image_shape: tuple[int, ...], boundary: Boundary = "circular") -> None:
        psf = normalised(psf, with_channel(image_shape)[1:])
        if psf.ndim != 2:
            raise ValueError(f"psf must have two axes, rows and columns, got shape {tuple(psf.shape)}")
        super().__init__((psf.shape[0], psf.shape[1]), image_shape, boundary)
        kernel = centred(psf, self.grid)
        self.register_buffer("gain", torch.fft.rfft2(kernel))
        if boundary == "circular":
            self.register_buffer("transfer", torch.fft.fft2(kernel))

    def apply(self, x: Tensor) -> Tensor:
        """Blurred image, (B, C, H, W) -> (B, *range_shape)."""
        spectrum = torch.fft.rfft2(self._widen(x), s=self.grid)
        return self._cut(spectrum * self.gain.to(x.device, spectrum.dtype))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Transpose, (B, *range_shape) -> (B, C, H, W): correlation, margins folded back."""
        spectrum = self._cut_transpose(y)
        wide = self._correlated(spectrum * self.gain.conj().to(y.device, spectrum.dtype))
        return self._widen_transpose(wide)


def with_channel(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(C, H, W) of an image shape with or without channels; raises ValueError on another number of axes."""
    if len(image_shape) not in (2, 3) or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (H, W) or (C, H, W), got {tuple(image_shape)}")
    channels = image_shape[0] if len(image_shape) == 3 else 1
    return channels, image_shape[-2], image_shape[-1]


def normalised(psf: Tensor, sides: tuple[int, int]) -> Tensor:
    """Point-spread function(s) (..., kh, kw) divided by their sums, in float64; refuses what cannot be one."""
    if not isinstance(psf, Tensor) or not psf.is_floating_point():
        raise TypeError(f"psf must be a floating tensor, got {getattr(psf, 'dtype', type(psf).__name__)}")
    if psf.ndim < 2 or not psf.numel():
        raise ValueError(f"psf must have two axes, rows and columns, and a pixel, got shape {tuple(psf.shape)}")
    check_finite("psf", psf)
    if psf.shape[-2] > sides[0] or psf.shape[-1] > sides[1]:
        raise ValueError(f"psf must not be larger than the image {sides}, got {tuple(psf.shape[-2:])}; crop the psf")
    total = psf.double().sum((-2, -1), keepdim=True)
    if not (total > 0).all():
        raise ValueError(f"psf must have a positive sum, got {float(total.min()):.3g}; subtract less background")
    return psf.double() / total


def centred(psf: Tensor, grid: tuple[int, int]) -> Tensor:
    """Point-spread function(s) (..., kh, kw) on a larger grid, the centre (kh // 2, kw // 2) moved to (0, 0)."""
    kh, kw = psf.shape[-2:]
    wide = pad(psf, [0, grid[1] - kw, 0, grid[0] - kh])
    return wide.roll((-(kh // 2), -(kw // 2)), (-2, -1))
