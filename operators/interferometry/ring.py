"""Ring parameters of images: the ring extractor (REx) rules, for a batch of images at once."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from sciinstruct.core.checks import check_finite, check_positive

_SEARCH_RAYS, _RAYS, _RADII = 25, 360, 100
_THRESHOLD = 0.05  # of the peak, below which the centre search sees nothing
_COARSE = 2.0  # step of the first grid of centres, uas
_CHUNK = 16  # images at a time: about 150 MB


class RingParameters(NamedTuple):
    """What the rays saw; every entry has shape (n,). A width, angle or asymmetry that does not exist is NaN.

    Attributes
    ----------
    diameter, diameter_std : Tensor
        Twice the mean and the standard deviation over rays of the radius of peak brightness, uas.
    width : Tensor
        Mean full width at half maximum along the rays, uas.
    position_angle, position_angle_std : Tensor
        Direction of the brighter side, degrees East of North in [0, 360), and its circular spread over radii.
    asymmetry : Tensor
        Size of the first azimuthal mode over the flux, 0 to 1.
    central_brightness : Tensor
        Mean brightness within 5 uas of the centre over the peak of the mean profile.
    coverage : Tensor
        Share of azimuth on which the brightness near the ring exceeds a tenth of its largest value there.
    x, y : Tensor
        Centre East and North of the image's centre, uas.
    has_hole, is_round, is_closed : Tensor of bool
        The three conditions of `is_ring`.
    """

    diameter: Tensor
    diameter_std: Tensor
    width: Tensor
    position_angle: Tensor
    position_angle_std: Tensor
    asymmetry: Tensor
    central_brightness: Tensor
    coverage: Tensor
    x: Tensor
    y: Tensor
    has_hole: Tensor
    is_round: Tensor
    is_closed: Tensor

    @property
    def is_ring(self) -> Tensor:
        """True where the image is a ring: hollow, round and closed."""
        return self.has_hole & self.is_round & self.is_closed


def extract_ring(
    images: Tensor, fov_uas: float, *, search_uas: float = 16.0, radius_max_uas: float = 50.0
) -> RingParameters:
    r"""Find the ring in every image and measure it.

    Parameters
    ----------
    images : Tensor, shape (n, H, H) or (n, 1, H, H)
        Brightness in any unit; row 0 North, column 0 East.
    fov_uas : float
        Side of the images, uas.
    search_uas : float
        The centre is sought this far East, West, North and South of the middle of the image.
    radius_max_uas : float
        Length of the rays.

    Returns
    -------
    RingParameters

    Raises
    ------
    ValueError
        If the images are not square, finite and of positive peak, or a length is not positive.

    Notes
    -----
    The rules of section 9 of EHT Collaboration (2019, ApJL 875, L4). Images are interpolated by cubic splines.

    *Centre*: where the radius of the brightness peak varies least between 25 rays, relative to its mean, with all
    brightness below 5 % of the peak removed; a grid of about 2 uas, then ever finer grids around its best point.
    *Measurement*: 360 rays of 100 radii. The peak of each ray is refined by a parabola. The width of a ray is that at
    half of its own peak; rays without one, or wider than twice the width of the mean profile, do not count. Orientation
    and asymmetry are averages over the radii within the width of the mean profile.

    An image is a *ring* if it is hollow (central brightness below 0.5, the mean profile peaks beyond 5 uas and before
    the end of the rays), round (diameter scatter below 30 % of the diameter) and closed (at least 70 % of the azimuth
    is lit: the brightest point within a quarter of the diameter from the ring exceeds a tenth of the largest such
    value). Discs fail the first condition, doubles and jets the others. The limits are choices, not part of REx.
    """
    images = _check_images(images)
    for name, value in (("fov_uas", fov_uas), ("search_uas", search_uas), ("radius_max_uas", radius_max_uas)):
        check_positive(name, value)
    parts = []
    for chunk in images.split(_CHUNK):
        fine = _Fine(chunk, fov_uas, radius_max_uas)
        x, y = _find_centre(fine, search_uas)
        parts.append(_measure(fine, x, y))
    return RingParameters(*(torch.cat(entry) for entry in zip(*parts)))


def _check_images(images: Tensor) -> Tensor:
    """Return (n, H, H), or raise ValueError."""
    flat = images.squeeze(1) if images.ndim == 4 and images.shape[1] == 1 else images
    if flat.ndim != 3 or flat.shape[-1] != flat.shape[-2] or flat.shape[-1] < 8 or not flat.is_floating_point():
        raise ValueError(
            f"images must be floating and of shape (n, H, H) or (n, 1, H, H) with H >= 8, got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    check_finite("images", flat)
    dark = (flat.amax((1, 2)) <= 0).nonzero().flatten()
    if len(dark):
        raise ValueError(f"images must have a positive peak, image {int(dark[0])} has none")
    return flat


class _Fine:
    """Images on a fine grid and their sampling along rays."""

    def __init__(self, images: Tensor, fov_uas: float, radius_max: float) -> None:
        side = images.shape[-1]
        factor = math.ceil(2 * _RADII * fov_uas / (2 * radius_max * side))
        spline = _spline_matrix(side, min(factor * (side - 1) + 1, 768)).to(images)
        self.images = (spline @ images @ spline.T)[:, None]
        faint = self.images <= _THRESHOLD * self.images.amax((-1, -2), keepdim=True)
        self.bright = self.images.masked_fill(faint, 0).float()  # the search compares; it needs no double precision
        self.span = fov_uas * (side - 1) / 2 / side  # from the middle to the outermost pixel centre
        self.radius_max = radius_max

    def search_rays(self, x: Tensor, y: Tensor, radii: int) -> Tensor:
        """Brightness (n, centres, rays, radii) of the bright parts along few rays, by linear interpolation."""
        where = self._along(x.float(), y.float(), _SEARCH_RAYS, radii)
        return _sample(self.bright, where, "bilinear")

    def rays(self, x: Tensor, y: Tensor) -> Tensor:
        """Brightness (n, rays, radii) along rays from centres x, y of shape (n,), by cubic interpolation."""
        where = self._along(x[:, None], y[:, None], _RAYS, _RADII)
        return _sample(self.images, where, "bicubic")[:, 0]

    def _along(self, x: Tensor, y: Tensor, rays: int, radii: int) -> Tensor:
        """Coordinates (n, centres, rays, radii, 2) for `grid_sample` of points along rays from (n, centres)."""
        angle = torch.arange(rays, dtype=x.dtype, device=x.device) * (2 * math.pi / rays)
        scale = -1 / self.span  # columns run West, rows run South
        r = torch.linspace(0, scale * self.radius_max, radii, dtype=x.dtype, device=x.device)
        column = (scale * x)[:, :, None, None] + torch.sin(angle)[:, None] * r
        row = (scale * y)[:, :, None, None] + torch.cos(angle)[:, None] * r
        return torch.stack((column, row), -1)


def _sample(image: Tensor, where: Tensor, mode: str) -> Tensor:
    """Values of images (n, 1, H, W) at points (n, centres, rays, radii, 2); zero outside."""
    values = grid_sample(image, where.flatten(1, 2), mode=mode, padding_mode="zeros", align_corners=True)
    return values[:, 0].unflatten(1, where.shape[1:3])


def _spline_matrix(side: int, fine: int) -> Tensor:
    """Matrix (fine, side) of the cubic spline from pixel centres to `fine` points between the outer two."""
    import numpy as np
    from scipy.interpolate import make_interp_spline

    spline = make_interp_spline(np.arange(side), np.eye(side), k=3)
    return torch.as_tensor(spline(np.linspace(0, side - 1, fine)))


def _peak_radius(profile: Tensor, step: float) -> Tensor:
    """Radius of the largest value along the last axis, refined by a parabola."""
    index = profile.argmax(-1, keepdim=True)
    inner = index.clamp(1, profile.shape[-1] - 2)
    before, here, after = (profile.gather(-1, inner + k) for k in (-1, 0, 1))
    bend = before - 2 * here + after
    is_peak = (index == inner) & (bend < 0)  # the ends of a ray and flat stretches have no parabola
    shift = torch.where(is_peak, 0.5 * (before - after) / torch.where(is_peak, bend, -1), 0)
    return ((index + shift) * step)[..., 0]


def _find_centre(fine: _Fine, search: float) -> tuple[Tensor, Tensor]:
    """Return the centre (n,), (n,) at which the peak radius varies least between rays."""
    n = len(fine.images)
    steps = 2 * max(1, round(search / _COARSE)) + 1
    grid = torch.linspace(-search, search, steps, dtype=fine.images.dtype, device=fine.images.device)
    best = _best_of(fine, grid.repeat_interleave(steps).expand(n, -1), grid.repeat(steps).expand(n, -1), radii=51)
    around = torch.arange(-2.0, 3.0).to(grid)
    for step in (1.0, 0.3, 0.08, 0.02):
        x = best[0][:, None] + step * around.repeat_interleave(5)
        y = best[1][:, None] + step * around.repeat(5)
        best = _best_of(fine, x, y, radii=_RADII)
    return best


def _best_of(fine: _Fine, x: Tensor, y: Tensor, radii: int) -> tuple[Tensor, Tensor]:
    """Among the candidate centres (n, c), the one of smallest relative scatter of the peak radius."""
    peak = _peak_radius(fine.search_rays(x, y, radii), fine.radius_max / (radii - 1))
    mean = peak.mean(-1)
    scatter = torch.where(mean > 0, peak.std(-1) / mean, torch.full_like(mean, torch.inf))
    index = scatter.argmin(1, keepdim=True)
    return x.gather(1, index)[:, 0], y.gather(1, index)[:, 0]


def _half_width(profile: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Radii at which the profile first falls to half its peak, inwards and outwards; NaN where it does not."""
    radii = profile.shape[-1]
    peak, index = profile.max(-1, keepdim=True)
    place = torch.arange(radii, device=profile.device)
    below = profile < peak / 2
    inner = torch.where(below & (place < index), place, -1).amax(-1, keepdim=True)
    outer = torch.where(below & (place > index), place, radii).amin(-1, keepdim=True)

    def crossing(low: Tensor, high: Tensor) -> Tensor:
        at, past = (profile.gather(-1, k.clamp(0, radii - 1)) for k in (low, high))
        return ((low + (peak / 2 - at) / (past - at)) * step)[..., 0]

    nan = torch.full_like(peak[..., 0], torch.nan)
    left = torch.where(inner[..., 0] >= 0, crossing(inner, inner + 1), nan)
    right = torch.where(outer[..., 0] < radii, crossing(outer - 1, outer), nan)
    return left, right


def _measure(fine: _Fine, x: Tensor, y: Tensor) -> RingParameters:
    """Measure the rings around known centres."""
    step = fine.radius_max / (_RADII - 1)
    rays = fine.rays(x, y)
    profile = rays.mean(1)
    radius = torch.arange(_RADII, dtype=x.dtype, device=x.device) * step
    peak = _peak_radius(rays, step)
    diameter, diameter_std = 2 * peak.mean(1), 2 * peak.std(1)
    inner, outer = _half_width(profile, step)
    left, right = _half_width(rays, step)
    width = torch.where(right - left <= 2 * (outer - inner)[:, None], right - left, torch.nan).nanmean(1)
    angle, spread, asymmetry = _first_mode(rays, (radius >= inner[:, None]) & (radius <= outer[:, None]))
    central = profile[:, radius < 5.0].mean(1) / profile.amax(1)
    coverage = _coverage(rays, radius, diameter)
    place = profile.argmax(1)
    return RingParameters(
        diameter,
        diameter_std,
        width,
        angle,
        spread,
        asymmetry,
        central,
        coverage,
        x,
        y,
        has_hole=(central < 0.5) & (radius[place] > 5.0) & (place < _RADII - 1),
        is_round=diameter_std < 0.3 * diameter,
        is_closed=coverage >= 0.7,
    )


def _first_mode(rays: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Circular mean and spread (deg) and mean relative size of the first azimuthal mode over the radii `used`."""
    theta = torch.arange(_RAYS, dtype=rays.dtype, device=rays.device) * (2 * math.pi / _RAYS)
    mode = (rays * torch.exp(1j * theta)[:, None]).sum(1)
    count = torch.where(used.any(1), used.sum(1), torch.nan)
    direction = (torch.where(used, mode / mode.abs().clamp_min(1e-30), 0)).sum(1) / count
    size = torch.where(used, mode.abs() / rays.sum(1).abs().clamp_min(1e-30), 0).sum(1) / count
    spread = torch.sqrt(2 * torch.log(direction.abs().clamp(1e-12, 1.0)).abs())
    angle = torch.rad2deg(direction.angle())
    return torch.where(angle < 0, angle + 360, angle), torch.rad2deg(spread), size


def _coverage(rays: Tensor, radius: Tensor, diameter: Tensor) -> Tensor:
    """Share of rays whose brightest point near the ring exceeds a tenth of the largest such value."""
    near = (radius - diameter[:, None] / 2).abs() <= diameter[:, None].clamp_min(1.0) / 4
    brightest = torch.where(near[:, None, :], rays, 0).amax(2)
    return (brightest > 0.1 * brightest.amax(1, keepdim=True)).to(rays.dtype).mean(1)
