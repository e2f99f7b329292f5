"""Random rings: a blurred m-ring, and a toy equatorial flow around a non-rotating hole. Toy models, not GRMHD."""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from sciinstruct.core.bessel import bessel_i_ratios
from sciinstruct.datasets._skies import FWHM_TO_SIGMA, Canvas, Spots, gaussian_blur, gaussian_field, normal, uniform

Shapes = dict[str, Tensor]
_ORDERS = 3  # angular orders of the m-ring
_LOG_RADIUS = (math.log(2.0), math.log(80.0))  # of the flow's grid, in gravitational radii


def m_ring(canvas: Canvas, generator: torch.Generator) -> tuple[Tensor, Shapes]:
    """Draw thick m-rings with up to two Gaussian components and an interior floor (flux per square uas)."""
    n = len(canvas.x)
    diameter = uniform(n, (25.0, 60.0), generator)
    width = 6 + (0.6 * diameter - 6) * uniform(n, (0.0, 1.0), generator)
    orders = torch.arange(1, _ORDERS + 1, device=diameter.device)
    size = uniform((n, _ORDERS), (0.0, 0.4), generator) / orders
    phase = uniform((n, _ORDERS), (0.0, 2 * math.pi), generator)
    floor = uniform(n, (0.0, 0.15), generator)
    spots = _nuisance_spots(n, generator)
    ring = blurred_ring(canvas, diameter, width, torch.polar(size, phase))
    share = (1 - spots.flux.sum(1))[:, None, None]
    image = share * ((1 - floor[:, None, None]) * ring + _interior(canvas, diameter, width, floor))
    shapes = {
        "diameter": diameter,
        "width": width,
        "asymmetry": size[:, 0],
        "position_angle": torch.rad2deg(-phase[:, 0]),
    }
    return image + spots.render(canvas), shapes


def blurred_ring(canvas: Canvas, diameter: Tensor, width: Tensor, beta: Tensor) -> Tensor:
    r"""Render m-rings blurred by a Gaussian of FWHM `width`, for unit flux.

    With :math:`s` the sd of the blur, R the radius and :math:`z = r R / s^2`, order k of the thin ring becomes
    :math:`\beta_k e^{ik\theta} e^{-(r - R)^2 / 2 s^2} e^{-z} I_k(z) / (2 \pi s^2)`.
    """
    sd, radius = (width * FWHM_TO_SIGMA)[:, None, None], (diameter / 2)[:, None, None]
    r = torch.hypot(canvas.x, canvas.y).clamp_min(1e-6)
    z = r * radius / sd.square()
    ratios = bessel_i_ratios(_ORDERS, z)
    turn = torch.complex(canvas.y / r, canvas.x / r)  # e^{i theta}, theta East of North
    angular = torch.ones_like(r)
    harmonic = torch.ones_like(turn)
    for k in range(1, _ORDERS + 1):
        harmonic = harmonic * turn * ratios[k - 1]
        angular = angular + 2 * (beta[:, k - 1, None, None] * harmonic).real
    radial = torch.exp(-0.5 * ((r - radius) / sd).square()) * torch.special.i0e(z)
    # the orders can add up to a negative brightness on the faint side: that is dark
    return radial * angular.clamp_min(0) / (2 * math.pi * sd.square())


def _nuisance_spots(n: int, generator: torch.Generator) -> Spots:
    """Draw two Gaussians per sky, of which 0, 1 or 2 have flux (2 to 20 %)."""
    shape = (n, 2)
    used = torch.randint(0, 3, (n, 1), generator=generator, device=generator.device)
    lit = torch.arange(2, device=generator.device) < used
    return Spots(
        flux=uniform(shape, (0.02, 0.2), generator) * lit,
        x=normal(shape, 25.0, generator),
        y=normal(shape, 25.0, generator),
        fwhm=uniform(shape, (10.0, 40.0), generator),
        ratio=uniform(shape, (0.4, 1.0), generator),
        angle=uniform(shape, (0.0, math.pi), generator),
    )


def _interior(canvas: Canvas, diameter: Tensor, width: Tensor, floor: Tensor) -> Tensor:
    """Fill the ring's inside evenly with a soft edge; it carries the share `floor` of the flux."""
    radius, sd = (diameter / 2)[:, None, None], (width * FWHM_TO_SIGMA)[:, None, None]
    inside = 0.5 * torch.erfc((torch.hypot(canvas.x, canvas.y) - radius) / (math.sqrt(2) * sd))
    return floor[:, None, None] * inside / (math.pi * (radius.square() + sd.square()))


def toy_flow(canvas: Canvas, generator: torch.Generator) -> tuple[Tensor, Shapes]:
    r"""Draw toy equatorial flows: emissivity with spiral arms, Doppler beaming, redshift and a photon ring.

    The direct image of radius r (in GM/c^2) is put at the impact parameter
    :math:`b = 1 + r / \sqrt{\cos^2\varphi + \sin^2\varphi / \cos^2 i}`, the low-order light bending of a
    Schwarzschild hole; ray paths, scattering and general relativity beyond that are left out. The sky is blurred by a
    Gaussian of FWHM U(2, 12) uas.
    """
    n = len(canvas.x)
    mu = uniform(n, (3.2, 4.6), generator)
    inclination = uniform(n, (math.radians(5), math.radians(60)), generator)
    cos_i = torch.cos(inclination)[:, None, None]
    b = torch.hypot(canvas.x, canvas.y).clamp_min(1e-6) / mu[:, None, None]
    cos, sin = canvas.x / (b * mu[:, None, None]), canvas.y / (b * mu[:, None, None])
    stretch = torch.sqrt(cos.square() + (sin / cos_i).square())
    r = (b - 1) * stretch
    cos, sin = cos / stretch, sin / cos_i / stretch  # now the azimuth in the plane of the flow
    beaming = _draw_beaming(n, inclination, generator)
    flow = _emissivity(r.clamp_min(2.02), cos, sin, generator) * beaming(r.clamp_min(2.02), cos, sin) * (r > 2.02)
    width, share = (uniform(n, bounds, generator)[:, None, None] for bounds in ((0.15, 0.5), (0.05, 0.35)))
    photons = torch.exp(-0.5 * ((b - math.sqrt(27)) / width).square()) * beaming(torch.full_like(b, 5.0), cos, sin)
    total = flow.sum(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    photons = photons * (total * share / (1 - share) / photons.sum(dim=(1, 2), keepdim=True))
    fwhm = uniform(n, (2.0, 12.0), generator) * (canvas.x.shape[-1] / canvas.fov)
    image = gaussian_blur((flow + photons) / total, fwhm).clamp_min(0)  # round-off of the transform
    return image, {"diameter": 2 * math.sqrt(27) * mu, "inclination": torch.rad2deg(inclination)}


def _emissivity(r: Tensor, cos: Tensor, sin: Tensor, generator: torch.Generator) -> Tensor:
    """Power law with an inner cut-off, times a log-normal field of trailing spiral arms."""
    n = len(r)
    power, r_in, contrast, pitch = (
        uniform(n, bounds, generator)[:, None, None] for bounds in ((2.0, 5.0), (1.8, 4.0), (0.2, 0.9), (0.1, 0.8))
    )
    log_r = torch.log(r)
    low, high = _LOG_RADIUS
    rows, columns = 64, 128
    length = torch.stack(
        (
            uniform(n, (0.3, 1.0), generator) * rows / (high - low),
            uniform(n, (0.15, 0.6), generator) * columns / (2 * math.pi),
        ),
        dim=1,
    )
    field = gaussian_field((rows, columns), length, torch.full((n,), 2.0, device=r.device), generator)
    field = torch.cat((field, field[:, :, :1]), dim=2)  # the azimuth closes
    azimuth = (torch.atan2(sin, cos) + log_r / torch.tan(pitch)) % (2 * math.pi)
    where = torch.stack((azimuth / math.pi - 1, 2 * (log_r - low) / (high - low) - 1), dim=-1)
    arms = grid_sample(field[:, None], where, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]
    return torch.exp(contrast * arms - power * log_r - (r_in / r) ** 4)


class _Beaming:
    """The factor g^(3 + alpha) of a flow that turns and falls, with straight light rays."""

    def __init__(self, sin_i: Tensor, turning: Tensor, falling: Tensor, alpha: Tensor) -> None:
        self.sin_i, self.turning, self.falling, self.alpha = sin_i, turning, falling, alpha

    def __call__(self, r: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        lapse2 = 1 - 2 / r
        along = self.turning / torch.sqrt(r * lapse2)
        inward = self.falling * torch.sqrt(2 / r)
        speed = torch.hypot(along, inward)
        slow = (0.9 / speed).clamp_max(1.0)  # near the horizon the two laws exceed the speed of light
        towards = -(along * cos - inward * sin) * slow * self.sin_i
        g = torch.sqrt(lapse2 * (1 - (speed * slow).square())) / (1 - towards)
        return g ** (3 + self.alpha)


def _draw_beaming(n: int, inclination: Tensor, generator: torch.Generator) -> _Beaming:
    """Draw fractions of the Kepler and free-fall speeds and a spectral index."""
    turning, falling, alpha = (
        uniform(n, bounds, generator)[:, None, None] for bounds in ((0.3, 1.0), (0.0, 0.6), (0.0, 1.5))
    )
    return _Beaming(torch.sin(inclination)[:, None, None], turning, falling, alpha)
