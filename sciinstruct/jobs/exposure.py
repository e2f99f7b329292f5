"""From a microscope's frame to an inverse problem: latent pixels, background, brightness, a prior of the right size."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Likelihood, NoiseModel, Operator, PriorError
from sciinstruct.core.checks import check_finite

if TYPE_CHECKING:
    from sciinstruct.operators.microscopy import PSFBlur
    from sciinstruct.priors import NetworkPrior

_FOREGROUND = 0.3  # of the brightest pixels: how the training images' unit is defined
_RL_ITERATIONS = 20
_SMOOTH = 2.0  # camera pixels, before the background is read off
_DARK = 10  # per cent of a neighbourhood, as large as the prior's images, that are background
_SAME_PIXEL = 0.25  # relative difference of pixels beyond which a prior's structures have the wrong size


@dataclass(frozen=True)
class Exposure:
    """An inverse problem of one frame, and what was assumed on the way.

    Parameters
    ----------
    problem : InverseProblem
        Images of relative density (the prior's), data in electrons.
    blur : PSFBlur
        The optics and the camera's pixels.
    scale : float
        Photo-electrons per latent pixel of an image pixel of value 1.
    background : Tensor, shape (H, W)
        Photo-electrons per latent pixel where the image is zero.
    seen : tuple of slice
        Rows and columns of the latent image that the camera's field covers.
    """

    problem: InverseProblem
    blur: "PSFBlur"
    scale: float
    background: Tensor
    seen: tuple[slice, slice]

    def crop(self, images: Tensor) -> Tensor:
        """The camera's field of latent images (..., H, W)."""
        return images[..., self.seen[0], self.seen[1]]


def choose_factor(camera_pixel_um: float, prior_pixel_um: float) -> int:
    """Latent pixels per camera pixel, so that the latent pixel is nearest to the prior's.

    Raises
    ------
    PriorError
        If no whole number brings the two within a quarter of each other.
    """
    factor = max(1, round(camera_pixel_um / prior_pixel_um))
    ratio = camera_pixel_um / factor / prior_pixel_um
    if abs(ratio - 1) > _SAME_PIXEL:
        raise PriorError(
            f"camera pixels of {camera_pixel_um:.4g} um do not go with this prior's of {prior_pixel_um:.4g} um: split "
            f"in {factor} they are {ratio:.2f} times as large; train a prior on pixels of this size"
        )
    return factor


def expose(
    electrons: Tensor,
    psf: Tensor,
    prior: "NetworkPrior",
    noise: NoiseModel,
    *,
    factor: int = 1,
    pixel_um: float | None = None,
    background: float | Tensor | None = None,
    scale: float | None = None,
    keep: Tensor | None = None,
    name: str = "micrograph",
) -> Exposure:
    """Put frame, optics and prior together.

    Parameters
    ----------
    electrons : Tensor, shape (H, W)
        One frame, offset subtracted.
    psf : Tensor, shape (kh, kw)
        On latent pixels, `factor` to a camera pixel's side; odd sides.
    prior : NetworkPrior
        Of square images no larger than the latent field; a larger field is tiled.
    noise : NoiseModel
        Of the electrons given their mean.
    pixel_um : float, optional
        Camera pixel, for the coordinates.
    background : float or Tensor of shape (H, W), optional
        Electrons per camera pixel where the specimen is dark; by default the darkest tenth of each pixel's
        neighbourhood, which takes haze for background where it is wider than the prior's images.
    scale : float, optional
        Electrons per latent pixel of a typical foreground; by default read off a short Richardson-Lucy image.
    keep : Tensor of bool, shape (H, W), optional
        Pixels to use; saturated ones are left out. `noise` must fit those that are left.
    name : str
        For reports.

    Raises
    ------
    ValueError
        If the frame is not one finite image, holds no light above the background, or a number is out of range.
    PriorError
        If the prior's images are larger than the field or have several channels.
    """
    from sciinstruct.operators.intensity import IntensityMap
    from sciinstruct.operators.mask import PixelMask
    from sciinstruct.operators.microscopy import PSFBlur

    frame = electrons.double().squeeze()
    if frame.ndim != 2:
        raise ValueError(f"electrons must be one frame (H, W), got {tuple(electrons.shape)}; choose a plane")
    check_finite("electrons", frame)
    reach = tuple(side // 2 for side in psf.shape)
    sides = tuple(n * factor + 2 * r for n, r in zip(frame.shape, reach))
    blur = PSFBlur(psf.double(), sides, "valid", factor)
    window = prior.event_shape[-1] // factor
    dark = _darkest(frame, window) if background is None else torch.as_tensor(background).double().expand(frame.shape)
    check_finite("background", dark)
    if (dark < 0).any():
        raise ValueError(f"background must not be negative, got {dark.min():.4g} electrons; is the offset right?")
    bright = _foreground(frame, blur, dark) if scale is None else float(scale)
    per_pixel = _on_latent_pixels(dark, factor, reach)
    operator: Operator = blur @ IntensityMap(bright, per_pixel[None, None], blur.domain_shape)
    y = frame[None].float()
    if keep is not None and not bool(keep.all()):
        chosen = PixelMask(keep)
        operator, y = chosen @ operator, chosen(y[None])
    likelihood = Likelihood(operator, noise, y)
    seen = tuple(slice(r, r + n * factor) for n, r in zip(frame.shape, reach))
    axes = _coordinates(sides, reach, None if pixel_um is None else pixel_um / factor)
    problem = InverseProblem(fitted_prior(prior, (sides[0], sides[1])), likelihood, axes, name)
    return Exposure(problem, blur, bright, per_pixel, (seen[0], seen[1]))


def haze(electrons: Tensor, exposure: Exposure, images: Tensor, width: float = 4.0) -> Tensor:
    """Background per camera pixel, with what the images leave unexplained over more than a few pixels put into it.

    Parameters
    ----------
    electrons : Tensor, shape (H, W)
        The frame `exposure` was made from.
    exposure : Exposure
    images : Tensor, shape (S, 1, H', W')
        Posterior samples; their mean counts.
    width : float
        Standard deviation of the Gaussian that smooths the residual, camera pixels.

    Returns
    -------
    Tensor, shape (H, W)
        For `expose` again; the samples do not know that it was estimated.
    """
    from scipy.ndimage import gaussian_filter

    dark = exposure.blur(exposure.background[None, None])[0, 0].double()
    light = exposure.scale * exposure.blur(images.mean(0, keepdim=True).double())[0, 0]
    left = electrons.double().squeeze() - light - dark
    return (dark + torch.from_numpy(gaussian_filter(left.numpy(), width, mode="nearest"))).clamp(min=0)


def fitted_prior(prior: "NetworkPrior", sides: tuple[int, int]) -> Any:
    """The prior itself, or tiled over a larger field."""
    from sciinstruct.priors import TiledPrior

    channels, height, width = prior.event_shape
    if channels != 1 or height > sides[0] or width > sides[1]:
        raise PriorError(
            f"the prior makes images {prior.event_shape}, the field is {sides} latent pixels: take a larger frame or a "
            "prior of one channel and smaller images"
        )
    return prior if (height, width) == sides else TiledPrior(prior, sides)


def _darkest(frame: Tensor, window: int) -> Tensor:
    """Smooth background of a frame (H, W)."""
    from scipy.ndimage import gaussian_filter, percentile_filter

    smooth = gaussian_filter(frame.numpy(), _SMOOTH, mode="nearest")
    dark = percentile_filter(smooth, _DARK, size=window, mode="nearest")
    return torch.from_numpy(gaussian_filter(dark, window / 8, mode="nearest")).clamp(min=0)


def _on_latent_pixels(dark: Tensor, factor: int, reach: tuple[int, ...]) -> Tensor:
    """Background per camera pixel as one per latent pixel, margins as the edge."""
    fine = torch.nn.functional.interpolate(dark[None, None] / factor**2, scale_factor=factor, mode="bilinear")
    rows, columns = reach
    return torch.nn.functional.pad(fine, (columns, columns, rows, rows), mode="replicate")[0, 0]


def _foreground(frame: Tensor, blur: "PSFBlur", background: Tensor) -> float:
    """Mean of a rough deconvolution where it is bright."""
    from sciinstruct.operators.microscopy import richardson_lucy

    rough = richardson_lucy(frame.clamp(min=0)[None, None], blur, iterations=_RL_ITERATIONS, background=background)
    bright = rough[rough > _FOREGROUND * _quantile(rough, 0.999)]
    level = float(bright.mean()) if bright.numel() else 0.0
    if not level > 0 or not bool((frame > background).any()):
        raise ValueError("the frame holds no light above its background")
    return level


def _quantile(x: Tensor, q: float) -> float:
    """Quantile of a tensor of any size."""
    flat = x.flatten()
    return float(flat.kthvalue(1 + round(q * (len(flat) - 1))).values)


def _coordinates(sides: tuple[int, ...], reach: tuple[int, ...], pixel: float | None) -> dict[str, tuple[Any, str]]:
    """Pixel centres from the corner of the camera's field."""
    step, unit = (1.0, "pixel") if pixel is None else (pixel, "um")
    axes = [((torch.arange(n, dtype=torch.float64) - r + 0.5) * step).numpy() for n, r in zip(sides, reach)]
    return {"y": (axes[0], unit), "x": (axes[1], unit)}
