"""Cell nuclei: star-convex blobs with a textured inside."""

import math

import torch
from torch import Tensor

from sciinstruct.datasets._cell_field import Field, Paths, Scene
from sciinstruct.datasets._streams import Streams

_PITCH = 13.0  # mean distance of neighbouring nuclei, um
_ORDERS = 4  # harmonics of the outline, from the second on
_EDGE = 0.15  # softness of the outline, um
_DENSITY = 1000.0  # labels per um^2


def nuclei(field: Field, streams: Streams) -> Scene:
    """Draw nuclei 8 to 12 um across on a coarse grid of cells; meant for pixels of about 0.3 um.

    Star-convex outlines r(angle) = r0 exp(sum of harmonics 2 to 5), centres moved at random from a square lattice of
    13 um (one place in five empty); a pixel belongs to the nearest centre, so nuclei touch but never overlap. The
    inside is exp(0.2 f), f a Gaussian random field whose amplitude falls as the frequency to the power -1.5 below
    2 um; brightness log-normal (0.3).
    """
    n, device = len(streams), streams.device
    across = 2 * math.ceil(field.radius / _PITCH + 1) + 1
    counts = torch.full((n,), across**2, device=device)
    ranks = torch.arange(across**2, device=device)
    lattice = torch.stack((ranks % across, ranks // across), -1) - (across - 1) / 2
    shape = (n, across**2)
    move = streams.uniform(-0.5, 0.5, shape=(1, 2)) + 0.1 * streams.normal(counts, (2,)).view(*shape, 2)
    turn = streams.uniform(0.0, math.pi / 2)[:, None]
    x, y = (_PITCH * (lattice + move)).unbind(-1)
    centre = torch.stack((x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()), -1)
    radius = streams.uniform(4.0, 6.0, counts).view(shape)
    orders = torch.arange(2, 2 + _ORDERS, device=device)
    size = streams.normal(counts, (_ORDERS, 2)).view(*shape, _ORDERS, 2) * (0.4 / orders**2)[:, None]
    size = torch.view_as_complex(size)
    light = torch.exp(0.3 * streams.normal(counts)).view(shape) * (streams.uniform(0.0, 1.0, counts) > 0.2).view(shape)
    texture = torch.exp(0.2 * _texture(field, streams))
    canvas = _raster(field, centre, radius, size, light) * texture * (_DENSITY * field.step**2)
    return Scene(canvas, _outlines(centre, radius, size, light > 0), {})


def _log_shape(size: Tensor, ray: Tensor) -> Tensor:
    """Logarithm of the outline's radius over its mean towards `ray`, complex of modulus 1; `size` is (..., orders)."""
    total, power = torch.zeros_like(ray.real), ray
    for k in range(_ORDERS):
        power = power * ray
        total = total + (size[..., k].conj() * power).real
    return total


def _raster(field: Field, centre: Tensor, radius: Tensor, size: Tensor, light: Tensor) -> Tensor:
    """Brightness of every canvas cell before texture; the nearest centre owns it."""
    axis = field.axis(centre.device)
    here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
    image = []
    for middle, r0, harmonics, b in zip(centre, radius, size, light):
        near = (middle.norm(dim=-1) < field.radius + _PITCH).nonzero()[:, 0]  # others do not reach the canvas
        nearest = near[torch.cdist(here, middle[near]).argmin(1)]
        offset = torch.view_as_complex(here - middle[nearest])
        r = offset.abs()
        edge = r0[nearest] * torch.exp(_log_shape(harmonics[nearest], offset / r.clamp_min(1e-6)))
        image.append(b[nearest] * torch.sigmoid((edge - r) / _EDGE))
    return torch.stack(image).view(len(centre), field.side, field.side)


def _outlines(centre: Tensor, radius: Tensor, size: Tensor, present: Tensor) -> Paths:
    """Return the outlines as lines of 129 points."""
    n, places = radius.shape
    angle = torch.linspace(0, 2 * math.pi, 129, device=centre.device).expand(n, places, 129)
    r = radius[..., None] * torch.exp(_log_shape(size[:, :, None], torch.polar(torch.ones_like(angle), angle)))
    points = centre[:, :, None] + r[..., None] * torch.stack((angle.cos(), angle.sin()), -1)
    owner = torch.arange(n, device=centre.device).repeat_interleave(places)
    alive = present[..., None].expand(n, places, 129)
    return Paths(points.flatten(0, 1), alive.flatten(0, 1), owner)


def _texture(field: Field, streams: Streams) -> Tensor:
    """Draw periodic fields of unit variance, amplitude (1 + (2 um * frequency)^2)^(-3/4): (n, side, side)."""
    side = field.side
    white = streams.normal(shape=(side, side))
    fy = torch.fft.fftfreq(side, field.step, device=white.device)[:, None]
    fx = torch.fft.fftfreq(side, field.step, device=white.device)
    amplitude = (1 + 4 * (fy.square() + fx.square())) ** -0.75
    amplitude = amplitude / amplitude.square().mean().sqrt()
    return torch.fft.irfft2(torch.fft.rfft2(white) * amplitude[:, : side // 2 + 1], s=(side, side))
