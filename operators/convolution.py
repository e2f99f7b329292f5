"""Convolution with a point-spread function, with every boundary and its exact transpose."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sciinstruct.core.checks import check_finite
from sciinstruct.core.operator import LinearOperator
from sciinstruct.operators.padding import Boundary, check_boundary, extend, fast_length, fold

Margins = tuple[tuple[int, int], tuple[int, int]]


class PaddedFilter(LinearOperator):
    r"""Extend the image beyond its edges, multiply its spectrum by a transfer function, cut the margins off.

    :math:`A = C\,F^{-1}\,\mathrm{diag}(H)\,F\,E`, so that :math:`A^T = E^T F^{-1}\,\mathrm{diag}(\bar H)\,F\,C^T`:
    the transpose puts zeros where the margins were and folds them back, both written out.

    Parameters
    ----------
    kernel : Tensor, shape (M, N)
        Impulse response on the padded grid, its centre at pixel (0, 0) and periodic there. M and N are at least the
        sides of the extended image (`padded_shape`); what is beyond is filled with zeros.
    image_shape : tuple of int, (H, W) or (C, H, W)
        Shape of the image; two numbers mean one channel.
    margins : pair of pairs of int, ((top, bottom), (left, right))
        Samples by which the image is extended, at least the reach of the kernel: from its centre upwards to its
        last row (top), and downwards to its first (bottom).
    boundary : str
        See `sciinstruct.operators.padding.extend`. With ``"valid"`` nothing is added: the data are smaller than the
        image by the margins. With ``"circular"`` the margins are not needed: give zeros, and a kernel of shape (H, W).

    Raises
    ------
    ValueError
        If `boundary` is unknown, or the margins are longer than the image.
    """

    gain: Tensor

    def __init__(self, kernel: Tensor, image_shape: tuple[int, ...], margins: Margins, boundary: Boundary) -> None:
        super().__init__()
        check_boundary(boundary)
        self.domain_shape = with_channel(image_shape)
        self.boundary, self.margins, self._fft_shape = boundary, margins, tuple(kernel.shape)
        taken = [sum(pair) for pair in margins] if boundary == "valid" else [0, 0]
        self.range_shape = (self.domain_shape[0], *(n - t for n, t in zip(self.domain_shape[1:], taken)))
        if min(self.range_shape) < 1:
            raise ValueError(f"image_shape must be larger than the margins {margins}, got {image_shape}")
        self.register_buffer("gain", torch.fft.rfft2(kernel.double()))

    def apply(self, x: Tensor) -> Tensor:
        """Filtered image, (B, C, H, W) -> (B, *range_shape)."""
        (top, bottom), (left, right) = self.margins
        wide = extend(extend(x, -2, top, bottom, self.boundary), -1, left, right, self.boundary)
        rows, columns = self.range_shape[-2:]
        return self._filter(wide, self.gain)[..., top : top + rows, left : left + columns]

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Transpose, (B, *range_shape) -> (B, C, H, W)."""
        (top, bottom), (left, right) = self.margins
        rows, columns = (n + a + b for n, (a, b) in zip(y.shape[-2:], self.margins))
        wide = self._filter(pad(y, [left, right, top, bottom]), self.gain.conj())[..., :rows, :columns]
        return fold(fold(wide, -1, left, right, self.boundary), -2, top, bottom, self.boundary)

    def _filter(self, x: Tensor, gain: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, s=self._fft_shape)
        return torch.fft.irfft2(spectrum * gain.to(x.device, spectrum.dtype), s=self._fft_shape)


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

    transfer: Tensor

    def __init__(self, psf: Tensor, image_shape: tuple[int, ...], boundary: Boundary = "circular") -> None:
        check_boundary(boundary)
        sides = with_channel(image_shape)[1:]
        psf = normalised(psf, sides)
        if psf.ndim != 2:
            raise ValueError(f"psf must have two axes, rows and columns, got shape {tuple(psf.shape)}")
        if boundary == "circular":
            margins, grid = ((0, 0), (0, 0)), sides
        else:
            margins = tuple((n - 1 - n // 2, n // 2) for n in psf.shape)  # type: ignore[assignment]
            added = (0, 0) if boundary == "valid" else (psf.shape[0] - 1, psf.shape[1] - 1)
            grid = tuple(fast_length(n + a) for n, a in zip(sides, added))  # type: ignore[assignment]
        kernel = centred(psf, grid)
        super().__init__(kernel, image_shape, margins, boundary)
        if boundary == "circular":
            self.register_buffer("transfer", torch.fft.fft2(kernel))


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
