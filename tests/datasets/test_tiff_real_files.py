"""The four small real images, as their sources describe them."""

import warnings

import numpy as np
import pytest

from sciinstruct.datasets.microscopy_files import read_microscopy


def test_the_bead_stack(microscopy_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_microscopy(microscopy_dir / "beads_confocal_zstack.tif")
    assert image.dims == ("Z", "Y", "X") and image.shape == (41, 150, 150) and image.dtype == np.uint8
    assert image.attrs["pixel_um"] == pytest.approx((1 / 44.460534,) * 2, rel=1e-12)
    assert tuple(round(size, 5) for size in image.attrs["pixel_um"]) == (0.02249, 0.02249)
    assert image.attrs["z_step_um"] == 0.125 and image.attrs["file_format"] == "ImageJ TIFF"
    assert float(image["Z"][-1]) == 5.0 and image["Z"].attrs["units"] == "um"


def test_the_nuclei_have_no_pixel_size(microscopy_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_microscopy(microscopy_dir / "nuclei_2d.tif")
    assert image.dims == ("Y", "X") and image.shape == (512, 512) and image.dtype == np.uint16
    assert int(image.max()) == 235 and image.attrs["saturated_pixels"] == 0
    assert image.attrs["pixel_um"] is None and image.attrs["z_step_um"] is None and not image.coords


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cos7_microtubules_tirf_cell2.jpg", (477, 418)), ("cos7_microtubules_storm_cell1.jpg", (1180, 1190))],
)
def test_jpegs_have_no_pixel_size_and_say_that_they_clip(microscopy_dir, name, shape):
    with pytest.warns(UserWarning, match="saturated"):
        image = read_microscopy(microscopy_dir / name)
    assert image.dims == ("Y", "X") and image.shape == shape and image.dtype == np.uint8
    assert image.attrs["pixel_um"] is None and image.attrs["file_format"] == "JPEG" and not image.coords
    assert image.attrs["saturated_pixels"] == int((image == 255).sum()) > 0
