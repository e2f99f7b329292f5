"""Analytic sources: closed-form visibilities against rasters and identities."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry.sources import Disc, Gaussian, MRing, crescent

LAMBDA = 1e9
FOV = 200.0
RING = MRing(0.6, 42.0, 12.0, (0.3 * complex(math.cos(2.5), math.sin(2.5)), 0.1 + 0.05j, -0.06j))
SOURCES = {
    "circle": Gaussian(0.6, 20.0),
    "ellipse": Gaussian(0.6, 30.0, 0.5, 35.0),
    "m-ring": RING,
    "shifted m-ring": RING.shifted(7.0, -4.0),
    "sum": RING.shifted(2.0, 3.0) + Gaussian(0.1, 25.0, 0.7, 100.0).shifted(-10.0, 15.0),
}


@pytest.fixture
def uv(generator):
    return tuple(8 * LAMBDA * torch.randn(2, 40, generator=generator, dtype=torch.float64).clamp(-1, 1))


def raster(source, u, v, npix=200, fov=FOV, oversample=1):
    """Fourier sum over point samples of the image; exact to rounding for a source smooth on the pixel scale."""
    image = source.render(npix, fov, oversample)
    offset = ((npix - 1) / 2 - torch.arange(npix, dtype=torch.float64)) * (fov / npix) * math.pi / 180 / 3600e6
    columns = torch.exp(2j * math.pi * u[:, None] * offset)
    rows = torch.exp(2j * math.pi * v[:, None] * offset)
    return ((rows @ image.to(rows.dtype)) * columns).sum(1)


@pytest.mark.parametrize("name", SOURCES)
def test_raster_matches_the_closed_form(name, uv):
    exact = SOURCES[name].visibility(*uv)
    assert float((raster(SOURCES[name], *uv) - exact).abs().max()) < 1e-8 * 0.7


def test_oversampled_pixels_carry_the_rect_pulse(uv):
    u, v = uv
    pixel = FOV / 50 * math.pi / 180 / 3600e6
    expected = RING.visibility(u, v) * torch.sinc(pixel * u) * torch.sinc(pixel * v)
    # a mean over 8 points is sinc(pu)/sinc(pu/8) instead of sinc(pu): (pi p u / 8)^2 / 6 relative
    bias = 2 * (math.pi * pixel * float(u.abs().max()) / 8) ** 2 / 6
    assert float((raster(RING, u, v, npix=50, oversample=8) - expected).abs().max()) < 0.6 * bias


def test_sharp_discs_match_to_the_raster_s_edge_error(uv):
    u, v = (0.5 * c for c in uv)
    for source in (Disc(0.6, 60.0), crescent(0.6, 60.0, 35.0, 5.0, -8.0)):
        error = (raster(source, u, v, npix=100, oversample=10) - source.visibility(u, v)).abs().max()
        assert float(error) < 1e-2 * 0.6


@pytest.mark.parametrize("name", [*SOURCES, "disc", "crescent"])
def test_total_flux_and_hermitian_symmetry(name, uv):
    source = {**SOURCES, "disc": Disc(0.5, 40.0), "crescent": crescent(0.6, 60.0, 35.0, 5.0, -8.0)}[name]
    zero = torch.zeros(1, dtype=torch.float64)
    flux = {"sum": 0.7, "disc": 0.5}.get(name, 0.6)
    torch.testing.assert_close(source.visibility(zero, zero), torch.tensor([flux + 0j], dtype=torch.complex128))
    u, v = uv
    torch.testing.assert_close(source.visibility(-u, -v), source.visibility(u, v).conj())


def test_disc_vanishes_at_the_airy_null():
    null = 3.831705970207512 / (math.pi * 40.0 * math.pi / 180 / 3600e6)
    value = Disc(1.0, 40.0).visibility(torch.tensor([null], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert abs(complex(value)) < 1e-12


def test_m_ring_is_brightest_at_minus_the_argument_of_its_first_mode():
    angle = math.radians(170.0)
    image = MRing(1.0, 42.0, 10.0, (0.3 * complex(math.cos(angle), -math.sin(angle)),)).render(128, 128.0)
    offset = 63.5 - torch.arange(128, dtype=torch.float64)
    x, y = float((image.sum(0) * offset).sum()), float((image.sum(1) * offset).sum())
    assert math.degrees(math.atan2(x, y)) == pytest.approx(170.0, abs=1e-6)


def test_major_axis_lies_at_its_position_angle():
    image = Gaussian(1.0, 40.0, 0.4, 30.0).render(128, 200.0)
    offset = 63.5 - torch.arange(128, dtype=torch.float64)
    xx, yy = float((image.sum(0) * offset**2).sum()), float((image.sum(1) * offset**2).sum())
    xy = float((image * offset[None, :] * offset[:, None]).sum())
    assert 0.5 * math.degrees(math.atan2(2 * xy, yy - xx)) == pytest.approx(30.0, abs=1e-3)


def test_astropy_quantities_are_converted():
    from astropy import units as u

    source = Gaussian(600 * u.mJy, 0.02 * u.mas, 0.5, (math.pi / 6) * u.rad)
    assert [source.flux, source.fwhm, source.position_angle] == pytest.approx([0.6, 20.0, 30.0], rel=1e-12)


def test_visibilities_are_differentiable_in_the_baseline():
    u = torch.tensor([1e9, 3e9], dtype=torch.float64, requires_grad=True)
    scaled = lambda t: RING.visibility(t * 1e9, 0.5e9 * torch.ones_like(t)).abs()
    assert torch.autograd.gradcheck(scaled, (u.detach().div(1e9).requires_grad_(),))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Gaussian(1.0, -3.0), "fwhm must be positive"),
        (lambda: Gaussian(1.0, 3.0, 1.5), "ratio"),
        (lambda: MRing(1.0, 40.0, 0.0), "width must be positive"),
        (lambda: crescent(1.0, 40.0, 30.0, 10.0), "must lie within"),
        (lambda: RING.render(0, 100.0), "npix must be positive"),
    ],
)
def test_bad_numbers_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
