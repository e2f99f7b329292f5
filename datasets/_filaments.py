"""Filaments and tubes of random shape: microtubules, actin, mitochondria."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.datasets._cell_field import FWHM, Field, Paths, Scene
from sciinstruct.datasets._chains import STEP, Labels, Starts, choose_labels, draw_starts, grow_in_disc, place_labels
from sciinstruct.datasets._streams import Streams


def microtubules(field: Field, streams: Streams) -> Scene:
    """Draw microtubules away from the cell's organising centre.

    Worm-like chains of persistence length 20 um and length 2 + Exp(6) um, 0.6 to 2.4 um per um^2, first headings
    0.5 rad around the direction away from the centre; 120 labels per um with a log-normal factor (0.3) for each
    chain, 50 nm wide (full width at half maximum) with antibodies.
    """
    density = streams.log_uniform(0.6, 2.4)
    direction = streams.uniform(-math.pi, math.pi)
    starts = draw_starts(field, streams, density, shortest=2.0, tail=6.0, direction=direction)
    paths, heading = grow_in_disc(field, streams, starts, persistence=20.0)
    rate = 120 * torch.exp(0.3 * streams.normal(starts.counts))
    points, owner = place_labels(field, streams, paths, heading, rate, torch.full_like(rate, 0.050 * FWHM))
    canvas = field.deposit(points, owner, len(streams))
    return Scene(canvas, paths, {"density": density, "direction": direction})


def f_actin(field: Field, streams: Streams) -> Scene:
    """Draw actin: parallel bundles that bend together, and a random mesh of short filaments.

    A third of the images has bundles alone, a third mesh alone, a third both. Bundles lie 0.3 to 0.6 um apart, are 50
    to 200 nm wide and follow one bending line of persistence length 10 to 17 um; the mesh has 3 to 9 um per um^2 of
    filaments of 0.4 + Exp(0.8) um. The mesh carries a fifth of the labels per length of an average bundle.
    """
    sort = streams.uniform(0.0, 3.0)
    spacing, direction = streams.uniform(0.3, 0.6), streams.uniform(-math.pi, math.pi)
    bundles, points, owner = _bundles(field, streams, spacing, direction, sort < 2)
    density = torch.where(sort > 1, streams.uniform(3.0, 9.0), 0.0)
    starts = draw_starts(field, streams, density, shortest=0.4, tail=0.8, direction=None)
    mesh, heading = grow_in_disc(field, streams, starts, persistence=10.0, step=2 * STEP)
    rate = 40 * torch.exp(0.3 * streams.normal(starts.counts))
    more, whose = place_labels(field, streams, mesh, heading, rate, torch.full_like(rate, 0.01), step=2 * STEP)
    canvas = field.deposit(torch.cat((points, more)), torch.cat((owner, whose)), len(streams))
    bundled = sort < 2
    return Scene(
        canvas,
        bundles,
        {
            "density": density,
            "direction": torch.where(bundled, direction, torch.nan),
            "spacing": torch.where(bundled, spacing, torch.nan),
        },
    )


def _bundles(
    field: Field, streams: Streams, spacing: Tensor, direction: Tensor, wanted: Tensor
) -> tuple[Paths, Tensor, Tensor]:
    """Draw bundles side by side and their labels; one in five places stays empty."""
    span = 1.5 * field.radius  # the lines start this far before the centre and to its sides
    counts = torch.where(wanted, (2 * span / spacing).long(), 0)
    owner = streams.owners(counts)
    rank = torch.arange(len(owner), device=owner.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    shift = (rank + 0.5 + 0.25 * streams.normal(counts)) * spacing[owner] - span
    steps = math.ceil(2 * span / STEP)
    persistence = streams.uniform(10.0, 17.0)
    shared = (streams.normal(shape=(steps,)) * (STEP / persistence[:, None]).sqrt()).cumsum(1)
    shared = shared - shared[:, steps // 2, None]  # `direction` is the heading in the middle
    ray = torch.stack((direction.cos(), direction.sin()), -1)[owner]
    side = torch.stack((-ray[:, 1], ray[:, 0]), -1)
    heading = direction[owner][:, None] + shared[owner]
    heading = heading + (streams.normal(counts, (steps,)) * math.sqrt(STEP / 200)).cumsum(1)
    heading = heading + 0.05 * streams.normal(counts)[:, None]
    strides = STEP * torch.stack((heading.cos(), heading.sin()), -1)
    points = strides.cumsum(1)
    points = points - points[:, steps // 2, None] + (shift[:, None] * side)[:, None]
    full = streams.uniform(0.0, 1.0, counts) < 0.8
    paths = Paths(points, full[:, None].expand(points.shape[:2]), owner)
    rate = 200 * torch.exp(0.5 * streams.normal(counts))
    width = streams.uniform(0.05, 0.2, counts) * FWHM
    labels, whose = place_labels(field, streams, paths, heading, rate, width)
    return paths, labels, whose


def mitochondria(field: Field, streams: Streams) -> Scene:
    """Draw mitochondria: tubes 0.4 to 0.6 um wide with round ends, labelled in the membrane or all through.

    Worm-like chains of persistence length 3 um and length 1 + Exp(1.5) um, 0.25 to 1 um per um^2, all headings; 600
    labels per um with a log-normal factor (0.3). Half of the images show the membrane. The heading that turns the
    tube's cross-section is averaged over 0.25 um: a tube cannot follow the bends that are finer than its radius.
    """
    density = streams.log_uniform(0.25, 1.0)
    hollow = streams.uniform(0.0, 1.0) < 0.5
    wide = Field(field.npix + 2 * math.ceil(0.3 / field.pixel), field.pixel)  # an axis outside has a wall inside
    starts = draw_starts(wide, streams, density, shortest=1.0, tail=1.5, direction=None)
    paths, heading = grow_in_disc(wide, streams, starts, persistence=3.0)
    paths, heading = _smooth(paths, heading, round(0.25 / STEP))
    radius = streams.uniform(0.2, 0.3, starts.counts)
    rate = 600 * torch.exp(0.3 * streams.normal(starts.counts))
    wall = choose_labels(wide, streams, paths, heading, rate)
    height = _through(streams, wall.counts, hollow[wall.owner], 0.5)
    across = height * radius[wall.chain] * streams.uniform(0.0, math.pi, wall.counts).cos()
    points = [wall.moved(streams.uniform(-STEP / 2, STEP / 2, wall.counts), across)]
    owners = [wall.owner]
    for ends in _caps(paths, heading, starts):
        full = torch.where(hollow[starts.owner], 1.0, 2 / 3)  # half a sphere's surface, or volume, over the tube's
        number = streams.poisson(rate * radius * full * ends.exists, starts.counts)
        chain = torch.repeat_interleave(torch.arange(len(number), device=number.device), number)
        owner = starts.owner[chain]
        counts = torch.bincount(owner, minlength=len(streams))
        size = _through(streams, counts, hollow[owner], 1 / 3) * radius[chain]
        axial = streams.uniform(0.0, 1.0, counts)
        side = (1 - axial**2).sqrt() * streams.uniform(0.0, math.pi, counts).cos()
        cap = Labels(ends.point[chain], ends.outward[chain], chain, owner, counts)
        points.append(cap.moved(size * axial, size * side))
        owners.append(owner)
    canvas = field.deposit(torch.cat(points), torch.cat(owners), len(streams))
    return Scene(canvas, paths, {"density": density})


class _Ends(NamedTuple):
    """One end of every chain."""

    point: Tensor  # (F, 2), um
    outward: Tensor  # heading away from the chain, rad
    exists: Tensor  # False where the chain goes on outside


def _caps(paths: Paths, heading: Tensor, starts: Starts) -> tuple[_Ends, _Ends]:
    """Find the first and the last point of each chain."""
    count = paths.alive.sum(1)
    last = (count - 1).clamp_min(0)
    row = torch.arange(len(last), device=last.device)
    finished = (count + 1) * STEP >= starts.length  # otherwise it was cut off where it left
    return (
        _Ends(paths.points[:, 0], heading[:, 0] + math.pi, starts.born & (count > 0)),
        _Ends(paths.points[row, last], heading[row, last], finished & (count > 0)),
    )


def _through(streams: Streams, counts: Tensor, hollow: Tensor, power: float) -> Tensor:
    """Distance from the axis over the radius: one in a wall, evenly through the cross-section otherwise."""
    drawn = streams.uniform(0.0, 1.0, counts) ** power
    return torch.where(hollow, torch.ones_like(drawn), drawn)


def _smooth(paths: Paths, heading: Tensor, steps: int) -> tuple[Paths, Tensor]:
    """Average the heading over the last `steps` of a chain and grow it anew from the same point."""
    total = torch.cat((heading[:, :1].expand(-1, steps - 1), heading), 1).double().cumsum(1)
    before = torch.cat((torch.zeros_like(total[:, :1]), total[:, :-steps]), 1)
    even = ((total[:, steps - 1 :] - before) / steps).to(heading.dtype)
    strides = STEP * torch.stack((even.cos(), even.sin()), -1)
    points = paths.points[:, :1] + strides.cumsum(1) - strides[:, :1]
    return paths._replace(points=points), even
