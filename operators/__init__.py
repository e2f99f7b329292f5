"""Forward operators: one operator, or one family, a file."""

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.downsample import Downsample
from sciinstruct.operators.intensity import IntensityMap
from sciinstruct.operators.mask import PixelMask
from sciinstruct.operators.sim import StructuredIllumination

__all__ = ["Convolution", "Downsample", "GaussianBlur", "IntensityMap", "PixelMask", "StructuredIllumination"]
