"""Stacks opened plane by plane: the same as read at once, from several threads, with only what is asked for read."""

import numpy as np
import pytest
import tifffile
import xarray
from skimage.io import imsave

from sciinstruct.core import FileFormatError
from sciinstruct.datasets import microscopy_files
from sciinstruct.datasets.microscopy_files import open_microscopy, read_microscopy
from sciinstruct.datasets.ome_tiff import write_ome_tiff

STACK = np.random.default_rng(0).integers(0, 4000, (3, 2, 4, 16, 12)).astype(np.uint16)


@pytest.fixture
def stack(tmp_path):
    write_ome_tiff(tmp_path / "a.ome.tif", STACK, axes="TCZYX", pixel_um=(0.1, 0.2), z_step_um=0.3, channels=("a", "b"))
    return tmp_path / "a.ome.tif"


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_opened_is_what_is_read(stack, scheduler):
    image = open_microscopy(stack)
    assert image.chunks == ((1,) * 3, (1,) * 2, (1,) * 4, (16,), (12,))
    computed = image.compute(scheduler=scheduler)
    whole = read_microscopy(stack)
    counts = {key: None for key in ("saturated_pixels", "saturation_level", "negative_pixels")}
    xarray.testing.assert_identical(computed, whole.assign_attrs(counts))


def test_only_the_planes_that_are_computed_are_read(stack, monkeypatch):
    image = open_microscopy(stack)
    asked, read = [], read_microscopy
    monkeypatch.setattr(
        microscopy_files, "read_microscopy", lambda path, **options: asked.append(options) or read(path, **options)
    )
    plane = image.isel(T=1, C=0, Z=3).compute(scheduler="synchronous")
    np.testing.assert_array_equal(plane, STACK[1, 0, 3])
    assert [options["planes"] for options in asked] == [{"T": 1, "C": 0, "Z": 3}]


def test_axes_in_any_order_colours_and_pictures(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], photometric="minisblack", metadata={"axes": "ZCYX"})
    xarray.testing.assert_equal(open_microscopy(tmp_path / "a.tif").compute(), read_microscopy(tmp_path / "a.tif"))
    colours = (STACK[0, :, 0] % 251).astype(np.uint8)
    imsave(tmp_path / "b.png", np.stack([colours[0]] * 3, -1), check_contrast=False)
    np.testing.assert_array_equal(open_microscopy(tmp_path / "b.png"), colours[0])
    tifffile.imwrite(tmp_path / "c.tif", colours)
    opened = open_microscopy(tmp_path / "c.tif", axes="CYX")
    assert opened.dims == ("C", "Y", "X")
    np.testing.assert_array_equal(opened, colours)


def test_a_bad_plane_is_named_when_it_is_reached(tmp_path):
    image = np.ones((3, 8, 8), np.float32)
    image[2, 1, 1] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", metadata={"axes": "TYX"})
    opened = open_microscopy(tmp_path / "a.tif")
    assert float(opened[1].mean()) == 1.0
    with pytest.raises(FileFormatError, match="a.tif must have finite pixels"):
        opened.compute()


def test_a_file_that_is_none_is_refused_at_once(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"nothing")
    with pytest.raises(FileFormatError, match="must be a TIFF"):
        open_microscopy(tmp_path / "a.tif")
