"""Worm-like chains in a field: how they enter or begin, grow, and carry labels."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.datasets._cell_field import Field, Paths
from sciinstruct.datasets._streams import Streams

STEP = 0.01  # along a chain, um


class Starts(NamedTuple):
    """Chains before they grow; every entry has F rows."""

    point: Tensor  # (F, 2), um
    heading: Tensor  # rad
    length: Tensor  # still to grow, um
    born: Tensor  # whether `point` is the chain's own beginning
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
    return Starts(point, heading, length - travelled, ~enters, owner, counts)


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


class Labels(NamedTuple):
    """Labels on chains; every entry has N rows, image after image."""

    point: Tensor  # the chain's point they belong to, (N, 2), um
    heading: Tensor  # of the chain there, rad
    chain: Tensor  # index of the chain
    owner: Tensor  # image
    counts: Tensor  # labels of each image, (n,)

    def moved(self, along: Tensor, across: Tensor) -> Tensor:
        """Return positions (N, 2) after a move along the chain and to its side, um."""
        cos, sin = self.heading.cos(), self.heading.sin()
        return self.point + torch.stack((along * cos - across * sin, along * sin + across * cos), -1)


def choose_labels(
    field: Field, streams: Streams, paths: Paths, heading: Tensor, rate: Tensor, step: float = STEP
) -> Labels:
    """Draw a Poisson number of labels for each step of the chains that lies on the canvas.

    Parameters
    ----------
    field, streams : Field, Streams
        The field and the random numbers.
    paths, heading : Paths, Tensor of shape (F, S)
        The chains.
    rate : Tensor, shape (F,)
        Expected labels per um.
    step : float
        Step of the chains, um.
    """
    chain, at = (paths.alive & field.holds(paths.points)).nonzero(as_tuple=True)
    counts = torch.bincount(paths.owner[chain], minlength=len(streams))
    number = streams.poisson(rate[chain] * step, counts)
    chain, at = (torch.repeat_interleave(index, number) for index in (chain, at))
    owner = paths.owner[chain]
    counts = torch.bincount(owner, minlength=len(streams))
    return Labels(paths.points[chain, at], heading[chain, at], chain, owner, counts)


def place_labels(
    field: Field,
    streams: Streams,
    paths: Paths,
    heading: Tensor,
    rate: Tensor,
    spread: Tensor,
    step: float = STEP,
) -> tuple[Tensor, Tensor]:
    """Put labels on chains, spread across them by a Gaussian of sd `spread` (F,), um: positions (N, 2), images (N,)."""
    labels = choose_labels(field, streams, paths, heading, rate, step)
    along = streams.uniform(-step / 2, step / 2, labels.counts)
    across = streams.normal(labels.counts) * spread[labels.chain]
    return labels.moved(along, across), labels.owner
