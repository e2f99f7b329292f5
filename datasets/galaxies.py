"""Simulated galaxies of four kinds, and the artefacts that detectors and satellites leave on them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.datasets._skies import uniform

KINDS = ("elliptical", "edge-on disc", "spiral", "merger")
_FINE = 3  # subpixels per pixel and axis
_SOFT = 0.2  # of the half-light radius: the seeing that rounds off a cusp


class Galaxies(NamedTuple):
    """Images without noise."""

    image: Tensor  # (n, 1, npix, npix), in units of a typical peak
    kind: Tensor  # (n,) int, index into KINDS

    @property
    def flux(self) -> Tensor:
        """Sum of the pixels, (n,)."""
        return self.image.sum((1, 2, 3))


def simulate_galaxies(n: int, npix: int = 16, *, generator: torch.Generator) -> Galaxies:
    r"""Draw galaxies: ellipticals, discs seen edge-on, two-armed spirals, and mergers, in equal parts.

    Ellipticals have de Vaucouleurs profiles :math:`\exp(-7.67 (r/r_e)^{1/4})`, discs exponential ones; a spiral is a
    disc seen nearly face-on with :math:`1 + \cos 2(\phi - \phi_0 - \ln r/\tan p)` in its light and a small bulge; a
    merger is two ellipticals at 0.25 to 0.4 of the field from each other. Centres, angles, sizes, axis ratios and
    brightnesses are uniform in ranges, sizes in proportion to `npix`.

    Parameters
    ----------
    n : int
        Number of images.
    npix : int
        Pixels on a side.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Galaxies

    Raises
    ------
    ValueError
        If `n` or `npix` is not positive.
    """
    check_positive("n", n)
    check_positive("npix", npix)
    kind = torch.arange(n).remainder(len(KINDS))[torch.randperm(n, generator=generator)]
    x, y = _grid(npix)
    shift = _uniform(n, (-0.06, 0.06), generator), _uniform(n, (-0.06, 0.06), generator)
    turn = _uniform(n, (0.0, math.pi), generator)
    x, y = _turned(x - shift[0], y - shift[1], turn)
    makers = (_elliptical, _edge_on, _spiral, _merger)
    drawn = torch.stack([make(x, y, generator) for make in makers])
    fine = drawn[kind, torch.arange(n)]
    image = torch.nn.functional.avg_pool2d(fine[:, None], _FINE)
    peak = image.flatten(1).amax(1)
    return Galaxies(image / peak[:, None, None, None] * _uniform(n, (0.7, 1.0), generator)[..., None], kind)


def column_stripes(image: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Add an offset of standard deviation `size` to every column, as of amplifiers that drift; (B, C, H, W)."""
    offset = torch.randn(len(image), 1, 1, image.shape[-1], generator=generator, dtype=image.dtype)
    return image + size * offset


def hot_pixels(image: Tensor, size: float, share: float, generator: torch.Generator) -> Tensor:
    """Add `size` to a random `share` of the pixels, (B, C, H, W)."""
    hot = torch.rand(image.shape, generator=generator, dtype=image.dtype) < share
    return image + size * hot


def satellite_trail(image: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Add a straight line of brightness `size`, one pixel wide, at a random place and angle, (B, C, H, W)."""
    n, _, height, width = image.shape
    angle = math.pi * torch.rand(n, 1, 1, generator=generator, dtype=image.dtype)
    place = (torch.rand(n, 1, 1, generator=generator, dtype=image.dtype) - 0.5) * 0.5 * min(height, width)
    rows = torch.arange(height, dtype=image.dtype)[:, None] - (height - 1) / 2
    columns = torch.arange(width, dtype=image.dtype) - (width - 1) / 2
    distance = rows * angle.cos() - columns * angle.sin() - place
    return image + size * torch.exp(-0.5 * (distance / 0.5) ** 2)[:, None]


def _grid(npix: int) -> tuple[Tensor, Tensor]:
    """Centres of the subpixels, in sides of the field, from its centre."""
    fine = npix * _FINE
    axis = (torch.arange(fine) + 0.5) / fine - 0.5
    return axis[None, None, :].expand(1, fine, fine), axis[None, :, None].expand(1, fine, fine)


def _uniform(n: int, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(n, 1, 1)."""
    return uniform((n, 1, 1), bounds, generator)


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _cusp(x: Tensor, y: Tensor, radius: Tensor, ratio: Tensor) -> Tensor:
    """A de Vaucouleurs profile of half-light `radius` and axis `ratio`, 1 at the centre but for its softening."""
    r = (x**2 + (y / ratio) ** 2 + (_SOFT * radius) ** 2).sqrt()
    return torch.exp(-7.67 * ((r / radius) ** 0.25 - _SOFT**0.25))


def _disc(x: Tensor, y: Tensor, length: Tensor, ratio: Tensor) -> Tensor:
    """An exponential disc of scale `length` and axis `ratio`."""
    return torch.exp(-(x**2 + (y / ratio) ** 2).sqrt() / length)


def _elliptical(x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    return _cusp(x, y, _uniform(n, (0.12, 0.22), g), _uniform(n, (0.6, 1.0), g))


def _edge_on(x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    return _disc(x, y, _uniform(n, (0.12, 0.2), g), _uniform(n, (0.12, 0.25), g))


def _spiral(x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    length, ratio = _uniform(n, (0.14, 0.2), g), _uniform(n, (0.75, 1.0), g)
    pitch, hand = _uniform(n, (0.35, 0.55), g), torch.randint(0, 2, (n, 1, 1), generator=g) * 2 - 1
    r, phi = (x**2 + (y / ratio) ** 2 + 1e-6).sqrt(), torch.atan2(y / ratio, x)
    arms = 1 + (2 * (hand * phi - r.log() / pitch.tan())).cos()
    return _disc(x, y, length, ratio) * arms + 0.8 * _disc(x, y, 0.25 * length, ratio)


def _merger(x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
    n = len(x)
    gap, share = _uniform(n, (0.25, 0.4), g), _uniform(n, (0.5, 1.0), g)
    parts = []
    for side in (-0.5, 0.5):
        a, b = _turned(x - side * gap, y, _uniform(n, (0.0, math.pi), g))
        parts.append(_cusp(a, b, _uniform(n, (0.08, 0.14), g), _uniform(n, (0.6, 1.0), g)))
    return parts[0] + share * parts[1]
