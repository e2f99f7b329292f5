r"""Skies whose visibilities are known in closed form: Gaussians, discs, crescents, m-rings, and their sums.

Offsets are East (x) and North (y), position angles degrees East of North, angles on the sky microarcseconds (plain
numbers or astropy quantities), fluxes Jy, baselines wavelengths, and
:math:`V(u, v) = \int I(x, y) e^{2 \pi i (ux + vy)}\,dx\,dy`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core.bessel import bessel_i_ratios, bessel_j
from sciinstruct.core.checks import check_positive
from sciinstruct.operators.interferometry.observation import MICROARCSECOND

FWHM_TO_SIGMA = 1 / math.sqrt(8 * math.log(2))


class Source(ABC):
    """A sky with closed-form visibilities and brightness; add sources with ``+``, move one with `shifted`."""

    @abstractmethod
    def visibility(self, u: Tensor, v: Tensor) -> Tensor:
        """Complex visibility in Jy at baselines u, v (wavelengths), of their common shape."""

    @abstractmethod
    def brightness(self, x: Tensor, y: Tensor) -> Tensor:
        """Brightness in Jy per square uas at offsets x East and y North (uas), of their common shape."""

    def render(self, npix: int, fov_uas: float, oversample: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
        """Image in Jy per pixel, (npix, npix), row 0 North and column 0 East.

        Parameters
        ----------
        npix : int
            Pixels on a side.
        fov_uas : float
            Side of the field, uas.
        oversample : int
            Each pixel is the average over this many points squared. Its transform is that of the source times a pixel
            pulse 'rect', but for flux outside the field and aliases of sharp edges.
        dtype : torch.dtype
            Real type of the result.

        Raises
        ------
        ValueError
            If a number is not positive.
        """
        for name, value in (("npix", npix), ("fov_uas", fov_uas), ("oversample", oversample)):
            check_positive(name, float(value))
        fine = npix * oversample
        step = float(fov_uas) / fine
        offset = ((fine - 1) / 2 - torch.arange(fine, dtype=dtype)) * step
        image = self.brightness(offset[None, :].expand(fine, fine), offset[:, None].expand(fine, fine))
        return image.unflatten(1, (npix, oversample)).unflatten(0, (npix, oversample)).sum((1, 3)) * step**2

    def shifted(self, x: float, y: float) -> "Source":
        """Move the source East by x and North by y (uas)."""
        return Shifted(self, x, y)

    def __add__(self, other: "Source") -> "Source":
        return Sum((self, other))


@dataclass(frozen=True)
class Gaussian(Source):
    """Elliptical Gaussian.

    Parameters
    ----------
    flux : float
        Jy.
    fwhm : float
        Full width at half maximum along the major axis, uas.
    ratio : float
        Minor over major axis, in (0, 1].
    position_angle : float
        Of the major axis, degrees East of North.
    """

    flux: float
    fwhm: float
    ratio: float = 1.0
    position_angle: float = 0.0

    def __post_init__(self) -> None:
        _plain_numbers(self, positive=("fwhm", "ratio"))
        if self.ratio > 1:
            raise ValueError(f"ratio is the minor over the major axis and at most 1, got {self.ratio}")

    def visibility(self, u: Tensor, v: Tensor) -> Tensor:
        """Gaussian of the baselines along and across the major axis."""
        along, across = _turn(u * MICROARCSECOND, v * MICROARCSECOND, self.position_angle)
        size2 = self.fwhm**2 * (along.square() + self.ratio**2 * across.square())
        return _complex(self.flux * torch.exp(-(math.pi**2) * size2 / (4 * math.log(2))))

    def brightness(self, x: Tensor, y: Tensor) -> Tensor:
        """Gaussian of the offsets along and across the major axis."""
        along, across = _turn(x, y, self.position_angle)
        variance = (self.fwhm * FWHM_TO_SIGMA) ** 2
        shape = torch.exp(-0.5 * (along.square() + (across / self.ratio).square()) / variance)
        return self.flux * shape / (2 * math.pi * variance * self.ratio)


@dataclass(frozen=True)
class Disc(Source):
    """Uniform disc of `flux` (Jy) and `diameter` (uas)."""

    flux: float
    diameter: float

    def __post_init__(self) -> None:
        _plain_numbers(self, positive=("diameter",))

    def visibility(self, u: Tensor, v: Tensor) -> Tensor:
        """Airy pattern 2 J_1(z)/z, z = pi d rho."""
        z = math.pi * self.diameter * MICROARCSECOND * torch.hypot(u, v)
        airy = 2 * bessel_j(1, z) / z.clamp_min(1e-9)
        return _complex(self.flux * torch.where(z < 1e-9, torch.ones_like(z), airy))

    def brightness(self, x: Tensor, y: Tensor) -> Tensor:
        """Constant inside, zero outside."""
        inside = torch.hypot(x, y) <= self.diameter / 2
        return self.flux / (math.pi * self.diameter**2 / 4) * inside.to(x.dtype)


@dataclass(frozen=True)
class MRing(Source):
    r"""Thin ring with azimuthal modes, blurred by a circular Gaussian.

    :math:`I \propto \delta(r - d/2) \sum_k \beta_k e^{ik\theta}` with :math:`\beta_0 = 1`,
    :math:`\beta_{-k} = \bar\beta_k` and theta East of North, so
    :math:`V = F e^{-(\pi w \rho)^2 / 4 \ln 2} \sum_k \beta_k i^k J_k(\pi d \rho) e^{ik\phi}`
    (Johnson et al. 2020, Sci. Adv. 6, eaaz1310; EHT Collaboration 2022, ApJL 930, L15).

    Parameters
    ----------
    flux : float
        Jy.
    diameter : float
        Of the thin ring, uas. The blurred ring peaks inside it, near d - w^2 / (4 ln 2 d).
    width : float
        FWHM of the blur, uas.
    beta : tuple of complex
        Modes 1, 2, ...; the first one's size is the asymmetry, and minus its argument the brightest position angle.
    """

    flux: float
    diameter: float
    width: float
    beta: tuple[complex, ...] = ()

    def __post_init__(self) -> None:
        _plain_numbers(self, positive=("diameter", "width"))

    def visibility(self, u: Tensor, v: Tensor) -> Tensor:
        """Sum of Bessel functions times the transform of the blur."""
        rho, phi = torch.hypot(u, v) * MICROARCSECOND, torch.atan2(u, v)
        z = math.pi * self.diameter * rho
        total = _complex(bessel_j(0, z))
        for k, beta in enumerate(self.beta, start=1):
            # the orders k and -k: i^k J_k (beta e^{ik phi} + conj), since i^-k J_-k = i^k J_k
            total = total + 2 * 1j**k * bessel_j(k, z) * (beta * torch.exp(1j * k * phi)).real
        return self.flux * total * torch.exp(-((math.pi * self.width * rho) ** 2) / (4 * math.log(2)))

    def brightness(self, x: Tensor, y: Tensor) -> Tensor:
        """Exact convolution of the thin ring with the Gaussian: modified Bessel functions of r d / (2 s^2)."""
        sd = self.width * FWHM_TO_SIGMA
        r = torch.hypot(x, y)
        z = r.clamp_min(1e-12) * self.diameter / (2 * sd**2)
        theta = torch.atan2(x, y)
        modes, size = torch.ones_like(r), torch.ones_like(r)
        for k, (beta, ratio) in enumerate(zip(self.beta, bessel_i_ratios(len(self.beta), z)), start=1):
            size = size * ratio
            modes = modes + 2 * size * (beta * torch.exp(1j * k * theta)).real
        radial = torch.exp(-0.5 * ((r - self.diameter / 2) / sd) ** 2) * torch.special.i0e(z)
        return self.flux * radial * modes / (2 * math.pi * sd**2)


@dataclass(frozen=True)
class Shifted(Source):
    """`source` moved East by x and North by y (uas)."""

    source: Source
    x: float
    y: float

    def __post_init__(self) -> None:
        _plain_numbers(self)

    def visibility(self, u: Tensor, v: Tensor) -> Tensor:
        """Shift theorem."""
        turns = (u * self.x + v * self.y) * MICROARCSECOND
        return self.source.visibility(u, v) * torch.exp(2j * math.pi * turns)

    def brightness(self, x: Tensor, y: Tensor) -> Tensor:
        """Brightness at the offsets seen from the new place."""
        return self.source.brightness(x - self.x, y - self.y)


@dataclass(frozen=True)
class Sum(Source):
    """Several sources together."""

    sources: tuple[Source, ...]

    def visibility(self, u: Tensor, v: Tensor) -> Tensor:
        """Sum of the visibilities."""
        return torch.stack([source.visibility(u, v) for source in self.sources]).sum(0)

    def brightness(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the brightnesses."""
        return torch.stack([source.brightness(x, y) for source in self.sources]).sum(0)


def crescent(flux: float, outer: float, inner: float, x: float = 0.0, y: float = 0.0) -> Source:
    """Uniform disc of diameter `outer` with a dark disc of diameter `inner` at (x, y) cut out.

    Parameters
    ----------
    flux : float
        Of what is left, Jy.
    outer, inner : float
        Diameters, uas.
    x, y : float
        Offset of the dark disc East and North, uas.

    Raises
    ------
    ValueError
        If the dark disc does not lie within the bright one.

    Notes
    -----
    Kamruddin and Dexter (2013, MNRAS 434, 765).
    """
    outer, inner, x, y = (as_uas(value) for value in (outer, inner, x, y))
    if math.hypot(x, y) + inner / 2 > outer / 2:
        raise ValueError(
            f"the inner disc must lie within the outer: offset + inner/2 = {math.hypot(x, y) + inner / 2:.4g} uas "
            f"exceeds outer/2 = {outer / 2:.4g} uas"
        )
    area = outer**2 - inner**2
    return Disc(flux * outer**2 / area, outer) + Disc(-flux * inner**2 / area, inner).shifted(x, y)


def as_uas(value: Any) -> float:
    """Turn an angle into microarcseconds: a plain number is taken as such, an astropy quantity is converted."""
    return float(value.to_value("uas")) if hasattr(value, "to_value") else float(value)


def _plain_numbers(source: Any, positive: tuple[str, ...] = ()) -> None:
    """Turn a dataclass's quantities into plain numbers (uas, Jy, deg) and check their signs."""
    units = {"flux": "Jy", "position_angle": "deg"}
    for field in fields(source):
        value = getattr(source, field.name)
        if hasattr(value, "to_value"):
            unit = "" if field.name == "ratio" else units.get(field.name, "uas")
            object.__setattr__(source, field.name, float(value.to_value(unit)))
        if field.name in positive:
            check_positive(field.name, getattr(source, field.name))


def _turn(x: Tensor, y: Tensor, position_angle: float) -> tuple[Tensor, Tensor]:
    """Components along and across the direction at `position_angle` (deg East of North)."""
    sin, cos = math.sin(math.radians(position_angle)), math.cos(math.radians(position_angle))
    return x * sin + y * cos, x * cos - y * sin


def _complex(real: Tensor) -> Tensor:
    """Complex tensor of zero imaginary part."""
    return torch.complex(real, torch.zeros_like(real))
