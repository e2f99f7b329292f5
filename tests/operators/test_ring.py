"""Ring extraction: known rings come back, other shapes are told apart, symmetries hold."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry.ring import extract_ring
from sciinstruct.operators.interferometry.ring_summary import summarise_rings
from sciinstruct.operators.interferometry.sources import Disc, Gaussian, MRing, crescent

FOV = 128.0


def ring_image(npix, diameter=42.0, width=15.0, angle=170.0, x0=3.0, y0=-2.0):
    """Ring of Gaussian profile, brightness 1 + 0.4 cos(PA - angle), sampled at the pixel centres."""
    offset = ((npix - 1) / 2 - torch.arange(npix, dtype=torch.float64)) * FOV / npix
    x, y = offset[None, :] - x0, offset[:, None] - y0
    profile = torch.exp(-4 * math.log(2) * ((torch.hypot(x, y) - diameter / 2) / width) ** 2)
    return profile * (1 + 0.4 * torch.cos(torch.atan2(x, y) - math.radians(angle)))


@pytest.mark.parametrize(("npix", "tolerance"), [(128, 0.02), (64, 0.02), (32, 0.25)])
def test_known_ring_comes_back(npix, tolerance):
    """At 32 pixels a cubic spline through 4 uas pixels rounds a 15 uas profile by up to 0.2 uas."""
    ring = extract_ring(ring_image(npix)[None], FOV)
    assert float(ring.diameter) == pytest.approx(42.0, abs=tolerance)
    assert float(ring.width) == pytest.approx(15.0, abs=tolerance)
    assert float(ring.position_angle) == pytest.approx(170.0, abs=0.1)
    assert float(ring.asymmetry) == pytest.approx(0.2, abs=1e-3)
    assert (float(ring.x), float(ring.y)) == pytest.approx((3.0, -2.0), abs=0.05)
    assert bool(ring.is_ring)


def test_blurred_ring_peaks_inside_the_thin_one():
    """d_peak = d - w^2 / (4 ln 2 d) to leading order in w/d."""
    d, w = 50.0, 8.0
    ring = extract_ring(MRing(1.0, d, w).render(128, FOV, 1)[None], FOV)
    assert float(ring.diameter) == pytest.approx(d - w**2 / (4 * math.log(2) * d), abs=0.05)


NOT_RINGS = {
    "disc": Disc(1.0, 60.0),
    "small disc": Disc(1.0, 40.0),
    "wide Gaussian": Gaussian(1.0, 40.0),
    "point": Gaussian(1.0, 12.0),
    "equal double": Gaussian(1.0, 15.0).shifted(20.0, 0.0) + Gaussian(1.0, 15.0).shifted(-20.0, 0.0),
    "close double": Gaussian(1.0, 20.0).shifted(10.0, 11.0) + Gaussian(0.6, 15.0).shifted(-10.0, -11.0),
    "wide double": Gaussian(1.0, 8.0).shifted(30.0, 0.0) + Gaussian(0.8, 8.0).shifted(-30.0, 0.0),
    "jet": Gaussian(1.0, 10.0) + Gaussian(0.6, 12.0).shifted(5.0, 14.0) + Gaussian(0.3, 15.0).shifted(12.0, 30.0),
}
RINGS = {
    "thin": MRing(1.0, 42.0, 8.0, (0.4,)),
    "M87-like": MRing(1.0, 42.0, 15.0, (0.2j,)),
    "half-filled": MRing(1.0, 42.0, 20.0, (0.1,)),
    "small": MRing(1.0, 28.0, 10.0),
    "large": MRing(1.0, 60.0, 12.0, (0.2, 0.1)),
    "crescent": crescent(1.0, 50.0, 30.0, 5.0, 5.0),
    "with a spot": MRing(0.9, 42.0, 12.0, (0.2,)) + Gaussian(0.1, 25.0).shifted(20.0, -20.0),
}


@pytest.mark.parametrize("npix", [32, 64])
@pytest.mark.parametrize("name", [*NOT_RINGS, *RINGS])
def test_rings_are_told_from_other_shapes(name, npix):
    image = {**NOT_RINGS, **RINGS}[name].render(npix, FOV, 8)
    assert bool(extract_ring(image[None], FOV).is_ring) == (name in RINGS)


def test_random_doubles_are_not_rings(generator):
    """Sixty doubles of random size, distance, flux ratio and place: at most one in twenty may pass for a ring."""
    size, apart, flux, x, y = torch.rand(5, 60, generator=generator, dtype=torch.float64)
    images = [
        (
            Gaussian(1.0, 8 + 15 * float(s))
            + Gaussian(0.2 + 0.8 * float(f), 8 + 15 * float(s)).shifted(0.0, 15 + 45 * float(a))
        )
        .shifted(20 * float(i) - 10, -30 * float(a) + 10 * float(j))
        .render(32, FOV, 4)
        for s, a, f, i, j in zip(size, apart, flux, x, y)
    ]
    assert int(extract_ring(torch.stack(images), FOV).is_ring.sum()) <= 3


def test_condition_that_fails_is_named():
    images = torch.stack([NOT_RINGS["disc"].render(64, FOV), NOT_RINGS["wide double"].render(64, FOV)])
    ring = extract_ring(images, FOV)
    assert ring.has_hole.tolist() == [False, True]
    assert ring.is_closed.tolist() == [True, False]


def test_batch_scale_and_dtype_do_not_matter():
    image = ring_image(32)
    images = torch.stack([image, 1e-4 * ring_image(32, 36.0, 12.0, 20.0, -4.0, 5.0), image])
    batch, alone = extract_ring(images, FOV), extract_ring(images[1:2], FOV)
    for entry, single in zip(batch, alone):
        torch.testing.assert_close(entry[1:2], single, equal_nan=True)
    single = extract_ring(images.float()[:, None], FOV)
    assert single.diameter.dtype == torch.float32
    torch.testing.assert_close(single.diameter.double(), batch.diameter, atol=0.02, rtol=0)


def test_quarter_turn_of_the_image_turns_the_position_angle():
    """Turning the array counter-clockwise turns the sky from North to East, the sense in which position angle grows."""
    image = ring_image(64, angle=200.0)
    ring, turned = (extract_ring(i[None], FOV) for i in (image, torch.rot90(image, 1)))
    assert float(turned.position_angle - ring.position_angle) % 360 == pytest.approx(90.0, abs=0.05)
    assert (float(turned.x), float(turned.y)) == pytest.approx((float(ring.y), -float(ring.x)), abs=0.05)


def test_summary_over_samples():
    angles = torch.linspace(-20.0, 20.0, 9)
    images = torch.stack([ring_image(32, angle=float(a)) for a in angles] + [NOT_RINGS["disc"].render(32, FOV)])
    summary = summarise_rings(extract_ring(images, FOV))
    assert summary.n == 10 and summary.ring_fraction == pytest.approx(0.9)
    angle = summary.intervals["position_angle"]
    assert (angle.median - angle.low95) == pytest.approx(0.475 * 40, abs=0.5)
    assert min(angle.median % 360, 360 - angle.median % 360) < 0.5
    assert summary.intervals["diameter"].median == pytest.approx(42.0, abs=0.25)


def test_summary_without_rings_is_empty():
    summary = summarise_rings(extract_ring(NOT_RINGS["disc"].render(32, FOV)[None], FOV))
    assert summary.intervals == {} and summary.ring_fraction == 0.0


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (torch.ones(16, 16), "images must be floating"),
        (torch.ones(1, 3, 16, 16), "images must be floating"),
        (torch.full((1, 16, 16), torch.nan), "images must be finite"),
        (torch.zeros(2, 16, 16), "positive peak, image 0"),
    ],
)
def test_bad_images_are_refused(images, text):
    with pytest.raises(ValueError, match=text):
        extract_ring(images, FOV)


def test_bad_field_is_refused():
    with pytest.raises(ValueError, match="fov_uas must be positive"):
        extract_ring(torch.ones(1, 16, 16), -1.0)
