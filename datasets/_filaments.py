"""Worm-like chains in a field: entering, growing, carrying labels; microtubules and actin."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.datasets._cell_field import Field, Paths, Scene
from sciinstruct.datasets._streams import Streams

STEP = 0.01  # along a chain, um


class Starts(NamedTuple):
    """Chains before they grow; every entry has F rows."""

    point: Tensor  # (F, 2), um
    heading: Tensor  # rad
    length: Tensor  # um
    owner: Tensor  # image of each chain
    counts: Tensor  # chains of each image, (n,)


def grow(starts: Starts, persistence: Tensor | float, turns: Tensor, step: float = STEP) -> tuple[Tensor, Tensor]:
    """Grow worm-like chains: the heading is a random walk of variance step / persistence per step.

    In the plane this gives <cos(heading(s) - heading(0))> = exp(-s / (2 persistence)).

    Parameters
    ----------
    starts : Starts
        Where they begin.
    persistence : Tensor or float
        Persistence length, um, shape (F, 1) or one number.
    turns : Tensor, shape (F, S)
        Standard normal numbers.
    step : float
        Step along the chain, um.

    Returns
    -------
    points : Tensor, shape (F, S, 2)
        The middle of each step, um.
    heading : Tensor, shape (F, S)
        Heading of each step, rad.
    """
    scale = (step / torch.as_tensor(persistence, device=turns.device)) ** 0.5
    heading = starts.heading[:, None] + (turns * scale).cumsum(1)
    strides = step * torch.stack((heading.cos(), heading.sin()), -1)
    return starts.point[:, None] + strides.cumsum(1) - strides / 2, heading


def draw_starts(
    field: Field,
    streams: Streams,
    density: Tensor,
    *,
    shortest: float,
    tail: float,
    direction: Tensor | None,
    scatter: float = 0.5,
    persistence: float = 20.0,
) -> Starts:
    """Draw the chains that a disc around the canvas would hold if it lay in an endless random network.

    Chains have lengths shortest + Exp(tail). Some begin inside the disc; others have travelled before and enter it,
    with impact parameters uniform over its diameter, as a beam of any heading does. Cut off where they leave, the
    chains then cover the disc evenly, edges as much as the centre.

    Parameters
    ----------
    field : Field
        The field.
    streams : Streams
        Random numbers, one stream per image.
    density : Tensor, shape (n,)
        Chain length per area, um / um^2.
    shortest, tail : float
        Of the distribution of lengths, um.
    direction : Tensor, shape (n,), or None
        Heading around which chains begin, rad; None for headings in all directions.
    scatter : float
        Standard deviation of the first heading around `direction`, rad.
    persistence : float
        Persistence length, um: chains that enter have turned on their way.
    """
    mean, radius = shortest + tail, field.radius
    entering = streams.poisson(2 * radius * density)
    born = streams.poisson(math.pi * radius**2 * density / mean)
    counts = entering + born
    owner = streams.owners(counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    enters = torch.arange(len(owner), device=owner.device) - first < entering[owner]
    # a chain seen in passing is longer than the average one: its length is drawn with weight proportional to length
    length = shortest + streams.exponential(tail, counts)
    longer = streams.exponential(tail, counts) * (streams.uniform(0.0, 1.0, counts) < tail / mean)
    length = length + longer * enters
    travelled = length * streams.uniform(0.0, 1.0, counts) * enters
    heading = streams.uniform(-math.pi, math.pi, counts)
    if direction is not None:
        heading = direction[owner] + streams.normal(counts) * (scatter**2 + travelled / persistence).sqrt()
    across = radius * streams.uniform(-1.0, 1.0, counts)
    along = -(radius**2 - across**2).sqrt()
    ray = torch.stack((heading.cos(), heading.sin()), -1)
    side = torch.stack((-ray[:, 1], ray[:, 0]), -1)
    inside = _in_disc(radius, streams, counts)
    point = torch.where(enters[:, None], along[:, None] * ray + across[:, None] * side, inside)
    return Starts(point, heading, length - travelled, owner, counts)


def _in_disc(radius: float, streams: Streams, counts: Tensor) -> Tensor:
    """Draw points uniform in a disc, shape (rows, 2)."""
    r = radius * streams.uniform(0.0, 1.0, counts).sqrt()
    angle = streams.uniform(-math.pi, math.pi, counts)
    return torch.stack((r * angle.cos(), r * angle.sin()), -1)


def grow_in_disc(
    field: Field, streams: Streams, starts: Starts, persistence: float, step: float = STEP
) -> tuple[Paths, Tensor]:
    """Grow chains until their end or until they leave the disc; also return the headings (F, S)."""
    longest = min(2.4 * field.radius, float(starts.length.max())) if len(starts.owner) else 0.0
    # the number of steps must not depend on the other images of the batch: their generators would run on differently
    turns = streams.normal(starts.counts, (math.ceil(2.4 * field.radius / step),))
    turns = turns[:, : max(1, math.ceil(longest / step))]
    points, heading = grow(starts, persistence, turns, step)
    travelled = (torch.arange(turns.shape[1], device=turns.device) + 0.5) * step
    left = (points.norm(dim=-1) > field.radius * 1.001).cumsum(1) > 0
    return Paths(points, (travelled < starts.length[:, None]) & ~left, starts.owner), heading


def place_labels(
    field: Field,
    streams: Streams,
    paths: Paths,
    heading: Tensor,
    rate: Tensor,
    spread: Tensor | float,
    step: float = STEP,
) -> tuple[Tensor, Tensor]:
    """Put a Poisson number of labels on chains, spread across them by a Gaussian.

    Parameters
    ----------
    field, streams : Field, Streams
        As above. Only chains on the canvas get labels.
    paths, heading : Paths, Tensor of shape (F, S)
        The chains.
    rate : Tensor, shape (F,)
        Expected labels per um.
    spread : Tensor of shape (F,), or float
        Standard deviation of the offset across the chain, um.
    step : float
        Step of the chains, um.

    Returns
    -------
    points : Tensor, shape (N, 2)
        um.
    owner : Tensor, shape (N,)
        Image of each label.
    """
    chain, at = (paths.alive & field.holds(paths.points)).nonzero(as_tuple=True)
    counts = torch.bincount(paths.owner[chain], minlength=len(streams))
    number = streams.poisson(rate[chain] * step, counts)
    chain, at = (torch.repeat_interleave(index, number) for index in (chain, at))
    owner = paths.owner[chain]
    counts = torch.bincount(owner, minlength=len(streams))
    along = streams.uniform(-step / 2, step / 2, counts)
    sd = spread[chain] if isinstance(spread, Tensor) else spread
    across = streams.normal(counts) * sd
    cos, sin = heading[chain, at].cos(), heading[chain, at].sin()
    offset = torch.stack((along * cos - across * sin, along * sin + across * cos), -1)
    return paths.points[chain, at] + offset, owner


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
    points, owner = place_labels(field, streams, paths, heading, rate, 0.050 / math.sqrt(8 * math.log(2)))
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
    more, whose = place_labels(field, streams, mesh, heading, rate, 0.01, step=2 * STEP)
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
    width = streams.uniform(0.05, 0.2, counts) / math.sqrt(8 * math.log(2))
    labels, whose = place_labels(field, streams, paths, heading, rate, width)
    return paths, labels, whose
