"""Random skies without a ring: Gaussian spots, discs, doubles, jets and log-Gaussian blobs."""

import math

import torch
from torch import Tensor

from sciinstruct.datasets._skies import FWHM_TO_SIGMA, Canvas, Range, Spots, gaussian_field, normal, uniform

Shapes = dict[str, Tensor]


def spots(canvas: Canvas, generator: torch.Generator, *, fwhm: Range = (14.0, 60.0)) -> tuple[Tensor, Shapes]:
    """Draw one to three elliptical Gaussians; the first is centred and the brightest on average."""
    shape = (len(canvas.x), 3)
    used = torch.randint(1, 4, (shape[0], 1), generator=generator, device=generator.device)
    order = torch.arange(3, device=generator.device)
    drawn = Spots(
        flux=uniform(shape, (0.2, 1.0), generator) * (order < used) * 0.6**order,
        x=normal(shape, 14.0, generator) * (order > 0),
        y=normal(shape, 14.0, generator) * (order > 0),
        fwhm=uniform(shape, fwhm, generator),
        ratio=uniform(shape, (0.4, 1.0), generator),
        angle=uniform(shape, (0.0, math.pi), generator),
    )
    return drawn.render(canvas), {"width": drawn.fwhm[:, 0]}


def disc(
    canvas: Canvas,
    generator: torch.Generator,
    *,
    diameter: Range = (20.0, 80.0),
    edge: Range = (1.0, 6.0),
    gradient: Range = (0.0, 0.5),
) -> tuple[Tensor, Shapes]:
    """Draw elliptical discs with a soft edge (uas) and a linear brightness gradient (fraction over the radius)."""
    n = len(canvas.x)
    size, softness, tilt = (uniform(n, bounds, generator) for bounds in (diameter, edge, gradient))
    ratio, lean = uniform(n, (0.6, 1.0), generator), uniform(n, (0.0, 2 * math.pi), generator)
    radius = (size / 2)[:, None, None]
    r = torch.hypot(canvas.x / ratio[:, None, None], canvas.y)
    inside = torch.sigmoid((radius - r) / softness[:, None, None])
    slope = canvas.x * torch.sin(lean)[:, None, None] + canvas.y * torch.cos(lean)[:, None, None]
    return inside * (1 + tilt[:, None, None] * (slope / radius).clamp(-1, 1)), {"diameter": size}


def double(
    canvas: Canvas,
    generator: torch.Generator,
    *,
    separation: Range = (15.0, 60.0),
    fwhm: Range = (10.0, 25.0),
) -> tuple[Tensor, Shapes]:
    """Draw two Gaussians whose middle is the model's origin."""
    n = len(canvas.x)
    apart = uniform(n, separation, generator)
    size = uniform((n, 2), fwhm, generator)
    drawn = Spots(
        flux=torch.stack((torch.ones_like(apart), uniform(n, (0.2, 1.0), generator)), dim=1),
        x=torch.zeros_like(size),
        y=torch.stack((apart / 2, -apart / 2), dim=1),
        fwhm=size,
        ratio=uniform((n, 2), (0.6, 1.0), generator),
        angle=uniform((n, 2), (0.0, math.pi), generator),
    )
    return drawn.render(canvas), {"separation": apart}


def jet(
    canvas: Canvas,
    generator: torch.Generator,
    *,
    length: Range = (20.0, 60.0),
    knots: int = 5,
) -> tuple[Tensor, Shapes]:
    """Draw a core and a bent chain of Gaussians that fade and widen away from it."""
    n = len(canvas.x)
    long, bend, fade, core = (
        uniform(n, bounds, generator)[:, None] for bounds in (length, (-0.5, 0.5), (0.4, 0.9), (9.0, 15.0))
    )
    step = torch.arange(knots, device=generator.device)
    along = (step / (knots - 1) + normal((n, knots), 0.04, generator)) * long
    drawn = Spots(
        flux=fade**step * uniform((n, knots), (0.5, 1.5), generator),
        x=bend * along.square() / long,
        y=along - long / 3,
        fwhm=core * (1 + along.clamp_min(0) / long),
        ratio=uniform((n, knots), (0.6, 1.0), generator),
        angle=uniform((n, knots), (0.0, math.pi), generator),
    )
    return drawn.render(canvas), {"length": long[:, 0]}


def blob(
    canvas: Canvas,
    generator: torch.Generator,
    *,
    contrast: Range = (0.8, 2.0),
    scale: Range = (6.0, 25.0),
) -> tuple[Tensor, Shapes]:
    """Draw the exponential of a Gaussian field of correlation length `scale` (uas) under a Gaussian envelope."""
    n, fine = canvas.x.shape[:2]
    size = uniform(n, scale, generator)
    field = gaussian_field((fine, fine), size * (fine / canvas.fov), uniform(n, (2.0, 3.5), generator), generator)
    sd = (uniform(n, (35.0, 75.0), generator) * FWHM_TO_SIGMA)[:, None, None]
    envelope = -0.5 * (canvas.x.square() + canvas.y.square()) / sd.square()
    return torch.exp(uniform(n, contrast, generator)[:, None, None] * field + envelope), {"scale": size}
