"""Non-uniform Fourier sums through pytorch-finufft, with its conventions pinned down.

pytorch-finufft defaults to FFT mode order (``modeord=1``), which gives an answer wrong by a few per cent without an
error, and its backward passes cannot be differentiated again. Here the two sums are each other's derivative, so any
order works, inside ``torch.func`` too.
"""

import math
from typing import Any

import torch
from torch import Tensor

_EPS = {torch.complex64: 1e-6, torch.complex128: 1e-12}


def _options(values: Tensor, isign: int) -> dict[str, float | int]:
    """Precision of the input, mode order -N/2 .. (N-1)/2, and on the CPU as many threads as torch may use."""
    options: dict[str, float | int] = {"isign": isign, "modeord": 0, "eps": _EPS[values.dtype]}
    if values.device.type == "cpu":
        options["nthreads"] = torch.get_num_threads()
    return options


class _ImageToPoints(torch.autograd.Function):
    @staticmethod
    def forward(image: Tensor, points: Tensor) -> Tensor:
        from pytorch_finufft.functional import finufft_type2

        image = image.contiguous()
        return finufft_type2(points, image, **_options(image, -1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        image, points = inputs
        ctx.save_for_backward(points)
        ctx.shape = tuple(image.shape[-2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _PointsToImage.apply(grad, ctx.saved_tensors[0], ctx.shape), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], image: Tensor, points: Tensor) -> tuple[Tensor, int]:
        return _ImageToPoints.apply(image.movedim(in_dims[0] or 0, 0), points), 0


class _PointsToImage(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, points: Tensor, shape: tuple[int, int]) -> Tensor:
        from pytorch_finufft.functional import finufft_type1

        values = values.contiguous()
        return finufft_type1(points, values, shape, **_options(values, 1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, tuple[int, int]], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ImageToPoints.apply(grad, ctx.saved_tensors[0]), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], values: Tensor, points: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, int]:
        return _PointsToImage.apply(values.movedim(in_dims[0] or 0, 0), points, shape), 0


def wrap_points(points: Tensor) -> Tensor:
    """Bring points (radians) into [-pi, pi): modes are whole numbers, so nothing changes, and finufft asks for it."""
    return torch.remainder(points + math.pi, 2 * math.pi) - math.pi


def image_to_points(image: Tensor, points: Tensor) -> Tensor:
    r"""Sum over pixels :math:`\sum_{ij} x_{ij} e^{-i (n_i k_1 + n_j k_2)}`, with n = -N//2 ... counted from the middle.

    Parameters
    ----------
    image : Tensor, complex, shape (..., H, W)
        Values of the pixels.
    points : Tensor, shape (2, M)
        Row and column frequency of each output, radians per pixel, within [-pi, pi).

    Returns
    -------
    Tensor, complex, shape (..., M)
    """
    return _ImageToPoints.apply(image, points)


def points_to_image(values: Tensor, points: Tensor, shape: tuple[int, int]) -> Tensor:
    """Hermitian adjoint of :func:`image_to_points`: complex (..., M) -> complex (..., H, W)."""
    return _PointsToImage.apply(values, points, shape)
