"""Folders of images as training sets: every format gives the same picture, the right way up."""

import numpy as np
import pytest
import tifffile
import torch
from astropy.io import fits
from skimage.io import imsave

from sciinstruct.core import FileFormatError
from sciinstruct.datasets.folder import read_folder, read_image


@pytest.fixture
def picture():
    """Bright at the top left: orientation shows."""
    image = np.full((24, 24), 40, dtype=np.uint8)
    image[2:8, 3:9] = 200
    return image


def test_every_format_reads_the_same(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture)
    tifffile.imwrite(tmp_path / "b.tif", picture)
    imsave(tmp_path / "c.png", np.stack([picture] * 3, -1), check_contrast=False)
    fits.writeto(tmp_path / "d.fits", picture[::-1].astype("f4"))  # FITS counts rows from below
    images = read_folder(tmp_path, 12)
    assert images.shape == (4, 1, 12, 12) and images.dtype == torch.float32
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=1e-5, atol=1e-5)


def test_images_are_relative_and_upright(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture)
    image = read_folder(tmp_path, 8)[0, 0]
    assert float(image.mean()) == pytest.approx(1, abs=1e-6)
    assert image[:3, :3].mean() > 2 * image[4:, 4:].mean()


def test_the_central_square_is_kept(tmp_path):
    wide = np.zeros((10, 30))
    wide[:, 10:20] = 1.0
    np.save(tmp_path / "a.npy", wide)
    torch.testing.assert_close(read_folder(tmp_path, 10)[0, 0], torch.ones(10, 10), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "match"),
    [(np.zeros((8, 8)), "positive mean"), (np.full((8, 8), np.nan), "finite"), (np.ones((5, 8, 8)), "one image")],
)
def test_unusable_images_are_named(tmp_path, array, match):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(FileFormatError, match=match) as caught:
        read_folder(tmp_path, 8)
    assert "bad.npy" in str(caught.value)


def test_alpha_does_not_count(tmp_path):
    rgba = np.zeros((8, 8, 4), dtype=np.uint8)
    rgba[..., 0], rgba[..., 3] = 90, 255
    imsave(tmp_path / "a.png", rgba, check_contrast=False)
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), 30.0)
