"""The field of a simulated cell image: a canvas finer and larger than the image, and the way from one to the other."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

RESOLUTION_UM = 0.1  # FWHM of the Gaussian that stands for the microscope of the training images (linear SIM)
FWHM = 1 / math.sqrt(8 * math.log(2))  # standard deviation of a Gaussian over its full width at half maximum
_SIGMA = RESOLUTION_UM * FWHM
_STEP = 0.0125  # wanted pitch of the canvas, um
_MARGIN = 0.25  # the canvas reaches this much beyond the image on every side: 5.9 sigma, um


class Field(NamedTuple):
    """Square image of `npix` pixels of `pixel` um; x runs along columns, y along rows, the origin is its centre."""

    npix: int
    pixel: float

    @property
    def factor(self) -> int:
        """Canvas cells along a pixel."""
        return min(8, math.ceil(self.pixel / _STEP))

    @property
    def step(self) -> float:
        """Pitch of the canvas, um."""
        return self.pixel / self.factor

    @property
    def pad(self) -> int:
        """Pixels of canvas beyond the image on each side."""
        return math.ceil(_MARGIN / self.pixel)

    @property
    def side(self) -> int:
        """Canvas cells along a side."""
        return (self.npix + 2 * self.pad) * self.factor

    @property
    def half(self) -> float:
        """Half the side of the image, um."""
        return self.npix * self.pixel / 2

    @property
    def reach(self) -> float:
        """Half the side of the canvas, um."""
        return self.half + self.pad * self.pixel

    @property
    def radius(self) -> float:
        """Radius of the disc around the canvas, um."""
        return math.sqrt(2) * self.reach

    def axis(self, device: torch.device) -> Tensor:
        """Centres of the canvas cells along one side, um, shape (side,)."""
        return (torch.arange(self.side, device=device) + 0.5) * self.step - self.reach

    def holds(self, points: Tensor) -> Tensor:
        """Whether points (..., 2) lie on the canvas."""
        return (points.abs() < self.reach).all(-1)

    def deposit(self, points: Tensor, owner: Tensor, n: int, weight: Tensor | None = None) -> Tensor:
        """Spread points over the four nearest canvas cells, which keeps their sum and their centroid.

        Parameters
        ----------
        points : Tensor, shape (N, 2)
            Columns x and y, um. Those within half a cell of the canvas' rim or beyond it are dropped.
        owner : Tensor, shape (N,)
            Image of each point.
        n : int
            Number of images.
        weight : Tensor, shape (N,), optional
            Default one.

        Returns
        -------
        Tensor, shape (n, side, side)
        """
        place = (points + self.reach) / self.step - 0.5
        corner = place.floor()
        keep = ((corner >= 0) & (corner < self.side - 1)).all(-1)
        corner, (fx, fy) = corner[keep], (place - corner)[keep].unbind(-1)
        column, row = corner.long().unbind(-1)
        first = (owner[keep] * self.side + row) * self.side + column
        value = torch.ones_like(fx) if weight is None else weight[keep].to(fx.dtype)
        canvas = torch.zeros(n * self.side * self.side, dtype=points.dtype, device=points.device)
        for shift, share in ((0, (1 - fx) * (1 - fy)), (1, fx * (1 - fy)), (self.side, (1 - fx) * fy)):
            canvas.index_add_(0, first + shift, value * share)
        canvas.index_add_(0, first + self.side + 1, value * fx * fy)
        return canvas.view(n, self.side, self.side)

    def project(self, canvas: Tensor) -> Tensor:
        """Blur canvases by the 100 nm Gaussian and integrate over the pixels: (n, side, side) to (n, npix, npix).

        The Gaussian is separable, so two small matrices do it without a periodic edge. Its variance is lowered by
        step^2/6, which is what spreading a point over neighbouring cells adds on average.
        """
        centres = self.axis(canvas.device).double()
        edges = torch.arange(self.npix + 1, device=canvas.device).double() * self.pixel - self.half
        width = math.sqrt(2 * (_SIGMA**2 - self.step**2 / 6))
        matrix = (torch.erf((edges[:, None] - centres) / width) / 2).diff(dim=0).to(canvas.dtype)
        return matrix @ canvas @ matrix.T

    def crop(self, canvas: Tensor) -> Tensor:
        """Cut the cells of the image out: (n, side, side) to (n, npix * factor, npix * factor)."""
        rim = self.pad * self.factor
        return canvas[..., rim : self.side - rim, rim : self.side - rim]


class Paths(NamedTuple):
    """Centre lines (or single points) of structures.

    Attributes
    ----------
    points : Tensor, shape (F, S, 2)
        Columns x and y, um from the centre of the image.
    alive : Tensor of bool, shape (F, S)
        Which of the points exist.
    owner : Tensor, shape (F,)
        Image of each line, in rising order.
    """

    points: Tensor
    alive: Tensor
    owner: Tensor


def no_paths(device: torch.device) -> Paths:
    """Return no lines at all."""
    empty = torch.empty(0, 1, 2, device=device)
    return Paths(empty, empty[..., 0] > 0, torch.empty(0, dtype=torch.long, device=device))


class Scene(NamedTuple):
    """A batch of simulated structures before the blur."""

    canvas: Tensor  # labels (or their expectation) per canvas cell, (n, side, side)
    paths: Paths
    parameters: dict[str, Tensor]  # what was drawn for each image, every entry (n,)
