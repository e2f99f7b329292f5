"""Zernike polynomials: the aberrations of a round pupil."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Zernike(NamedTuple):
    """One aberration: the polynomial of degree n and angular frequency m, and its root mean square over the pupil.

    m >= 0 goes with cos(m azimuth), m < 0 with sin(-m azimuth). Astigmatism is (2, 2) and (2, -2), coma (3, 1) and
    (3, -1), first spherical aberration (4, 0).
    """

    n: int
    m: int
    phase_rad: float  # at the emission wavelength

    def check(self) -> None:
        """Raise ValueError unless 0 <= abs(m) <= n, n - abs(m) is even and the phase is finite."""
        if self.n < 0 or abs(self.m) > self.n or (self.n - self.m) % 2:
            raise ValueError(f"aberrations must have 0 <= |m| <= n and n - m even, got n = {self.n}, m = {self.m}")
        if not math.isfinite(self.phase_rad):
            raise ValueError(
                f"aberrations must have finite phases, got {self.phase_rad} for n = {self.n}, m = {self.m}"
            )


def zernike_polynomial(n: int, m: int, radius: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    r"""Value of :math:`Z_n^m`, of mean square 1 over the unit disc.

    Parameters
    ----------
    n, m : int
        Degree and angular frequency.
    radius : Tensor
        Distance from the centre, the rim being 1.
    along_x, along_y : Tensor
        Cosine and sine of the azimuth.

    References
    ----------
    Noll 1976, "Zernike polynomials and atmospheric turbulence": normalisation.
    """
    order = abs(m)
    radial = torch.zeros_like(radius)
    for k in range((n - order) // 2 + 1):
        share = math.comb(n - k, k) * math.comb(n - 2 * k, (n - order) // 2 - k)
        radial = radial + (-1) ** k * share * radius ** (n - 2 * k)
    turn = torch.complex(along_x, along_y) ** order
    angular = turn.real if m >= 0 else turn.imag
    return math.sqrt((1 if m == 0 else 2) * (n + 1)) * radial * angular
