"""Simulated fluorescent cell structures as a super-resolution microscope shows them: a prior's training set."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.progress import track
from sciinstruct.core.random import make_generator
from sciinstruct.datasets import _cell_shapes as shapes
from sciinstruct.datasets import _filaments as filaments
from sciinstruct.datasets import _targets as targets
from sciinstruct.datasets._cell_field import Field, Paths, Scene
from sciinstruct.datasets._nuclei import nuclei
from sciinstruct.datasets._streams import Streams, image_seeds


class _Kind(NamedTuple):
    """How a kind is drawn, and the fewest labels an image of it may hold."""

    draw: Callable[[Field, Streams], Scene]
    least: float


_KINDS: dict[str, _Kind] = {
    "microtubules": _Kind(filaments.microtubules, 100.0),
    "f_actin": _Kind(filaments.f_actin, 100.0),
    "ccp": _Kind(shapes.ccp, 30.0),
    "er": _Kind(shapes.er, 100.0),
    "mitochondria": _Kind(filaments.mitochondria, 300.0),
    "nuclei": _Kind(nuclei, 100.0),
    "beads": _Kind(targets.beads, targets.BEAD / 2),
    "siemens_star": _Kind(targets.siemens_star, 0.0),
    "line_pairs": _Kind(targets.line_pairs, 0.0),
}
DEFAULT_WEIGHTS: Mapping[str, float] = {"microtubules": 0.25, "f_actin": 0.25, "ccp": 0.25, "er": 0.25}
FOREGROUND = 0.3  # foreground: pixels above this fraction of the image's maximum
_CELLS = 4_000_000  # canvas cells at a time: about 100 MB
_TRIES = 1000


class CellImages(NamedTuple):
    """A set of simulated images.

    Attributes
    ----------
    images : Tensor, shape (n, 1, npix, npix)
        Relative density of labels, blurred by a Gaussian of FWHM 100 nm and averaged over each pixel. In units of its
        mean over the foreground, the pixels above 0.3 of the image's maximum: so no value exceeds 3.34.
    labels : Tensor, shape (n,)
        Index into `kinds`.
    kinds : tuple of str
        Names of the kinds.
    parameters : dict of str to Tensor, each of shape (n,)
        What was drawn for each image, NaN where a kind lacks the entry. ``density``: of microtubules, f_actin's mesh
        and mitochondria in um per um^2, of ccp and beads per um^2. ``direction``: heading of microtubules, actin
        bundles, line pairs, and of one edge of a star, rad from the x axis (along columns) towards the y axis (along
        rows). ``spacing``: of actin bundles, and the smallest separation of line pairs, um. ``size``: of er polygons,
        um. ``x``, ``y``, ``radius`` (um from the upper left corner) and ``spokes``: of a star.
    """

    images: Tensor
    labels: Tensor
    kinds: tuple[str, ...]
    parameters: dict[str, Tensor]


class CellStructures(NamedTuple):
    """What `simulate_cells` shows, before the blur.

    Attributes
    ----------
    raw : Tensor, shape (n, 1, fine * npix, fine * npix)
        Labels per cell of a grid `fine` times finer than the pixels (3 for the default pixel, cells up to 12.5 nm; 8
        at most), not blurred.
    lines : list of list of Tensor, each of shape (k, 2)
        For each image the centre lines of its filaments, actin bundles (not the mesh) or tubes, the outlines of its
        nuclei, or the centres of its pits or beads (k = 1); nothing for a star. Columns x and y in um from the upper
        left corner of the image, so pixel (row, column) spans [column, column + 1] x [row, row + 1] times the pixel.
        Only points inside the image.
    """

    raw: Tensor
    lines: list[list[Tensor]]


def simulate_cells(
    weights: str | Mapping[str, float] | None,
    n: int,
    npix: int = 64,
    pixel_um: float = 0.0313,
    *,
    generator: torch.Generator | int | None = None,
    progress: bool = False,
) -> CellImages:
    """Simulate fluorescent structures as linear SIM would show them, at about 100 nm.

    The field is a random piece of a larger cell: structures enter and leave it, and nothing happens at its edges.
    Structures carry a Poisson number of labels, so filaments are grainy. Fields with next to no labels are redrawn.

    Parameters
    ----------
    weights : str, mapping of str to float, or None
        One kind, or the relative share of each: ``microtubules``, ``f_actin``, ``ccp`` (clathrin-coated pits), ``er``
        (endoplasmic reticulum), ``mitochondria``, ``nuclei`` (for pixels of about 0.3 um), and the test targets
        ``beads``, ``siemens_star`` and ``line_pairs``. None: `DEFAULT_WEIGHTS`, equal shares of the first four.
    n : int
        Number of images.
    npix : int
        Pixels along a side.
    pixel_um : float or astropy Quantity
        Side of a pixel, um.
    generator : torch.Generator or int, optional
        Source of randomness, or a seed. The images lie on its device. Each image has a stream of its own.
    progress : bool
        Show a progress bar.

    Returns
    -------
    CellImages

    Raises
    ------
    ValueError
        If `n` or `npix` is too small, `pixel_um` is not in (0, 0.5], `weights` names an unknown kind, is negative or
        sums to zero, or the field is too small to hold any of the structures.
    """
    field, labels, seeds, source = _plan(weights, n, npix, pixel_um, generator)
    kinds = tuple(_KINDS)
    images = torch.empty(n, npix, npix, device=source.device)
    parameters: dict[str, Tensor] = {}
    for index, scene in track(
        _scenes(field, labels, seeds, source.device),
        progress=progress,
        description="cells",
    ):
        images[index] = _normalise(field.project(scene.canvas))
        for name, value in scene.parameters.items():
            parameters.setdefault(name, torch.full((n,), torch.nan, device=source.device))
            parameters[name][index] = value
    return CellImages(images[:, None], labels, kinds, parameters)


def draw_structures(
    weights: str | Mapping[str, float] | None,
    n: int,
    npix: int = 64,
    pixel_um: float = 0.0313,
    *,
    generator: torch.Generator | int | None = None,
) -> CellStructures:
    """Return what lies behind the images that `simulate_cells` makes of the same arguments and seed.

    Parameters
    ----------
    weights, n, npix, pixel_um, generator
        As in `simulate_cells`.

    Returns
    -------
    CellStructures

    Raises
    ------
    ValueError
        As `simulate_cells`.
    """
    field, labels, seeds, source = _plan(weights, n, npix, pixel_um, generator)
    fine = npix * field.factor
    raw = torch.empty(n, fine, fine, device=source.device)
    lines: list[list[Tensor]] = [[] for _ in range(n)]
    for index, scene in _scenes(field, labels, seeds, source.device):
        raw[index] = field.crop(scene.canvas)
        for image, line in _lines(field, scene.paths):
            lines[index[image]].append(line)
    return CellStructures(raw[:, None], lines)


def _plan(
    weights: str | Mapping[str, float] | None,
    n: int,
    npix: int,
    pixel_um: float,
    generator: torch.Generator | int | None,
) -> tuple[Field, Tensor, list[int], torch.Generator]:
    """Check the arguments, then draw each image's kind and seed."""
    pixel = float(pixel_um.to_value("um")) if hasattr(pixel_um, "to_value") else float(pixel_um)
    shares = _check(weights, n, npix, pixel)
    source = make_generator(generator)
    share = torch.tensor([shares.get(kind, 0.0) for kind in _KINDS], device=source.device)
    labels = torch.multinomial(share, n, replacement=True, generator=source)
    return Field(npix, pixel), labels, image_seeds(n, source), source


def _scenes(field: Field, labels: Tensor, seeds: list[int], device: torch.device) -> Iterator[tuple[Tensor, Scene]]:
    """Yield accepted scenes and the images they belong to, kind by kind in small chunks."""
    size = max(1, _CELLS // field.side**2)
    for label, kind in enumerate(_KINDS.values()):
        for index in (labels == label).nonzero()[:, 0].split(size):
            streams = Streams([seeds[i] for i in index.tolist()], device)
            for _ in range(_TRIES):
                if not len(index):
                    break
                scene = kind.draw(field, streams)
                good = field.crop(scene.canvas).sum((-1, -2)) >= kind.least
                if good.any():
                    yield index[good], _select(scene, good)
                index, streams = index[~good], streams.select((~good).nonzero()[:, 0])
            if len(index):
                raise ValueError(
                    f"npix * pixel_um = {2 * field.half:.3g} um is too small a field: {_TRIES} draws held no "
                    f"{list(_KINDS)[label]}; take more or larger pixels"
                )


def _select(scene: Scene, rows: Tensor) -> Scene:
    """Return some images of a scene."""
    number = rows.cumsum(0) - 1
    paths = Paths(*(entry[rows[scene.paths.owner]] for entry in scene.paths))
    return Scene(
        scene.canvas[rows],
        paths._replace(owner=number[paths.owner]),
        {name: value[rows] for name, value in scene.parameters.items()},
    )


def _lines(field: Field, paths: Paths) -> Iterator[tuple[int, Tensor]]:
    """Yield the points of each line that lie in the image, from its upper left corner, with the line's image."""
    shown = paths.alive & (paths.points.abs() <= field.half).all(-1)
    for owner, points, mask in zip(paths.owner.tolist(), paths.points + field.half, shown):
        if mask.any():
            yield owner, points[mask]


def _normalise(images: Tensor) -> Tensor:
    """Divide each image by its mean over the foreground."""
    foreground = images > FOREGROUND * images.amax((-1, -2), keepdim=True)
    mean = (images * foreground).sum((-1, -2), keepdim=True) / foreground.sum((-1, -2), keepdim=True)
    return images / mean


def _check(weights: str | Mapping[str, float] | None, n: int, npix: int, pixel_um: float) -> Mapping[str, float]:
    """Raise ValueError on bad arguments; return the share of each kind."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if npix < 8:
        raise ValueError(f"npix must be at least 8, got {npix}")
    check_positive("pixel_um", pixel_um)
    if pixel_um > 0.5:
        raise ValueError(f"pixel_um must be at most 0.5, got {pixel_um}: structures of 0.1 um would be lost in a pixel")
    shares = {weights: 1.0} if isinstance(weights, str) else DEFAULT_WEIGHTS if weights is None else weights
    unknown = sorted(set(shares) - set(_KINDS))
    if unknown:
        raise ValueError(f"weights has unknown kinds {unknown}, expected some of {list(_KINDS)}")
    if min(shares.values(), default=0) < 0 or not 0 < sum(shares.values()) < math.inf:
        raise ValueError(f"weights must be finite, non-negative and not all zero, got {dict(shares)}")
    return shares
