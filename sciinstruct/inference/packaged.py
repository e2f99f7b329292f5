"""The reconstructors that come with the package: what each is for, and how to get it."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, SolverError
from sciinstruct.core.weights_folder import CARD
from sciinstruct.inference.blur_simulator import BlurSimulator
from sciinstruct.inference.reconstructor import Reconstructor
from sciinstruct.inference.simulator import AffineSimulator, MaskSimulator

ZOO = Path(__file__).parent / "zoo"
BLUR, MASK = "cells-64-blur", "cells-64-mask"
_SHAPE = (1, 64, 64)


class Packaged(NamedTuple):
    """A trained network, and the law of the measurements it is for."""

    reconstructor: Reconstructor
    simulator: AffineSimulator  # its `pack` makes what `reconstructor.sample` takes


class Setup(NamedTuple):
    """What a packaged reconstructor was trained for."""

    prior: str  # name of a packaged prior
    simulator: AffineSimulator


def make_setup(name: str) -> Setup:
    """Prior and measurements of a packaged reconstructor.

    ``"cells-64-blur"``: fluorescent structures, pixels of 31.3 nm, behind a Gaussian blur of 1.6 to 4 pixels (117 to
    295 nm full width at half maximum) and white noise of 0.03 to 0.3 of a typical foreground; both are told to the
    network. ``"cells-64-mask"``: the same structures with missing pixels (random ones, a box, or stripes) and noise of
    0.05.

    Raises
    ------
    SolverError
        If there is no such set-up.
    """
    if name == BLUR:
        return Setup("cells-64", BlurSimulator(_SHAPE, (1.6, 4.0), (0.03, 0.3)))
    if name == MASK:
        return Setup("cells-64", MaskSimulator(_SHAPE, 0.05, draw_masks))
    raise SolverError(f"no packaged reconstructor {name!r}: there are {BLUR!r} and {MASK!r}")


def available_reconstructors() -> list[str]:
    """Names of the packaged reconstructors, sorted."""
    return sorted(path.parent.name for path in ZOO.glob(f"*/{CARD}"))


def load_reconstructor(
    name: str, prior: Denoiser | None = None, folder: str | os.PathLike[str] | None = None
) -> Packaged:
    """Load a packaged reconstructor, or one trained anew for the same set-up.

    Parameters
    ----------
    name : str
        See `make_setup`.
    prior : Denoiser, optional
        The packaged prior it was trained with, if it is loaded already.
    folder : path, optional
        What ``sciinstruct train reconstructor NAME --out`` wrote; the packaged one if None.

    Raises
    ------
    SolverError
        If there is no such reconstructor, or its files are missing or damaged.
    """
    from sciinstruct.priors import zoo

    setup = make_setup(name)
    known = prior if prior is not None else zoo.load(setup.prior)
    return Packaged(
        Reconstructor.load(folder if folder is not None else ZOO / name, known, setup.simulator), setup.simulator
    )


def draw_masks(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Masks (n, 1, 64, 64), True where measured: pixels at random (20 to 80 %), all but a box, or stripes of rows.

    They lie where the generator draws.
    """
    _, height, width = _SHAPE
    device = generator.device if generator is not None else torch.device("cpu")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device=device)

    share = 0.2 + 0.6 * uniform(n, 1, 1)
    pixels = uniform(n, height, width) < share
    rows, columns = torch.arange(height, device=device)[None, :, None], torch.arange(width, device=device)[None, None]
    side = whole(8, 25, 2, n, 1, 1)
    sides = torch.tensor(_SHAPE[1:], device=device)[:, None, None, None]
    corner = (uniform(2, n, 1, 1) * (sides - side)).long()
    outside_rows = (rows < corner[0]) | (rows >= corner[0] + side[0])
    boxes = outside_rows | (columns < corner[1]) | (columns >= corner[1] + side[1])
    period = whole(2, 7, n, 1, 1)
    stripes = (rows % period == 0).expand(-1, -1, width)
    kind = whole(0, 4, n, 1, 1)  # half of them at random
    return torch.where(kind < 2, pixels, torch.where(kind == 2, boxes, stripes))[:, None]
