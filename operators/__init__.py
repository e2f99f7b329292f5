"""Forward operators: one operator, or one family, a file."""

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.downsample import Downsample
from sciinstruct.operators.image_mask import ImageMask, MaskedGaussianNoise
from sciinstruct.operators.intensity import IntensityMap
from sciinstruct.operators.mask import PixelMask
from sciinstruct.operators.sim import StructuredIllumination
from sciinstruct.operators.varying_blur import VaryingBlur

__all__ = [
    "Convolution",
    "Downsample",
    "GaussianBlur",
    "ImageMask",
    "IntensityMap",
    "MaskedGaussianNoise",
    "PixelMask",
    "StructuredIllumination",
    "VaryingBlur",
]
