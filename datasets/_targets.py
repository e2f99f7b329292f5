"""Test targets with a known answer: beads, a Siemens star, line pairs. Evenly bright, without label noise."""

import math

import torch

from sciinstruct.datasets._cell_field import Field, Paths, Scene, no_paths
from sciinstruct.datasets._streams import Streams

BEAD = 1000.0  # labels of an average bead
_DENSITY = 1000.0  # labels per um^2 of a bright area
_LINE = 100.0  # labels per um of a line
_CYCLE = 6  # line pairs until the separations start again
_SPACE = 0.45  # empty space between pairs, um


def beads(field: Field, streams: Streams) -> Scene:
    """Draw beads far below the resolution, as points: 0.3 to 3 per um^2, brightness log-normal (0.2)."""
    density = streams.log_uniform(0.3, 3.0)
    counts = streams.poisson(density * (2 * field.reach) ** 2)
    centre = streams.uniform(-field.reach, field.reach, counts, (2,))
    weight = BEAD * torch.exp(0.2 * streams.normal(counts))
    owner = streams.owners(counts)
    paths = Paths(centre[:, None], torch.ones_like(centre[:, :1], dtype=torch.bool), owner)
    return Scene(field.deposit(centre, owner, len(streams), weight), paths, {"density": density})


def siemens_star(field: Field, streams: Streams) -> Scene:
    """Draw a star of 8 to 24 bright sectors, as wide as the dark ones between, around a point near the centre.

    At the distance r from it the period is 2 pi r / spokes. ``direction`` is the heading of one edge at which, turning
    from x to y, dark becomes bright. Cells that an edge crosses are bright in part.
    """
    spokes = torch.floor(streams.uniform(8.0, 25.0))
    direction = streams.uniform(-math.pi, math.pi)
    radius = field.half * streams.uniform(0.7, 0.95)
    middle = field.half * streams.uniform(-0.1, 0.1, shape=(2,))
    axis = field.axis(streams.device)
    x = axis[None, None, :] - middle[:, 0, None, None]
    y = axis[None, :, None] - middle[:, 1, None, None]
    r, turned = torch.hypot(x, y), torch.atan2(y, x) - direction[:, None, None]
    inward = r * torch.asin(torch.sin(spokes[:, None, None] * turned)) / spokes[:, None, None]  # from the nearest edge
    covered = (inward / field.step + 0.5).clamp(0, 1)
    covered = covered * ((radius[:, None, None] - r) / field.step + 0.5).clamp(0, 1)
    found = {"spokes": spokes, "direction": direction, "radius": radius}
    found |= {"x": middle[:, 0] + field.half, "y": middle[:, 1] + field.half}
    return Scene(covered * (_DENSITY * field.step**2), no_paths(streams.device), found)


def line_pairs(field: Field, streams: Streams) -> Scene:
    """Draw pairs of parallel thin lines whose separations are 1, 2, ... 6 times 30 to 50 nm, then 1 again.

    Pairs have 0.45 um of empty space between them; the sequence starts anywhere.
    """
    gap, direction = streams.uniform(0.03, 0.05), streams.uniform(-math.pi, math.pi)
    cycles = math.ceil(2 * field.radius / (_CYCLE * _SPACE)) + 1  # one more than it takes to cross the disc
    separation = gap[:, None] * (torch.arange(cycles * _CYCLE, device=gap.device) % _CYCLE + 1)
    period = gap * (_CYCLE * (_CYCLE + 1) / 2) + _CYCLE * _SPACE
    first = -field.radius - period * streams.uniform(0.0, 1.0)
    left = first[:, None] + (separation + _SPACE).cumsum(1) - separation - _SPACE
    shift = torch.stack((left, left + separation), -1).flatten(1)
    along = torch.arange(-field.radius, field.radius, field.step / 2, device=gap.device)
    ray = torch.stack((direction.cos(), direction.sin()), -1)[:, None, None]
    side = torch.stack((-ray[..., 1], ray[..., 0]), -1)
    points = (along[:, None] * ray + shift[:, :, None, None] * side).flatten(0, 1)
    owner = torch.arange(len(gap), device=gap.device).repeat_interleave(shift.shape[1])
    whose = owner[:, None].expand(points.shape[:2]).flatten()
    weight = points.new_full((), _LINE * field.step / 2).expand(whose.shape)
    canvas = field.deposit(points.flatten(0, 1), whose, len(gap), weight)
    alive = torch.ones(points.shape[:2], dtype=torch.bool, device=gap.device)
    return Scene(canvas, Paths(points, alive, owner), {"spacing": gap, "direction": direction})
