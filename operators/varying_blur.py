"""Blur whose point-spread function changes over the field, from one tile to the next."""

import torch
from torch import Tensor

from sciinstruct.operators.convolution import PaddedFilter, centred, normalised, with_channel
from sciinstruct.operators.padding import Boundary


class VaryingBlur(PaddedFilter):
    r"""Weighted sum of convolutions, :math:`y = \sum_t h_t * (w_t \odot x)`.

    The weights w_t are hats, 1 at the centre of tile t, 0 at the centres of its neighbours, linear in between and
    constant beyond the outer centres; they add up to 1. A source at the centre of a tile is blurred by that tile's
    point-spread function, one between centres by the bilinear mean of its neighbours'.

    Parameters
    ----------
    psfs : Tensor, shape (ty, tx, kh, kw)
        Point-spread functions on a grid of ty x tx equal tiles of the image, in reading order, each centred at
        ``(kh // 2, kw // 2)`` and divided by its sum.
    image_shape : tuple of int, (H, W) or (C, H, W)
        Shape of the image; two numbers mean one channel.
    boundary : str
        As for `sciinstruct.operators.convolution.Convolution`; with ``"circular"`` the weights do not wrap around.

    Raises
    ------
    TypeError
        If `psfs` is not a floating tensor.
    ValueError
        If `psfs` has another number of axes, is not finite, larger than the image, has a sum that is not positive,
        or more tiles than the image has pixels.

    Notes
    -----
    With equal point-spread functions it is `Convolution`. One FFT per tile and one more, in both directions; the memory
    is that of one image, but the transfer functions of all tiles are kept.

    References
    ----------
    Nagy and O'Leary 1998, "Restoring images degraded by spatially variant blur", eq. 8, with overlapping weights.
    """

    gains: Tensor
    hats_y: Tensor
    hats_x: Tensor

    def __init__(self, psfs: Tensor, image_shape: tuple[int, ...], boundary: Boundary = "circular") -> None:
        sides = with_channel(image_shape)[1:]
        if isinstance(psfs, Tensor) and psfs.ndim != 4:
            raise ValueError(f"psfs must have shape (ty, tx, kh, kw), got {tuple(psfs.shape)}")
        psfs = normalised(psfs, sides)
        if psfs.shape[0] > sides[0] or psfs.shape[1] > sides[1]:
            raise ValueError(f"psfs must not be more tiles than the image has pixels {sides}, got {psfs.shape[:2]}")
        super().__init__((psfs.shape[2], psfs.shape[3]), image_shape, boundary)
        self.register_buffer("gains", torch.fft.rfft2(centred(psfs, self.grid)))
        self.register_buffer("hats_y", _hats(psfs.shape[0], sides[0]))
        self.register_buffer("hats_x", _hats(psfs.shape[1], sides[1]))

    def apply(self, x: Tensor) -> Tensor:
        """Blurred image, (B, C, H, W) -> (B, *range_shape)."""
        total = x.new_zeros(())
        for i, j in self._tiles():
            spectrum = torch.fft.rfft2(self._widen(x * self._weight(i, j, x)), s=self.grid)
            total = total + spectrum * self.gains[i, j].to(x.device, spectrum.dtype)
        return self._cut(total)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Transpose, (B, *range_shape) -> (B, C, H, W): every tile correlates, then weighs."""
        spectrum = self._cut_transpose(y)
        total = y.new_zeros(())
        for i, j in self._tiles():
            wide = self._correlated(spectrum * self.gains[i, j].conj().to(y.device, spectrum.dtype))
            total = total + self._widen_transpose(wide) * self._weight(i, j, y)
        return total

    def _tiles(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(len(self.hats_y)) for j in range(len(self.hats_x))]

    def _weight(self, i: int, j: int, like: Tensor) -> Tensor:
        """Weight of a tile, (H, W)."""
        return (self.hats_y[i][:, None] * self.hats_x[j]).to(like.device, like.dtype)


def _hats(tiles: int, side: int) -> Tensor:
    """Linear interpolation weights of the tiles' centres, (tiles, side); columns add up to 1."""
    position = (torch.arange(side, dtype=torch.float64) + 0.5) * tiles / side - 0.5  # in tiles, centres at 0, 1, ...
    position = position.clamp(0, tiles - 1)
    return (1 - (position - torch.arange(tiles, dtype=torch.float64)[:, None]).abs()).clamp(min=0)
