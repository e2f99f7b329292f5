"""Random black-hole skies to train a diffusion prior on, and skies of other kinds to test it with.

Toy models, not GRMHD: blurred m-rings and a toy equatorial flow, with a share of skies that hold no ring at all, so
that a prior trained on them does not turn every source into a ring.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.progress import track
from sciinstruct.core.random import make_generator
from sciinstruct.datasets import _plain_skies as plain
from sciinstruct.datasets import _ring_skies as ring
from sciinstruct.datasets._skies import (
    Canvas,
    Pose,
    average_blocks,
    draw_pose,
    gaussian_field,
    make_canvas,
    normal,
    uniform,
)

Renderer = Callable[[Canvas, torch.Generator], tuple[Tensor, dict[str, Tensor]]]

_TRAINING: dict[str, Renderer] = {
    "m_ring": ring.m_ring,
    "flow": ring.toy_flow,
    "gaussian": plain.spots,
    "disc": plain.disc,
    "double": plain.double,
    "jet": plain.jet,
    "blob": plain.blob,
}
_OTHER: dict[str, Renderer] = {
    "disc": partial(plain.disc, diameter=(30.0, 90.0), edge=(0.3, 0.8), gradient=(0.0, 0.0)),
    "double": partial(plain.double, separation=(20.0, 80.0), fwhm=(4.0, 8.0)),
    "jet": partial(plain.jet, length=(40.0, 90.0), knots=8),
    "blob": partial(plain.blob, contrast=(1.5, 2.5), scale=(8.0, 15.0)),
}
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "m_ring": 0.42,
    "flow": 0.40,
    "gaussian": 0.036,
    "disc": 0.036,
    "double": 0.036,
    "jet": 0.036,
    "blob": 0.036,
}
_CHUNK = 64  # skies rendered at a time: about 200 MB


class BlackHoleImages(NamedTuple):
    """A set of random skies.

    Attributes
    ----------
    images : Tensor, shape (n, 1, npix, npix)
        Brightness in units of each image's mean, so every image sums to npix^2. Row 0 is North, column 0 is East.
    labels : Tensor, shape (n,)
        Index into `kinds`.
    kinds : tuple of str
        Names of the kinds.
    parameters : dict of str to Tensor, each of shape (n,)
        What was drawn, on the sky. For all kinds: ``x`` and ``y`` (offset of the model's origin East and North, uas),
        ``zoom`` and ``rotation`` (deg). NaN where a kind lacks the entry: ``diameter``, ``width``, ``separation``,
        ``length``, ``scale`` (uas), ``position_angle`` (deg East of North, brightest direction of an m-ring's first
        order), ``asymmetry`` (size of that order) and ``inclination`` (deg).
    """

    images: Tensor
    labels: Tensor
    kinds: tuple[str, ...]
    parameters: dict[str, Tensor]


def simulate_blackholes(
    n: int,
    npix: int = 64,
    fov: float = 128.0,
    *,
    weights: Mapping[str, float] | None = None,
    generator: torch.Generator | int | None = None,
    progress: bool = False,
) -> BlackHoleImages:
    """Simulate the training set of a black-hole prior. Toy models, not GRMHD.

    Every sky is rotated, mirrored (probability 1/2), zoomed by U(0.83, 1.15) and shifted by N(0, 4 uas) along each
    axis, rendered on pixels two to four times finer, and averaged. It is then multiplied by exp(a f), a ~ U(0.05, 0.3),
    with f a smooth Gaussian field of unit variance, and a faint textured floor of 3 to 10 % of the mean brightness is
    added: but for the flux, which is normalised, there is no direction in which all skies agree exactly.

    Parameters
    ----------
    n : int
        Number of skies.
    npix : int
        Pixels along a side.
    fov : float
        Side of the field, uas.
    weights : mapping of str to float, optional
        Relative share of each kind: ``m_ring``, ``flow``, ``gaussian``, ``disc``, ``double``, ``jet``, ``blob``.
        Default: `DEFAULT_WEIGHTS`, 42 % m-rings, 40 % flows and 3.6 % of each kind without a ring.
    generator : torch.Generator or int, optional
        Source of randomness, or a seed. The images lie on its device.
    progress : bool
        Show a progress bar.

    Returns
    -------
    BlackHoleImages

    Raises
    ------
    ValueError
        If `n` or `npix` is too small, `fov` is not positive, or `weights` names an unknown kind, is negative or sums
        to zero.
    """
    shares = _check_weights(DEFAULT_WEIGHTS if weights is None else weights)
    return _simulate(n, npix, fov, _TRAINING, shares, make_generator(generator), textured=True, progress=progress)


def simulate_other_skies(
    n: int,
    npix: int = 64,
    fov: float = 128.0,
    *,
    generator: torch.Generator | int | None = None,
    progress: bool = False,
) -> BlackHoleImages:
    """Simulate skies off the training distribution, to see what a black-hole prior does to them.

    Equal shares of sharp-edged flat discs, double points, long jets of eight knots and blobs of high contrast, drawn
    from other ranges than the ring-free share of `simulate_blackholes` and without texture or floor.

    Parameters
    ----------
    n, npix, fov, generator, progress
        As in `simulate_blackholes`.

    Returns
    -------
    BlackHoleImages

    Raises
    ------
    ValueError
        If `n` or `npix` is too small or `fov` is not positive.
    """
    shares = dict.fromkeys(_OTHER, 1.0)
    return _simulate(n, npix, fov, _OTHER, shares, make_generator(generator), textured=False, progress=progress)


def _simulate(
    n: int,
    npix: int,
    fov: float,
    renderers: Mapping[str, Renderer],
    shares: Mapping[str, float],
    generator: torch.Generator,
    *,
    textured: bool,
    progress: bool,
) -> BlackHoleImages:
    """Draw kinds and poses, then render kind by kind in small chunks."""
    _check_size(n, npix, fov)
    kinds = tuple(renderers)
    share = torch.tensor([shares.get(kind, 0.0) for kind in kinds], device=generator.device)
    labels = torch.multinomial(share, n, replacement=True, generator=generator)
    pose = draw_pose(n, generator)
    images = torch.empty(n, npix, npix, device=generator.device)
    parameters = {"x": pose.x, "y": pose.y, "zoom": pose.zoom, "rotation": torch.rad2deg(pose.rotation)}
    chunks = [(kind, c) for k, kind in enumerate(kinds) for c in (labels == k).nonzero()[:, 0].split(_CHUNK) if len(c)]
    for kind, index in track(chunks, progress=progress, description="black-hole skies"):
        chosen = pose.select(index)
        sky, shapes = renderers[kind](make_canvas(chosen, _fine_side(npix), fov), generator)
        sky = average_blocks(sky, npix)
        images[index] = _normalise(_add_texture(_normalise(sky), fov, generator) if textured else sky)
        for name, value in shapes.items():
            parameters.setdefault(name, torch.full((n,), torch.nan, device=generator.device))
            parameters[name][index] = _on_sky(name, value, chosen)
    return BlackHoleImages(images[:, None], labels, kinds, parameters)


def _fine_side(npix: int) -> int:
    """Side of the fine grid: two to four times finer, about 128 pixels where that suffices."""
    return npix * min(4, max(2, -(-128 // npix)))


def _normalise(sky: Tensor) -> Tensor:
    """Divide by the mean brightness."""
    return sky / sky.mean(dim=(-1, -2), keepdim=True)


def _on_sky(name: str, value: Tensor, pose: Pose) -> Tensor:
    """Turn a model parameter into the one on the sky: lengths are zoomed, position angles turned."""
    if name == "position_angle":
        return pose.position_angle(value)
    return value if name in {"asymmetry", "inclination"} else value * pose.zoom


def _add_texture(sky: Tensor, fov: float, generator: torch.Generator) -> Tensor:
    """Multiply by a mild log-normal field and add a faint floor with texture down to single pixels."""
    n, npix = sky.shape[:2]
    length = 6 * 5 ** uniform(n, (0.0, 1.0), generator) * (npix / fov)  # 6 to 30 uas, uniform in its logarithm
    field = gaussian_field((npix, npix), length, uniform(n, (1.5, 2.5), generator), generator)
    floor = uniform(n, (0.03, 0.1), generator)[:, None, None]
    # the white part gives each pixel a sd of its own: 0.3 * floor = 1 to 3 % of the mean
    grain = 0.5 * gaussian_field((npix, npix), 2 * length, torch.full_like(length, 2.0), generator)
    grain = grain + normal((n, npix, npix), 0.3, generator)
    return sky * torch.exp(uniform(n, (0.05, 0.3), generator)[:, None, None] * field) + floor * torch.exp(grain)


def _check_size(n: int, npix: int, fov: float) -> None:
    """Raise ValueError on an empty set, an image too small to hold a sky, or a bad field."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if npix < 8:
        raise ValueError(f"npix must be at least 8, got {npix}")
    check_positive("fov", fov)


def _check_weights(weights: Mapping[str, float]) -> Mapping[str, float]:
    """Raise ValueError unless every name is a kind and the shares can be normalised."""
    unknown = sorted(set(weights) - set(_TRAINING))
    if unknown:
        raise ValueError(f"weights has unknown kinds {unknown}, expected some of {list(_TRAINING)}")
    if min(weights.values(), default=0) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"weights must be non-negative and not all zero, got {dict(weights)}")
    return weights
