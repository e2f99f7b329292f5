"""Pixel masks: an image of which only some pixels were measured."""

import torch
from torch import Tensor

from sciinstruct.core.operator import LinearOperator


class PixelMask(LinearOperator):
    r"""Keep the measured pixels of an image, :math:`y_k = x_{i_k}`.

    The data are the kept pixels alone, in row-major order: range ``(m,)``. Missing pixels are left out, not filled
    with zeros, so that the noise model and chi-square count only what was measured; the adjoint puts zeros there.

    Parameters
    ----------
    mask : Tensor of bool, shape (H, W) or (C, H, W)
        True where the pixel was measured. A two-dimensional mask means one channel.

    Raises
    ------
    TypeError
        If `mask` is not boolean.
    ValueError
        If `mask` has another number of axes or keeps no pixel.

    Notes
    -----
    :math:`A A^T` is the identity, so the pseudo-inverse is the adjoint. Units and dtype are kept.
    """

    index: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if mask.dtype != torch.bool:
            raise TypeError(f"mask must be a bool tensor, got {mask.dtype}; write for example image > 0")
        if mask.ndim not in (2, 3):
            raise ValueError(f"mask must have shape (H, W) or (C, H, W), got {tuple(mask.shape)}")
        if not mask.any():
            raise ValueError("mask keeps no pixel: at least one entry must be True")
        mask = mask.reshape(-1, *mask.shape[-2:])
        self.register_buffer("index", mask.flatten().nonzero().squeeze(1))
        self.domain_shape, self.range_shape = tuple(mask.shape), (len(self.index),)

    def apply(self, x: Tensor) -> Tensor:
        """Kept pixels, (B, C, H, W) -> (B, m)."""
        return x.flatten(-3).index_select(-1, self.index.to(x.device))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Put the pixels back, zeros elsewhere, (B, m) -> (B, C, H, W)."""
        flat = y.new_zeros(*y.shape[:-1], torch.Size(self.domain_shape).numel())
        return flat.index_copy(-1, self.index.to(y.device), y).unflatten(-1, self.domain_shape)
