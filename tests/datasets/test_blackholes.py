"""Random black-hole skies: normalisation, rank, geometry, determinism, bad input."""

import math

import pytest
import torch

from sciinstruct.datasets._plain_skies import disc
from sciinstruct.datasets._ring_skies import blurred_ring, toy_flow
from sciinstruct.datasets._skies import Pose, average_blocks, draw_pose, gaussian_field, make_canvas
from sciinstruct.datasets.blackholes import DEFAULT_WEIGHTS, simulate_blackholes, simulate_other_skies

FOV = 128.0


@pytest.fixture(scope="module")
def skies():
    return simulate_blackholes(2000, npix=16, generator=3)


def still(n=1):
    """The pose that leaves a model where it is."""
    return Pose(torch.zeros(n), torch.ones(n), torch.ones(n), torch.zeros(n), torch.zeros(n))


def centroid(image):
    """Flux-weighted mean East and North offset in pixels, from the convention row 0 North, column 0 East."""
    npix = image.shape[-1]
    offset = (npix - 1) / 2 - torch.arange(npix, dtype=image.dtype)
    flux = image.sum((-1, -2))
    return (image.sum(-2) * offset).sum(-1) / flux, (image.sum(-1) * offset).sum(-1) / flux


@pytest.mark.parametrize("make", [simulate_blackholes, simulate_other_skies])
@pytest.mark.parametrize("npix", [32, 45])
def test_images_are_positive_with_mean_one(make, npix):
    images = make(30, npix, generator=0).images
    assert images.shape == (30, 1, npix, npix)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all() and images.min() >= 0
    torch.testing.assert_close(images.mean((1, 2, 3)), torch.ones(30), atol=1e-5, rtol=0)


def test_kinds_follow_the_weights(skies):
    share = torch.bincount(skies.labels, minlength=len(skies.kinds)) / len(skies.labels)
    expected = torch.tensor([DEFAULT_WEIGHTS[kind] for kind in skies.kinds])
    error = (expected * (1 - expected) / len(skies.labels)).sqrt()
    assert ((share - expected).abs() < 4 * error).all()
    assert 0.15 <= float(expected[2:].sum()) <= 0.20  # the ring-free share


def test_no_direction_is_thin_but_the_flux(skies):
    values = torch.linalg.eigvalsh(torch.cov(skies.images.flatten(1).double().T)).clamp_min(0).sqrt()
    assert values[0] < 1e-5  # the mean is fixed
    assert values[1] > 0.01  # every other direction varies by at least 1 % of the mean brightness
    assert skies.images.std(0).min() > 0.02


def test_average_sky_has_no_preferred_direction(skies):
    """Rotations and mirror images make the mean sky round: its first and second moments are isotropic."""
    x, y = (c.double() for c in centroid(skies.images[:, 0]))
    error = x.std() / math.sqrt(len(x))
    assert abs(x.mean()) < 4 * error and abs(y.mean()) < 4 * error
    assert abs((x * y).mean()) < 4 * (x * y).std() / math.sqrt(len(x))


def test_same_seed_same_skies_and_other_seed_other_skies():
    first, again, other = (simulate_blackholes(20, 32, generator=seed) for seed in (5, 5, 6))
    torch.testing.assert_close(first.images, again.images, atol=0, rtol=0)
    assert not torch.equal(first.images, other.images)


def test_one_kind_alone():
    skies = simulate_blackholes(10, 32, weights={"double": 2.0}, generator=0)
    assert {skies.kinds[label] for label in skies.labels} == {"double"}
    assert torch.isfinite(skies.parameters["separation"]).all()
    assert set(skies.parameters) == {"x", "y", "zoom", "rotation", "separation"}


def test_pose_puts_a_sky_where_it_says():
    """A small disc moves East and North by the shift; East is the left half, North the upper one."""
    pose = still()._replace(x=torch.tensor([24.0]), y=torch.tensor([12.0]))
    generator = torch.Generator().manual_seed(0)
    fine, _ = disc(make_canvas(pose, 256, FOV), generator, diameter=(20.0, 20.0), edge=(0.5, 0.5), gradient=(0.0, 0.0))
    image = average_blocks(fine, 64)[0]
    x, y = centroid(image)
    assert abs(float(x) * FOV / 64 - 24) < 0.05 and abs(float(y) * FOV / 64 - 12) < 0.05
    row, column = divmod(int(image.argmax()), 64)
    assert row < 32 and column < 32


@pytest.mark.parametrize("flip", [-1.0, 1.0])
def test_ring_is_brightest_at_the_reported_position_angle(flip):
    angle = torch.tensor([1.1])
    pose = still()._replace(rotation=torch.tensor([0.7]), flip=torch.tensor([flip]))
    beta = torch.stack((torch.polar(torch.tensor([0.3]), -angle), torch.zeros(1), torch.zeros(1)), 1)
    image = blurred_ring(make_canvas(pose, 128, FOV), torch.tensor([42.0]), torch.tensor([10.0]), beta)
    x, y = centroid(image)
    found = math.degrees(math.atan2(float(x), float(y))) % 360
    assert found == pytest.approx(float(pose.position_angle(torch.rad2deg(angle))), abs=0.05)


def test_blurred_ring_matches_its_transform():
    """Visibilities of the raster against J_k and the Gaussian factor of the blur."""
    from scipy.special import jv

    d, w, beta = 40.0, 12.0, [0.3 * complex(math.cos(1), math.sin(1)), 0.1j, -0.05 + 0j]
    canvas = make_canvas(still(), 256, FOV)
    ring = blurred_ring(canvas, torch.tensor([d]), torch.tensor([w]), torch.tensor([beta]))[0].double()
    pixel = FOV / 256
    for u, v in ((0.0, 0.0), (0.012, -0.02), (0.03, 0.008)):  # cycles per uas
        raster = (ring * torch.exp(2j * math.pi * (u * canvas.x[0] + v * canvas.y[0]))).sum() * pixel**2
        rho, phi = math.hypot(u, v), math.atan2(u, v)
        exact = jv(0, math.pi * d * rho) + 0j
        for k, b in enumerate(beta, start=1):
            turned = b * complex(math.cos(k * phi), math.sin(k * phi))
            exact += 1j**k * jv(k, math.pi * d * rho) * 2 * turned.real
        exact *= math.exp(-((math.pi * w * rho) ** 2) / (4 * math.log(2)))
        assert abs(complex(raster) - exact) < 2e-5  # single-precision rendering


def test_flow_has_a_shadow_and_a_brighter_approaching_side():
    generator = torch.Generator().manual_seed(0)
    canvas = make_canvas(still(64), 128, FOV)
    image, shapes = toy_flow(canvas, generator)
    r = torch.hypot(canvas.x, canvas.y)
    inner = (image * (r < 2)).sum((1, 2)) / (r < 2).sum((1, 2))
    on_ring = (r - shapes["diameter"][:, None, None] / 2).abs() < 3
    ring = (image * on_ring).sum((1, 2)) / on_ring.sum((1, 2))
    assert float((inner / ring).median()) < 0.2
    approaching = (image * (canvas.x < 0)).sum((1, 2)) / image.sum((1, 2))  # the gas at model West comes towards us
    steep = shapes["inclination"] > 40
    assert float(approaching[steep].mean()) > 0.6


def test_gaussian_field_has_unit_variance_and_its_spectrum():
    generator = torch.Generator().manual_seed(0)
    length, slope = torch.full((4000,), 3.0), torch.full((4000,), 2.0)
    field = gaussian_field((16, 24), length, slope, generator)
    power = torch.fft.fft2(field).abs().square().mean(0)
    k = 2 * math.pi * torch.tensor([1 / 16, 3 / 16, 0.0])
    expected = (1 + (3 * k) ** 2) ** -2.0
    measured = torch.stack((power[1, 0], power[3, 0])) / power[1, 0]
    torch.testing.assert_close(measured, expected[:2] / expected[0], rtol=4 / math.sqrt(2000), atol=0)
    assert float(field.var(0).mean()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 4000))


def test_poses_have_the_stated_spread():
    pose = draw_pose(20_000, torch.Generator().manual_seed(0))
    assert float(pose.x.std()) == pytest.approx(4.0, abs=4 * 4 / math.sqrt(2 * 20_000))
    assert pose.zoom.min() >= 0.83 and pose.zoom.max() <= 1.15
    assert float(pose.flip.mean()) == pytest.approx(0.0, abs=4 / math.sqrt(20_000))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"npix": 4}, "npix must be at least 8"),
        ({"fov": -1.0}, "fov must be positive"),
        ({"weights": {"star": 1.0}}, "unknown kinds"),
        ({"weights": {"disc": -1.0, "jet": 2.0}}, "non-negative"),
        ({"weights": {}}, "not all zero"),
    ],
)
def test_bad_input_is_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        simulate_blackholes(**{"n": 2, **arguments})
