"""Where a source stands over an array: sidereal time, baselines seen from the source, elevation.

The released EHT files use the simple geometry (J2000 coordinates with the Earth turned by mean sidereal time); the
rigorous one (IAU 2006 precession and nutation) differs by up to 0.5 % in u, v for 2017.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sciinstruct.operators.interferometry.observation import Observation

SPEED_OF_LIGHT = 299792458.0
"""Metres per second."""


def sidereal_time(mjd: Tensor) -> Tensor:
    """Greenwich mean sidereal time in radians for UTC dates `mjd`, any shape (IAU 2006, UT1 from bundled tables)."""
    with _bundled_earth_rotation():
        gmst = _utc(mjd).sidereal_time("mean", "greenwich").radian
    return torch.as_tensor(gmst, dtype=torch.float64).reshape(mjd.shape)


def sidereal_rotation(gmst: Tensor) -> Tensor:
    """Rotation from J2000 to Earth-fixed axes by sidereal time alone, (...) radians -> (..., 3, 3)."""
    c, s, zero, one = gmst.cos(), gmst.sin(), torch.zeros_like(gmst), torch.ones_like(gmst)
    return torch.stack([c, s, zero, -s, c, zero, zero, zero, one], -1).reshape(*gmst.shape, 3, 3)


def rigorous_rotation(mjd: Tensor) -> Tensor:
    """Rotation from ICRS to Earth-fixed axes, IAU 2006/2000A without polar motion, (n,) dates -> (n, 3, 3)."""
    import erfa

    with _bundled_earth_rotation():
        times = _utc(mjd)
        matrix = erfa.c2t06a(times.tt.jd1, times.tt.jd2, times.ut1.jd1, times.ut1.jd2, 0.0, 0.0)
    return torch.as_tensor(matrix, dtype=torch.float64)


def source_axes(ra: float, dec: float) -> Tensor:
    """Unit vectors East, North and towards the source at `ra`, `dec` (degrees), in celestial axes, shape (3, 3)."""
    a, d = math.radians(ra), math.radians(dec)
    east = (-math.sin(a), math.cos(a), 0.0)
    north = (-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d))
    towards = (math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d))
    return torch.tensor([east, north, towards], dtype=torch.float64)


def project_baselines(baselines: Tensor, rotation: Tensor, ra: float, dec: float) -> Tensor:
    """Baseline components u, v, w seen from a source.

    With hour angle H = GMST - RA this is u = Bx sin H + By cos H; v = -Bx sin d cos H + By sin d sin H + Bz cos d;
    w = Bx cos d cos H - By cos d sin H + Bz sin d (Thompson, Moran & Swenson 2017, eq. 4.1).

    Parameters
    ----------
    baselines : Tensor, shape (n, 3)
        ``r_a - r_b`` in Earth-fixed axes, any unit.
    rotation : Tensor, shape (n, 3, 3)
        Celestial to Earth-fixed axes, from `sidereal_rotation` or `rigorous_rotation`.
    ra, dec : float
        Source position in degrees.

    Returns
    -------
    Tensor, shape (n, 3)
        u, v, w in the unit of `baselines`.
    """
    axes = rotation @ source_axes(ra, dec).T  # columns: East, North, source in Earth-fixed axes
    return torch.einsum("ni,nik->nk", baselines, axes)


def elevation(positions: Tensor, rotation: Tensor, ra: float, dec: float) -> Tensor:
    """Elevation of the source over the geocentric horizon, in degrees.

    The geocentric zenith differs from the geodetic one by up to 0.2 degrees.

    Parameters
    ----------
    positions : Tensor, shape (stations, 3)
        Earth-fixed positions.
    rotation : Tensor, shape (n, 3, 3)
        Celestial to Earth-fixed axes.
    ra, dec : float
        Source position in degrees.

    Returns
    -------
    Tensor, shape (n, stations)
    """
    towards = rotation @ source_axes(ra, dec)[2]
    up = positions / positions.norm(dim=1, keepdim=True)
    return (towards @ up.T).clamp(-1, 1).asin().rad2deg()


def recompute_uvw(obs: "Observation", rigorous: bool = False) -> Tensor:
    """Compute u, v, w in wavelengths, shape (rows, 3), from the stations' positions and the times of `obs`.

    The stored u, v of a real file stay the reference: this is for checks and simulation.
    """
    mjd = obs.mjd + obs.time / 24
    stamps, inverse = mjd.unique(return_inverse=True)
    rotation = rigorous_rotation(stamps) if rigorous else sidereal_rotation(sidereal_time(stamps))
    baselines = (obs.positions[obs.station1] - obs.positions[obs.station2]) * (obs.frequency / SPEED_OF_LIGHT)
    return project_baselines(baselines, rotation[inverse], obs.ra, obs.dec)


def _utc(mjd: Tensor) -> Any:
    """Astropy times with UT1 attached; beyond the bundled tables UT1 = UTC (error < 1 s)."""
    from astropy.time import Time

    times = Time(mjd.detach().cpu().numpy(), format="mjd", scale="utc")
    delta, status = times.get_delta_ut1_utc(return_status=True)
    times.delta_ut1_utc = 0.0 if (status < 0).any() else delta
    return times


@contextlib.contextmanager
def _bundled_earth_rotation() -> Iterator[None]:
    """No downloads, no warnings that predicted values are good to milliseconds only."""
    from astropy.utils import iers

    with iers.conf.set_temp("auto_download", False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
