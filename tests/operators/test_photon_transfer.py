"""Calibration gives back the camera that made the frames."""

import dataclasses
import math

import pytest
import torch

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.microscopy.camera import Camera
from sciinstruct.operators.microscopy.photon_transfer import (
    calibrate_pixels,
    estimate_from_single_image,
    fit_photon_transfer,
)

CAMERA = dataclasses.replace(Camera.scmos(), conversion=0.45)


def pairs(camera, levels, generator, side=200, uneven=False):
    photons = torch.tensor(levels, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, side, side)
    if uneven:
        photons = photons * torch.linspace(0.5, 1.5, side, dtype=torch.float64)
    return camera.expose(photons, generator), camera.expose(photons, generator)


@pytest.mark.parametrize("uneven", [False, True])
def test_slope_and_read_noise_from_pairs(uneven, generator):
    found = fit_photon_transfer(*pairs(CAMERA, [1, 5, 10, 20, 40, 80], generator, uneven=uneven), offset=100.0)
    assert found.conversion == pytest.approx(0.45, rel=0.01)
    assert abs(found.conversion - 0.45) < 4 * found.conversion_error < 0.015
    assert found.read == pytest.approx(1.6, rel=0.05)
    assert found.mean.shape == found.variance.shape == (6,)


def test_error_of_the_slope_is_its_scatter(generator):
    runs = [fit_photon_transfer(*pairs(CAMERA, [5, 20, 80], generator, 30), offset=100.0) for _ in range(100)]
    scatter = torch.tensor([r.conversion for r in runs]).std()
    stated = torch.tensor([r.conversion_error for r in runs]).mean()
    assert float(scatter / stated) == pytest.approx(1, abs=4 / math.sqrt(2 * 100))


def test_fixed_pattern_of_the_offset_drops_out(generator):
    offset = 100 + 20 * torch.rand(200, 200, generator=generator, dtype=torch.float64)
    camera = dataclasses.replace(CAMERA, offset=offset)
    found = fit_photon_transfer(*pairs(camera, [1, 10, 40, 80], generator), offset=offset)
    assert found.conversion == pytest.approx(0.45, rel=0.01) and found.read == pytest.approx(1.6, rel=0.05)


def structured(generator, blur=2.0):
    """Smooth bright blobs on a faint ground, band-limited as an image seen through optics is."""
    points = (torch.rand(1, 1, 256, 256, generator=generator, dtype=torch.float64) > 0.99) * 3000.0
    return 10 + GaussianBlur(blur, (256, 256))(points).clamp(min=0)


def test_single_image_estimate(generator):
    photons = structured(generator)
    found = estimate_from_single_image(CAMERA.expose(photons, generator), offset=100.0)
    assert found.conversion == pytest.approx(0.45, rel=0.05)


def test_single_image_says_too_much_noise_where_structure_is_fine(generator):
    """The bias has the sign that the docstring states."""
    found = estimate_from_single_image(CAMERA.expose(structured(generator, 0.7), generator), offset=100.0)
    assert found.conversion < 0.45


def test_single_image_of_a_ramp_is_unbiased_and_states_its_error(generator):
    """Free of structure at the scale of the high-pass."""
    photons = torch.linspace(5, 200, 150, dtype=torch.float64).expand(150, 150)
    runs = [estimate_from_single_image(CAMERA.expose(photons, generator), offset=100.0) for _ in range(100)]
    found = torch.tensor([r.conversion for r in runs])
    # a skewed law's MAD falls short of its standard deviation, by less than 1 % at these counts
    assert float(found.mean()) == pytest.approx(0.45, abs=4 * float(found.std()) / 10 + 0.005)
    stated = torch.tensor([r.conversion_error for r in runs]).mean()
    assert float(found.std() / stated) == pytest.approx(1, abs=4 / math.sqrt(2 * 100))


def test_pixel_maps(generator):
    read = 1 + 2 * torch.rand(6, 6, generator=generator, dtype=torch.float64)
    conversion = 0.4 + 0.2 * torch.rand(6, 6, generator=generator, dtype=torch.float64)
    offset = 95 + 10 * torch.rand(6, 6, generator=generator, dtype=torch.float64)
    camera = Camera(read=read, conversion=conversion, offset=offset)
    light = torch.tensor([50.0, 200.0], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 4000, 6, 6)
    dark = camera.expose(torch.zeros(8000, 6, 6, dtype=torch.float64), generator)
    found = calibrate_pixels(dark, camera.expose(light, generator))
    # relative standard error of a variance of n draws: sqrt(2/n); five of them for the worst of 36 pixels
    assert ((found.conversion / conversion - 1).abs() < 5 * math.sqrt(2 / 4000)).all()
    assert ((found.offset - offset).abs() < 5 * (read / conversion) / math.sqrt(8000)).all()
    assert ((found.read / read - 1).abs() < 5 * (math.sqrt(2 / 4000) + math.sqrt(0.5 / 8000))).all()
    Camera(read=found.read, conversion=found.conversion, offset=found.offset).noise()


def test_impossible_frames_are_refused(generator):
    a, b = pairs(CAMERA, [5, 20], generator, 20)
    with pytest.raises(ValueError, match="two or more levels"):
        fit_photon_transfer(a[:1], b[:1], offset=100.0)
    with pytest.raises(ValueError, match="first and second"):
        fit_photon_transfer(a, b[..., 1:], offset=100.0)
    with pytest.raises(ValueError, match="second must be finite"):
        fit_photon_transfer(a, b * float("nan"), offset=100.0)
    with pytest.raises(ValueError, match="must grow with the mean"):
        fit_photon_transfer(a, a, offset=100.0)
    with pytest.raises(ValueError, match="50 pixels"):
        estimate_from_single_image(a[0], offset=100.0)
    with pytest.raises(ValueError, match="must grow with the mean"):
        estimate_from_single_image(torch.arange(4096.0).reshape(64, 64), offset=0.0)
    with pytest.raises(ValueError, match="two or more frames"):
        calibrate_pixels(a, b)
    with pytest.raises(ValueError, match="does not in 400 of 400 pixels"):
        calibrate_pixels(a, torch.full((1, 2, 20, 20), 900.0))
