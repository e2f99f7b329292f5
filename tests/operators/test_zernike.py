"""Aberrations: orthonormal polynomials, and what each does to the image of a point."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import scalar_pupil
from sciinstruct.operators.microscopy.spread import point_spread
from sciinstruct.operators.microscopy.zernike import Zernike, zernike_polynomial


def _spread(*terms, z=0.0, side=41, na=0.8):
    optics = Optics(na, 520.0, 1.0 if na < 1 else 1.515, aberrations=terms)
    return point_spread(optics, 0.05, (side, side), z, model=scalar_pupil)


def test_polynomials_are_orthonormal():
    """Gauss-Legendre in the squared radius, even azimuths: exact for polynomials of this degree."""
    nodes, weights = (torch.tensor(t) for t in np.polynomial.legendre.leggauss(12))
    radius = ((nodes + 1) / 2).sqrt()[:, None]
    azimuth = 2 * math.pi * torch.arange(32, dtype=torch.float64) / 32
    terms = [(n, m) for n in range(6) for m in range(-n, n + 1, 2)]
    values = [
        zernike_polynomial(n, m, radius.expand(12, 32), azimuth.cos().expand(12, 32), azimuth.sin().expand(12, 32))
        for n, m in terms
    ]
    values = torch.stack(values)
    gram = torch.einsum("aij,bij,i->ab", values, values, weights / 2) / 32
    torch.testing.assert_close(gram, torch.eye(len(terms), dtype=torch.float64), rtol=0, atol=1e-12)


def test_known_polynomials():
    r, c, s = (torch.tensor(t, dtype=torch.float64) for t in (0.6, 0.8, 0.6))
    assert float(zernike_polynomial(2, 0, r, c, s)) == pytest.approx(math.sqrt(3) * (2 * 0.36 - 1))
    assert float(zernike_polynomial(3, -1, r, c, s)) == pytest.approx(math.sqrt(8) * (3 * 0.216 - 2 * 0.6) * 0.6)
    assert float(zernike_polynomial(4, 0, r, c, s)) == pytest.approx(math.sqrt(5) * (6 * 0.6**4 - 6 * 0.36 + 1))


@pytest.mark.parametrize(("m", "axis"), [(1, 1), (-1, 0)])
def test_a_tilt_moves_the_image(m, axis):
    """Phase 2 a rho cos(azimuth) is a shift by a lambda / (pi NA): 4 pixels here, along x or along y."""
    tilt = 4 * 0.05 * math.pi * 0.8 / 0.52
    moved, still = _spread(Zernike(1, m, tilt)), _spread()
    torch.testing.assert_close(moved[8:-8, 8:-8], still.roll(-4, axis)[8:-8, 8:-8], rtol=0, atol=1e-6)


def test_small_aberrations_dim_the_peak():
    """Strehl's ratio exp(-sigma^2), any aberration, Marechal's approximation good to sigma^4."""
    for n, m in [(2, 0), (2, 2), (3, -1), (4, 0)]:
        ratio = float(_spread(Zernike(n, m, 0.3)).max() / _spread().max())
        assert ratio == pytest.approx(math.exp(-0.09), abs=0.01)


def test_light_is_kept_and_planes_are_mirrored():
    """Spherical aberration of the other sign is the same stack upside down; 12 um hold all but 2 % of the light."""
    z = torch.tensor([-0.8, 0.0, 0.8])
    plus, minus = _spread(Zernike(4, 0, 1.0), z=z, side=241), _spread(Zernike(4, 0, -1.0), z=z, side=241)
    torch.testing.assert_close(plus, minus.flip(0), rtol=0, atol=1e-12)
    assert (plus[0] - plus[2]).norm() > 0.3 * plus[0].norm()
    assert (plus.sum((1, 2)) - _spread(side=241).sum()).abs().max() < 0.02


def test_astigmatism_turns_with_the_focus():
    """Out of focus the image is drawn out along one axis, on the other side of the focus along the other."""
    above, below = _spread(Zernike(2, 2, 1.0), z=[-0.8, 0.8])
    axis = torch.arange(-20, 21, dtype=torch.float64)
    spread = lambda psf, dim: float((psf.sum(1 - dim) * axis.square()).sum() / psf.sum())
    assert (spread(above, 0) > 1.5 * spread(above, 1)) != (spread(below, 0) > 1.5 * spread(below, 1))
    torch.testing.assert_close(above, below.T, rtol=0, atol=1e-6)


def test_the_path_is_kept_at_the_excitation_wavelength():
    optics = Optics(1.4, 520.0, excitation_nm=488.0, aberrations=[(4, 0, 0.5)])
    assert optics.aberrations == (Zernike(4, 0, 0.5),)
    assert optics.at_excitation().aberrations[0].phase_rad == pytest.approx(0.5 * 520 / 488)


@pytest.mark.parametrize("term", [(2, 1, 0.1), (2, 4, 0.1), (-1, 1, 0.1), (4, 0, math.nan)])
def test_impossible_aberrations(term):
    with pytest.raises(ValueError, match="aberrations must have"):
        Optics(1.4, 520.0, aberrations=(term,))
