"""Baselines and elevations from station positions against stored coordinates and independent formulas."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry import Observation
from sciinstruct.operators.interferometry.arrays import (
    GAIN_BUDGET_M87_2017,
    POSITIONS_EHT2017,
    SEFD_EHT2017,
    StationArray,
    benchmark9,
    eht2017,
)
from sciinstruct.operators.interferometry.geometry import (
    elevation,
    project_baselines,
    recompute_uvw,
    rigorous_rotation,
    sidereal_rotation,
    sidereal_time,
    source_axes,
)


@pytest.fixture(scope="module")
def nights(eht_dir):
    return {
        day: Observation.from_uvfits(eht_dir / f"SR1_M87_2017_{day}_lo_hops_netcal_StokesI.uvfits")
        for day in ("101", "096")
    }


def _mismatch(obs, **options):
    """Largest of |du|, |dv| per row, in wavelengths."""
    return (recompute_uvw(obs, **options)[:, :2] - torch.stack([obs.u, obs.v], 1)).abs().amax(1)


def test_stored_baselines_follow_from_the_positions(nights):
    """Earth turns 0.6 Mlambda in a second; a mean time inside a partly flagged integration is off by up to that."""
    assert _mismatch(nights["101"]).max().item() < 0.26e6
    full = nights["096"].integration > 5  # nine shorter integrations are off by 0.26-0.75 Mlambda
    assert _mismatch(nights["096"])[full].max().item() < 0.26e6
    assert (~full).sum().item() < 0.03 * len(full)


def test_rigorous_geometry_differs_by_precession(nights):
    """17 years of precession (0.24 degrees) move the baselines of the released files by 10-20 Mlambda."""
    assert 10e6 < _mismatch(nights["101"], rigorous=True).max().item() < 20e6


def test_textbook_formula(generator):
    """u, v, w of Thompson, Moran & Swenson eq. 4.1 with the hour angle H = GMST - RA."""
    ra, dec, gmst = 50.0, -35.0, torch.rand(5, generator=generator, dtype=torch.float64) * 6
    b = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    h, d = gmst - math.radians(ra), math.radians(dec)
    x, y, z = b.unbind(1)
    expected = torch.stack(
        [
            x * h.sin() + y * h.cos(),
            -x * math.sin(d) * h.cos() + y * math.sin(d) * h.sin() + z * math.cos(d),
            x * math.cos(d) * h.cos() - y * math.cos(d) * h.sin() + z * math.sin(d),
        ],
        1,
    )
    assert torch.allclose(project_baselines(b, sidereal_rotation(gmst), ra, dec), expected, atol=1e-14)


def test_rotations_keep_lengths(generator):
    mjd = torch.tensor([51544.5, 57854.25], dtype=torch.float64)
    for rotation in (sidereal_rotation(mjd), rigorous_rotation(mjd)):
        eye = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        assert torch.allclose(rotation @ rotation.mT, eye, atol=1e-14)
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(2, dtype=torch.float64))
    axes = source_axes(200.0, 40.0)
    assert torch.allclose(axes @ axes.T, torch.eye(3, dtype=torch.float64), atol=1e-15)
    assert torch.linalg.det(axes).item() == pytest.approx(1)  # East, North, source: right-handed


def test_rigorous_rotation_is_near_the_simple_one_at_j2000():
    """At J2000 only nutation (below 20 arcsec) and frame bias are left."""
    mjd = torch.tensor([51544.5], dtype=torch.float64)
    difference = rigorous_rotation(mjd) - sidereal_rotation(sidereal_time(mjd))
    assert difference.abs().max().item() < math.radians(20 / 3600)


def test_sidereal_time():
    """280.46062 deg at J2000 (Meeus; UT1 noon, 0.355 s ahead of UTC), and the same one sidereal day later."""
    noon = torch.tensor([51544.5], dtype=torch.float64)
    assert sidereal_time(noon).rad2deg().item() == pytest.approx(280.46062 + 0.355 * 15 / 3600, abs=2e-4)
    later = sidereal_time(noon + 0.99726957)
    assert (later - sidereal_time(noon)).item() == pytest.approx(0, abs=1e-6)


def test_dates_beyond_the_tables_work_without_network():
    assert torch.isfinite(sidereal_time(torch.tensor([70000.0, 30000.0], dtype=torch.float64))).all()


class TestElevation:
    def test_pole_and_equator(self):
        """From the pole a source stands at its declination; on the equator it passes the zenith when dec = 0."""
        positions = torch.tensor([[0.0, 0.0, 6e6], [6e6, 0.0, 0.0], [0.0, 0.0, -6e6]], dtype=torch.float64)
        rotation = sidereal_rotation(torch.tensor([0.0, math.pi / 2], dtype=torch.float64))
        height = elevation(positions, rotation, ra=0.0, dec=12.0)
        expected = torch.tensor([[12.0, 78.0, -12.0], [12.0, 0.0, -12.0]], dtype=torch.float64)
        assert torch.allclose(height, expected, atol=1e-12)

    def test_the_source_was_up_whenever_it_was_observed(self, nights):
        obs = nights["101"]
        rotation = sidereal_rotation(sidereal_time(obs.mjd + obs.time / 24))
        height = elevation(obs.positions, rotation, obs.ra, obs.dec)
        rows = torch.arange(len(obs))
        assert height[rows, obs.station1].min().item() > 10 and height[rows, obs.station2].min().item() > 10


class TestArrays:
    def test_stations_of_the_files(self, nights):
        array = eht2017()
        assert array.names == nights["101"].stations == tuple(GAIN_BUDGET_M87_2017)[:2] + array.names[2:]
        assert torch.allclose(array.positions, nights["101"].positions, rtol=0, atol=1e-9)

    def test_the_south_pole_has_a_nominal_sensitivity_only(self):
        assert eht2017(SEFD_EHT2017).names[-1] == "SP"

    def test_benchmark_stations_share_a_site(self):
        array = benchmark9()
        a, b = array.names.index("ALMA"), array.names.index("APEX")
        assert len(array.names) == 9 and torch.equal(array.positions[a], array.positions[b])

    def test_door(self):
        with pytest.raises(ValueError, match="lack the stations XX"):
            StationArray.from_tables(POSITIONS_EHT2017, {"AA": 1, "XX": 1})
        with pytest.raises(ValueError, match="distinct"):
            StationArray(("A", "A"), torch.zeros(2, 3), torch.ones(2))
        with pytest.raises(ValueError, match="sefd must be positive"):
            StationArray(("A", "B"), torch.zeros(2, 3), torch.zeros(2))
