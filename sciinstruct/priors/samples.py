"""The picture that goes with a packaged prior: a grid of its samples."""

import math
import os

import torch
from torch import Tensor

from sciinstruct.core import atomic_path
from sciinstruct.priors.base import Prior

SAMPLES = "samples.png"


def save_sample_grid(prior: Prior, path: str | os.PathLike[str], n: int = 16, seed: int = 0) -> None:
    """Draw `n` images of `prior` and write them as one PNG, each on its own grey scale, first channel only.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    device = next(prior.parameters(), torch.empty(0)).device
    generator = torch.Generator(device).manual_seed(seed)
    images = prior.to_physical(prior.sample(n, generator=generator, device=device))[:, 0].cpu()
    figure = Figure(figsize=(6, 6 * images.shape[1] / images.shape[2]), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(_tile(images).numpy(), cmap="afmhot", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary)


def _tile(images: Tensor) -> Tensor:
    """(n, h, w) -> one image of ceil(sqrt(n)) columns, each tile scaled to 0..1."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    tiles = (images - low) / (high - low).clamp(min=1e-12)
    columns = math.ceil(math.sqrt(len(tiles)))
    blank = tiles.new_zeros(-len(tiles) % columns, *tiles.shape[1:])
    rows = torch.cat([tiles, blank]).unflatten(0, (-1, columns))
    return rows.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
