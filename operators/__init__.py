"""Forward operators: one operator, or one family, a file."""

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.mask import PixelMask

__all__ = ["GaussianBlur", "PixelMask"]
