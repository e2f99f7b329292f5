"""From a prior's image to expected counts: scale and background, stated."""

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.core.operator import Operator


class IntensityMap(Operator):
    r"""Photons :math:`p = s\,x + b` of an image x in the prior's own units, pixel by pixel.

    A diffusion prior knows structures at one brightness; an exposure has another, above a background. Both numbers
    belong to the measurement and change its noise, so they stand here, in the open and ahead of the optics
    (``WidefieldBlur(...) @ IntensityMap(...)``), where a normalisation of the data to the prior's range would hide
    them, and with them how much the data can tell.

    Parameters
    ----------
    scale : float or Tensor
        Photo-electrons per unit of image, s > 0. A tensor of one axis holds one number per image of the batch; any
        other must broadcast against (B, *image_shape), as a profile of the illumination of shape `image_shape` does.
    background : float or Tensor
        Photo-electrons per pixel where the image is zero, b >= 0, shapes as `scale`'s. Optics that keep the flux
        leave a constant background as it is.
    image_shape : tuple of int
        Shape of one image, (C, H, W) or (C, Z, H, W).

    Raises
    ------
    ValueError
        If `scale` is not positive, `background` is negative, either is not finite or does not fit `image_shape`; on
        use, if they hold numbers for another count of images than the batch has.

    Examples
    --------
    >>> IntensityMap(200.0, 10.0, (1, 2, 2))(torch.ones(1, 1, 2, 2)).unique().item()
    210.0
    """

    scale: Tensor
    background: Tensor

    def __init__(self, scale: Tensor | float, background: Tensor | float, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.domain_shape = self.range_shape = tuple(image_shape)
        check_positive("scale", scale)
        self.register_buffer("scale", self._fitted("scale", scale))
        self.register_buffer("background", self._fitted("background", background))
        if (self.background < 0).any():
            raise ValueError(f"background must not be negative, its smallest value is {self.background.min():.3g}")

    def _fitted(self, name: str, value: Tensor | float) -> Tensor:
        value = torch.as_tensor(value, dtype=torch.float64)
        check_finite(name, value)
        if value.ndim == 1:
            value = value.reshape(-1, *[1] * len(self.domain_shape))
        batch = value.shape[:1] if value.ndim > len(self.domain_shape) else (1,)
        try:
            value.expand(*batch, *self.domain_shape)
        except RuntimeError:
            raise ValueError(
                f"{name} must be a number, hold one number per image, or broadcast to (batch, "
                f"{', '.join(map(str, self.domain_shape))}), got shape {tuple(value.shape)}"
            ) from None
        return value

    def _for(self, name: str, value: Tensor, x: Tensor) -> Tensor:
        if value.ndim > len(self.domain_shape) and value.shape[0] not in (1, x.shape[0]):
            raise ValueError(f"{name} holds numbers for {value.shape[0]} images, the batch has {x.shape[0]}")
        return value.to(x.device, x.dtype)

    def apply(self, x: Tensor) -> Tensor:
        """Expected photo-electrons, (B, *image_shape) -> (B, *image_shape)."""
        return self._for("scale", self.scale, x) * x + self._for("background", self.background, x)
