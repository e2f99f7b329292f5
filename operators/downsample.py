"""Down-sampling: an image seen by pixels larger than its own."""

import torch
from torch import Tensor

from sciinstruct.core.operator import LinearOperator


class Downsample(LinearOperator):
    r"""Average over square blocks, :math:`y_{ij} = f^{-2} \sum_{a,b<f} x_{fi+a,\,fj+b}`.

    Parameters
    ----------
    factor : int
        Side f of a block, in pixels of the image.
    image_shape : tuple of int, (H, W) or (C, H, W)
        Shape of the image; two numbers mean one channel.

    Raises
    ------
    ValueError
        If `factor` does not divide both sides, or `image_shape` has another number of axes.

    Notes
    -----
    An average keeps units per area: a constant image stays what it is. For photons per pixel multiply by f^2.
    :math:`A A^T = f^{-2} I`, so the pseudo-inverse is f^2 times the adjoint: every block filled with its average.
    """

    def __init__(self, factor: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(image_shape) not in (2, 3):
            raise ValueError(f"image_shape must be (H, W) or (C, H, W), got {tuple(image_shape)}")
        height, width = image_shape[-2:]
        if factor < 1 or height % factor or width % factor:
            raise ValueError(f"factor must divide both sides of {(height, width)}, got {factor}; crop the image first")
        self.factor = int(factor)
        channels = image_shape[0] if len(image_shape) == 3 else 1
        self.domain_shape = (channels, height, width)
        self.range_shape = (channels, height // self.factor, width // self.factor)

    def apply(self, x: Tensor) -> Tensor:
        """Block averages, (B, C, H, W) -> (B, C, H/f, W/f)."""
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Spread each datum evenly over its block, (B, C, H/f, W/f) -> (B, C, H, W)."""
        rows = (y / self.factor**2).repeat_interleave(self.factor, -2)
        return rows.repeat_interleave(self.factor, -1)
