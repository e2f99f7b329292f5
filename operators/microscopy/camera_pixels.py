"""Camera pixels larger than the image's: photons are summed, not averaged."""

from torch import Tensor

from sciinstruct.core.operator import LinearComposition, LinearOperator
from sciinstruct.operators.convolution import PaddedFilter


class CameraPixels(LinearOperator):
    r"""Sum over square blocks, :math:`y_{ij} = \sum_{a,b<r} x_{ri+a,\,rj+b}`: every photon is kept.

    Parameters
    ----------
    factor : int
        Side r of a camera pixel, in pixels of the image.
    image_shape : tuple of int, (..., H, W)
        Shape of the image or stack.

    Raises
    ------
    ValueError
        If `factor` is not a whole number that divides H and W.
    """

    def __init__(self, factor: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width = image_shape[-2:]
        if factor < 1 or factor != int(factor) or height % factor or width % factor:
            raise ValueError(
                f"factor must divide the {height} x {width} pixels that the camera sees, got {factor}; change the "
                f"image's shape (under the boundary 'valid' the camera sees the image less the margins)"
            )
        self.factor = int(factor)
        self.domain_shape = tuple(image_shape)
        self.range_shape = (*image_shape[:-2], height // self.factor, width // self.factor)

    def apply(self, x: Tensor) -> Tensor:
        """Block sums, (B, ..., H, W) -> (B, ..., H/r, W/r)."""
        rows, columns = self.range_shape[-2:]
        blocks = x.unflatten(-1, (columns, self.factor)).unflatten(-3, (rows, self.factor))
        return blocks.sum((-3, -1))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Every datum repeated over its block, (B, ..., H/r, W/r) -> (B, ..., H, W)."""
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


class CameraBlur(LinearComposition):
    """A blur seen by camera pixels of `factor` x `factor` image pixels: what the microscopes with cameras share.

    Attributes
    ----------
    factor : int
        Side of a camera pixel in pixels of the image.
    margin : tuple of int
        Pixels of the image (rows, columns) above and left of the first camera pixel: none unless the boundary is
        ``"valid"``.
    """

    def __init__(self, blur: PaddedFilter, factor: int) -> None:
        super().__init__(CameraPixels(factor, blur.range_shape), blur)
        (top, _), (left, _) = blur.margins
        self.factor, self.margin = int(factor), (top, left) if blur.boundary == "valid" else (0, 0)
