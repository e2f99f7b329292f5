"""Posterior summaries and samples as OME-TIFF."""

import json

import numpy as np
import pytest
import tifffile
import torch

from sciinstruct.core import Posterior
from sciinstruct.datasets.microscopy_files import read_microscopy
from sciinstruct.datasets.posterior_tiff import write_posterior_tiff, write_samples_tiff

NAMES = ("mean", "sd", "q05", "q50", "q95")


def posterior(shape, unit="um", step=0.05, n=21):
    samples = torch.randn((n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    axes = {2: "yx", 3: "-yx", 4: "-zyx"}[len(shape)]
    coordinates = {a: ((np.arange(k) - k / 2) * step, unit) for a, k in zip(axes, shape) if a != "-"}
    return Posterior(samples, coordinates, {"solver": "ppm", "seed": 3, "settings": {"steps": 10}})


def statistics(samples):
    q = np.quantile(samples, [0.05, 0.5, 0.95], axis=0)
    return np.stack([samples.mean(0), samples.std(0, ddof=1), *q])


@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8), (1, 4, 6, 8)])
@pytest.mark.parametrize(("unit", "um"), [("um", 0.05), ("nm", 5e-5), ("\u00b5m", 0.05)])
def test_summaries(tmp_path, shape, unit, um):
    found = posterior(shape, unit)
    write_posterior_tiff(found, tmp_path / "a.ome.tif", optics={"na": 1.4})
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.dims == (("C", "Z", "Y", "X") if len(shape) == 4 else ("C", "Y", "X"))
    assert image.dtype == np.float32 and tuple(image["C"].values) == image.attrs["channels"] == NAMES
    expected = statistics(found.samples.numpy()).reshape(image.shape)
    np.testing.assert_allclose(image, expected, rtol=2e-7)  # one rounding to float32
    assert image.attrs["pixel_um"] == pytest.approx((um, um), rel=1e-9)
    assert image.attrs["z_step_um"] == (pytest.approx(um, rel=1e-9) if len(shape) == 4 else None)
    assert image.attrs["optics"] == {"na": 1.4}
    assert image.attrs["provenance"].items() >= {"solver": "ppm", "seed": 3, "settings": {"steps": 10}}.items()


def test_negative_results_are_no_cause_for_alarm(tmp_path, recwarn):
    found = Posterior(torch.linspace(-1, 1, 48).reshape(3, 4, 4))
    write_samples_tiff(found, tmp_path / "a.ome.tif")
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.attrs["negative_pixels"] == 24 and image.attrs["provenance"]["contents"] == "posterior samples"
    assert not recwarn.list


def test_channels_of_a_coloured_posterior(tmp_path):
    found = posterior((2, 6, 8))
    write_posterior_tiff(found, tmp_path / "a.ome.tif")
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.attrs["channels"] == tuple(f"{name} {c}" for c in range(2) for name in NAMES)
    np.testing.assert_allclose(image[5:], statistics(found.samples[:, 1].numpy()), rtol=2e-7)


@pytest.mark.parametrize(("shape", "axes"), [((6, 8), "TYX"), ((1, 6, 8), "TYX"), ((2, 6, 8), "TCYX")])
def test_samples_lie_along_t_and_the_file_says_so(tmp_path, shape, axes):
    found = posterior(shape, n=4)
    write_samples_tiff(found, tmp_path / "a.ome.tif")
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.dims == tuple(axes) and image.dtype == np.float32
    np.testing.assert_array_equal(image, found.samples.numpy().astype(np.float32).reshape(image.shape))
    assert "4 of 4 posterior samples" in image.attrs["description"] and "no time" in image.attrs["description"]
    assert image.attrs["time_step_s"] is None and image.attrs["pixel_um"] == pytest.approx((0.05, 0.05))
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert 'SizeT="4"' in file.ome_metadata


def test_stacks_and_a_part_of_the_samples(tmp_path):
    found = posterior((1, 4, 6, 8), n=7)
    write_samples_tiff(found, tmp_path / "a.ome.tif", max_samples=3)
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.dims == ("T", "Z", "Y", "X") and len(image) == 3 and "3 of 7" in image.attrs["description"]
    assert found.to_xarray()["samples"].dims == ("sample", "channel", "z", "y", "x")


@pytest.mark.parametrize("unit", ["pixel", "uas"])
def test_coordinates_that_are_no_lengths_give_no_pixel_size(tmp_path, unit, recwarn):
    write_posterior_tiff(posterior((6, 8), unit), tmp_path / "a.ome.tif")
    assert len(recwarn) == (2 if unit == "uas" else 0)  # y and x
    assert read_microscopy(tmp_path / "a.ome.tif").attrs["pixel_um"] is None


def test_attributes_that_json_lacks(tmp_path):
    found = Posterior(
        torch.ones(2, 4, 4), {}, {"loss": float("nan"), "device": torch.device("cpu"), "w": torch.ones(2)}
    )
    write_posterior_tiff(found, tmp_path / "a.ome.tif")
    stored = read_microscopy(tmp_path / "a.ome.tif").attrs["provenance"]
    assert json.loads(json.dumps(stored)).items() >= {"loss": None, "device": "cpu", "w": [1.0, 1.0]}.items()


def test_what_cannot_be_a_picture_is_refused(tmp_path):
    path = tmp_path / "a.ome.tif"
    with pytest.raises(ValueError, match="at least 2 samples"):
        write_posterior_tiff(Posterior(torch.ones(1, 4, 4)), path)
    with pytest.raises(ValueError, match=r"must be images .*\(7,\)"):
        write_samples_tiff(Posterior(torch.ones(3, 7)), path)
    with pytest.raises(ValueError, match="max_samples must be at least 1"):
        write_samples_tiff(Posterior(torch.ones(3, 4, 4)), path, max_samples=0)
    uneven = {"y": (np.array([0.0, 1.0, 3.0, 4.0]), "um")}
    with pytest.raises(ValueError, match="coordinate y must be evenly spaced"):
        write_posterior_tiff(Posterior(torch.ones(3, 4, 4), uneven), path)
    assert not path.exists()
