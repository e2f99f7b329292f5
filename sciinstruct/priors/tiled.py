"""A prior for images larger than the one it was trained on: denoised in overlapping tiles that melt into one image."""

import torch
from torch import Tensor

from sciinstruct.core import Denoiser
from sciinstruct.priors.base import Prior

_BATCH = 64  # tiles in the network at once


class TiledPrior(Prior):
    r"""Denoise a large image as the weighted average of its overlapping tiles' denoised images.

    Solvers then walk one large image, not tiles: noise and data are those of the whole, so samples have no seams to
    match. The weight of a tile falls to zero at its edges, and the grid of tiles moves from one noise level to the
    next, so that no pixel lies near an edge at every level.

    Parameters
    ----------
    tile : Prior
        Of small images (C, h, w), whose law does not depend on place: crops of larger scenes.
    image_shape : tuple of int, (H, W)
        At least the tile's in both directions.
    overlap : float
        Fraction of a tile's side that it shares with the next, at least.

    Raises
    ------
    ValueError
        If the image is smaller than the tile, or `overlap` lies outside [0.1, 0.9].

    Notes
    -----
    Structure that only a larger tile could show, such as the straightness of a filament over several tiles, is learnt
    from the overlaps alone. The average of denoised tiles is a denoiser's output for the law whose score is the average
    of the tiles' scores (Bar-Tal et al. 2023, "MultiDiffusion").
    """

    def __init__(self, tile: Prior, image_shape: tuple[int, int], overlap: float = 0.25) -> None:
        super().__init__()
        channels, height, width = tile.event_shape
        if image_shape[0] < height or image_shape[1] < width:
            raise ValueError(f"image_shape must be at least the tile's {(height, width)}, got {tuple(image_shape)}")
        if not 0.1 <= overlap <= 0.9:
            raise ValueError(f"overlap must lie between 0.1 and 0.9, got {overlap}")
        self.tile, self.overlap = tile, overlap
        self.event_shape = (channels, *image_shape)
        self.sigma_range, self.scale, self.shift = tile.sigma_range, tile.scale, tile.shift

    def to_physical(self, x: Tensor) -> Tensor:
        """As the tile's."""
        return self.tile.to_physical(x)

    def from_physical(self, image: Tensor) -> Tensor:
        """As the tile's."""
        return self.tile.from_physical(image)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Expectation of the clean image, (B, C, H, W); `sigma` a number, or (B,) for a batch."""
        self.check(x)
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        rows, columns = (self.starts(axis, sigma) for axis in (1, 2))
        places = [(b, r, c) for b in range(len(x)) for r in rows for c in columns]
        height, width = self.tile.event_shape[1:]
        window = (_hat(height)[:, None] * _hat(width)).to(x)
        total, weight = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for some in (places[i : i + _BATCH] for i in range(0, len(places), _BATCH)):
            tiles = torch.stack([x[b, :, r : r + height, c : c + width] for b, r, c in some])
            levels = sigma[torch.tensor([b for b, _, _ in some], device=x.device)]
            for (b, r, c), done in zip(some, self.tile.denoise(tiles, levels) * window):
                total[b, :, r : r + height, c : c + width] += done
        for r in rows:
            for c in columns:
                weight[..., r : r + height, c : c + width] += window
        return total / weight

    def starts(self, axis: int, sigma: Tensor) -> list[int]:
        """First pixels of the tiles along `axis` (1 rows, 2 columns); the inner ones move with the noise level (B,)."""
        side, length = self.tile.event_shape[axis], self.event_shape[axis]
        if length == side:
            return [0]
        stride = max(1, int(side * (1 - self.overlap)))
        moved = 1 + int(997 * abs(float(sigma[0].log()))) % stride  # any fixed function that varies from level to level
        inner = range(moved, length - side, stride)
        return [0, *inner, length - side]


def tile_of(prior: Denoiser) -> Denoiser:
    """The prior of one tile, whose law is that of every other; a prior that is not tiled is its own."""
    return prior.tile if isinstance(prior, TiledPrior) else prior


def _hat(n: int) -> Tensor:
    """Weights of a tile's pixels along an axis: positive everywhere, so that corners of the image count."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.minimum(i + 1, n - i) / ((n + 1) // 2)
