"""Micrographs cut into training crops."""

import numpy as np
import pytest
import tifffile

from sciinstruct.core import FileFormatError
from sciinstruct.datasets.crops import read_crops


def write(folder, name, pixels):
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / name, pixels)


def test_crops_keep_the_pixel_and_have_a_foreground_of_one(tmp_path):
    rng = np.random.default_rng(0)
    image = (100 + 50 * rng.random((40, 48))).astype(np.uint16)
    write(tmp_path / "set", "a.tif", image)
    crops = read_crops(tmp_path / "set", 16)
    assert crops.shape == (4 * 5, 1, 16, 16)
    first = crops[0, 0].double().numpy()
    source = np.clip(image[:16, :16] - np.percentile(image, 1), 0, None)
    assert np.allclose(first / first.max(), source / source.max(), atol=1e-6)
    for crop in crops.double().numpy():
        assert crop[crop > 0.3 * crop.max()].mean() == pytest.approx(1.0, abs=1e-5)


def test_the_last_crop_is_flush_and_empty_ones_are_left_out(tmp_path):
    image = np.zeros((32, 37), np.float32)
    image[:, 30:] = 5.0
    write(tmp_path / "set", "a.tif", image)
    crops = read_crops(tmp_path / "set", 16)
    # columns start at 0, 8, 16, 21; the first two see nothing
    assert len(crops) == 3 * 2 and bool((crops.amax((1, 2, 3)) > 0).all())


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((8, 40), np.uint8), "at least 16 pixels a side"),
        (np.full((40, 40), np.nan, np.float32), "cannot read|finite"),
        (np.zeros((40, 40), np.uint8), "no structure"),
    ],
)
def test_bad_micrographs_are_refused(pixels, words, tmp_path):
    write(tmp_path / "set", "a.tif", pixels)
    with pytest.raises(FileFormatError, match=words):
        read_crops(tmp_path / "set", 16)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no images"):
        read_crops(tmp_path, 16)
