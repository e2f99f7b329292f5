"""Pits and tubular networks: clathrin-coated pits and the endoplasmic reticulum."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.datasets._cell_field import Field, Paths, Scene
from sciinstruct.datasets._streams import Streams


def ccp(field: Field, streams: Streams) -> Scene:
    """Draw clathrin-coated pits: rings of 80 to 200 nm outer diameter, or filled discs (three in ten).

    0.25 to 1 pit per um^2; labels in proportion to the surface, 80 at a diameter of 140 nm, times a log-normal factor
    (0.4). A ring is the side wall of a pit seen from above, a fifth of the radius thick: only the large ones show
    their hollow centre at 100 nm.
    """
    density = streams.log_uniform(0.25, 1.0)
    counts = streams.poisson(density * (2 * field.reach) ** 2)
    centre = streams.uniform(-field.reach, field.reach, counts, (2,))
    radius = streams.uniform(0.04, 0.1, counts)
    ring = streams.uniform(0.0, 1.0, counts) < 0.7
    mean = 80 * (radius / 0.07) ** 2 * torch.exp(0.4 * streams.normal(counts))
    owner = streams.owners(counts)
    labels = streams.poisson(mean, counts)
    pit = torch.repeat_interleave(torch.arange(len(owner), device=owner.device), labels)
    each = torch.bincount(owner[pit], minlength=len(streams))
    u = streams.uniform(0.0, 1.0, each)
    hole = torch.where(ring, 0.8**2, 0.0)[pit]  # the squared distance from the axis is uniform from here to one
    r = radius[pit] * (hole + (1 - hole) * u).sqrt()
    angle = streams.uniform(-math.pi, math.pi, each)
    points = centre[pit] + torch.stack((r * angle.cos(), r * angle.sin()), -1)
    paths = Paths(centre[:, None], torch.ones_like(centre[:, :1], dtype=torch.bool), owner)
    return Scene(field.deposit(points, owner[pit], len(streams)), paths, {"density": density})


class _Mesh(NamedTuple):
    """Edges of the polygons that fill the canvas, of all images one after another."""

    start: Tensor  # (E, 2), um
    stop: Tensor  # (E, 2), um
    cells: Tensor  # (E, 2), the polygons on both sides, numbered through
    seeds: Tensor  # (C, 2), a point inside of each polygon, um
    edges: Tensor  # edges of each image, (n,)
    polygons: Tensor  # polygons of each image, (n,)


def er(field: Field, streams: Streams) -> Scene:
    """Draw endoplasmic reticulum: tubes 0.1 um wide along the edges of polygons, a few polygons filled as sheets.

    Polygons are the Voronoi cells of a triangular lattice (0.6 to 1.2 um, random turn and shift) whose points were
    moved at random by a sd of 0.17 lattice constants, about as regular as a tessellation relaxed a few times. Tubes
    bow sideways (sd 0.07 of their length), one in twelve is missing, 150 labels per um with a log-normal factor (0.25).
    One image in three has sheets, on one polygon in eight, with the labels per area of a tube.
    """
    size = streams.uniform(0.6, 1.2)
    mesh = _mesh(field, streams, size)
    n, counts = len(streams), mesh.edges
    owner = streams.owners(counts)
    along = mesh.stop - mesh.start
    bow = 0.07 * streams.normal(counts)
    kept = streams.uniform(0.0, 1.0, counts) > 1 / 12
    rate = 150 * torch.exp(0.25 * streams.normal(counts)) * along.norm(dim=-1) * kept
    labels = streams.poisson(rate, counts)
    edge = torch.repeat_interleave(torch.arange(len(owner), device=owner.device), labels)
    each = torch.bincount(owner[edge], minlength=n)
    t = streams.uniform(0.0, 1.0, each)
    points = _on_bow(mesh.start[edge], along[edge], bow[edge], t)
    # a tube full of labels: across it they lie as the points of a disc seen from its side
    across = 0.05 * streams.uniform(0.0, 1.0, each).sqrt() * (streams.uniform(0.0, math.pi, each)).cos()
    points = points + across[:, None] * _normal(along[edge])
    filled, whose = _sheets(field, streams, mesh)
    canvas = field.deposit(torch.cat((points, filled)), torch.cat((owner[edge], whose)), n)
    line = _on_bow(mesh.start[:, None], along[:, None], bow[:, None], torch.linspace(0, 1, 33, device=t.device)[None])
    return Scene(canvas, Paths(line, kept[:, None].expand(line.shape[:2]), owner), {"size": size})


def _on_bow(start: Tensor, along: Tensor, bow: Tensor, t: Tensor) -> Tensor:
    """Return points at fractions `t` of parabolas from `start` over `along` that rise by `bow` times their length."""
    side = torch.stack((-along[..., 1], along[..., 0]), -1)
    return start + t[..., None] * along + (4 * bow * t * (1 - t))[..., None] * side


def _normal(along: Tensor) -> Tensor:
    """Unit vectors across `along`."""
    side = torch.stack((-along[..., 1], along[..., 0]), -1)
    return side / side.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _mesh(field: Field, streams: Streams, size: Tensor) -> _Mesh:
    """Tessellate each image's canvas and a rim of one and a half polygons around it."""
    from scipy.spatial import Voronoi

    n, device = len(streams), streams.device
    side = 2 * torch.ceil(field.radius / size + 2).long() + 1
    counts = side**2
    moves = streams.normal(counts, (2,)) * 0.17
    shift, turn = streams.uniform(-0.5, 0.5, shape=(2,)), streams.uniform(0.0, math.pi / 3)
    owner = streams.owners(counts)
    rank = torch.arange(len(owner), device=device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    half = (side // 2)[owner]
    row, column = rank // side[owner] - half, rank % side[owner] - half
    lattice = torch.stack((column + 0.5 * (row % 2), row * math.sqrt(0.75)), -1) + moves + shift[owner]
    cos, sin = turn.cos()[owner], turn.sin()[owner]
    x, y = lattice.unbind(-1)
    seeds = torch.stack((cos * x - sin * y, sin * x + cos * y), -1) * size[owner][:, None]
    parts, first = [], 0
    for points in seeds.cpu().double().split(counts.tolist()):
        voronoi = Voronoi(points.numpy())
        ends, cells = torch.as_tensor(voronoi.ridge_vertices), torch.as_tensor(voronoi.ridge_points)
        vertices = torch.as_tensor(voronoi.vertices)
        near = (vertices.norm(dim=-1) < field.radius + 1.5 * 1.2)[ends].all(-1) & (ends >= 0).all(-1)
        ends = ends[near]
        parts.append((vertices[ends[:, 0]], vertices[ends[:, 1]], cells[near].long() + first))
        first += len(points)
    start, stop, cells = (torch.cat(entry).to(device) for entry in zip(*parts))
    edges = torch.tensor([len(part[0]) for part in parts], device=device)
    assert len(edges) == n
    return _Mesh(start.float(), stop.float(), cells, seeds, edges, counts)


def _sheets(field: Field, streams: Streams, mesh: _Mesh) -> tuple[Tensor, Tensor]:
    """Fill some polygons evenly with labels: points and the image of each."""
    share = torch.where(streams.uniform(0.0, 1.0) < 1 / 3, 1 / 8, 0.0)
    chosen = streams.uniform(0.0, 1.0, mesh.polygons) < share[streams.owners(mesh.polygons)]
    # a polygon is the fan of the triangles from its seed to its edges; each edge bounds two polygons
    counts = 2 * mesh.edges
    owner = streams.owners(counts)
    cell = mesh.cells.flatten()
    start, stop = (torch.repeat_interleave(end, 2, dim=0) for end in (mesh.start, mesh.stop))
    seed = mesh.seeds[cell]
    first, second = start - seed, stop - seed
    area = (first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).abs() / 2
    near = (seed.norm(dim=-1) < field.radius + 1.5) & chosen[cell]
    labels = streams.poisson(1500 * area * near, counts)
    triangle = torch.repeat_interleave(torch.arange(len(owner), device=owner.device), labels)
    each = torch.bincount(owner[triangle], minlength=len(streams))
    a, b = streams.uniform(0.0, 1.0, each, (2,)).unbind(-1)
    fold = a + b > 1  # reflect the upper half of the unit square into the triangle
    a, b = torch.where(fold, 1 - a, a), torch.where(fold, 1 - b, b)
    return seed[triangle] + a[:, None] * first[triangle] + b[:, None] * second[triangle], owner[triangle]
