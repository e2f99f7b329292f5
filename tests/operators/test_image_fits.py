"""FITS images: round trip, world coordinates, foreign and damaged files."""

import numpy as np
import pytest
import torch

from sciinstruct.core.errors import FileFormatError, OutputError
from sciinstruct.operators.interferometry.fits import (
    SkyFrame,
    read_image_fits,
    write_image_fits,
    write_posterior_fits,
)

M87 = SkyFrame(187.7059307575226, 12.39112323919932, 227070703125.0, 57854.0, "M87")
FOV = 128.0


@pytest.fixture
def samples(generator):
    return torch.rand(20, 1, 16, 16, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ["sky.fits", "sky.fits.gz"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_keeps_every_value(tmp_path, samples, name, dtype):
    planes = {"IMAGE": samples[0, 0].to(dtype), "Other": samples[1].to(dtype)}
    metadata = {"seed": 3, "solver": "µ " + "x" * 200, "steps": [1.5, 2], "nested": {"a": None}}
    write_image_fits(tmp_path / name, planes, FOV, M87, metadata)
    back = read_image_fits(tmp_path / name)
    assert list(back.planes) == ["IMAGE", "OTHER"]
    assert torch.equal(back.planes["IMAGE"], planes["IMAGE"]) and back.planes["IMAGE"].dtype == dtype
    assert torch.equal(back.planes["OTHER"], planes["Other"][0])
    assert back.frame == M87 and back.metadata == metadata
    assert back.fov_uas == pytest.approx(FOV, rel=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (15, 21)])
def test_world_coordinates(tmp_path, shape):
    """The middle lies at the source; left is East, up is North, by one pixel per pixel."""
    from astropy.io import fits
    from astropy.wcs import WCS

    image = torch.zeros(shape, dtype=torch.float64)
    image[0, 0] = 1.0  # the North-East corner
    write_image_fits(tmp_path / "sky.fits", {"IMAGE": image}, FOV, M87)
    with fits.open(tmp_path / "sky.fits") as hdus:
        wcs, data = WCS(hdus[0].header), hdus[0].data.copy()
    height, width = shape
    middle = ((width - 1) / 2, (height - 1) / 2)
    ra, dec = wcs.all_pix2world(*middle, 0)
    assert (float(ra), float(dec)) == pytest.approx((M87.ra, M87.dec), abs=1e-13)
    row, column = np.unravel_index(data.argmax(), data.shape)
    ra, dec = wcs.all_pix2world(column, row, 0)
    east = (float(ra) - M87.ra) * np.cos(np.radians(M87.dec)) * 3600e6
    north = (float(dec) - M87.dec) * 3600e6
    pixel = FOV / width
    # coordinates near 187 deg in float64 resolve 1e-4 uas
    assert (east, north) == pytest.approx(((width - 1) / 2 * pixel, (height - 1) / 2 * pixel), abs=3e-4)


def test_posterior_planes(tmp_path, samples):
    write_posterior_fits(tmp_path / "post.fits", samples, FOV, M87, {"solver": "ppm"}, quantiles=(0.025, 0.5))
    back = read_image_fits(tmp_path / "post.fits")
    assert list(back.planes) == ["MEAN", "STD", "Q2.5", "Q50"]
    torch.testing.assert_close(back.planes["MEAN"], samples.mean(0)[0])
    torch.testing.assert_close(back.planes["STD"], samples.std(0)[0])
    torch.testing.assert_close(back.planes["Q2.5"], torch.quantile(samples, 0.025, dim=0)[0])
    assert back.metadata == {"n_samples": 20, "solver": "ppm"}


def write_foreign(path, data, **cards):
    from astropy.io import fits

    header = fits.Header(
        {
            "CTYPE1": "RA---SIN",
            "CTYPE2": "DEC--SIN",
            "CDELT1": -1e-9,
            "CDELT2": 1e-9,
            "CRVAL1": 10.0,
            "CRVAL2": -5.0,
            "BUNIT": "Jy/pixel",
        }
    )
    for key, value in cards.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    fits.PrimaryHDU(data, header).writeto(path)


def test_image_of_another_program_is_read(tmp_path):
    """Four axes with single Stokes and frequency, integers, only CRVAL for the position."""
    write_foreign(tmp_path / "sky.fits", np.arange(12, dtype=np.int32).reshape(1, 1, 3, 4))
    back = read_image_fits(tmp_path / "sky.fits")
    assert back.planes["IMAGE"].tolist() == [[8.0, 9.0, 10.0, 11.0], [4.0, 5.0, 6.0, 7.0], [0.0, 1.0, 2.0, 3.0]]
    assert (back.frame.ra, back.frame.dec) == (10.0, -5.0)
    assert back.fov_uas == pytest.approx(4 * 3.6)


@pytest.mark.parametrize(
    ("data", "cards", "text"),
    [
        (None, {}, "no image"),
        (np.ones((4, 4)), {"CDELT1": None}, "lacks CDELT1"),
        (np.ones((4, 4)), {"CTYPE1": "GLON-CAR"}, "axes"),
        (np.ones((4, 4)), {"CDELT1": 1e-9}, "pixel steps"),
        (np.ones((4, 4)), {"CDELT2": 2e-9}, "pixel steps"),
        (np.ones((4, 4)), {"BUNIT": "JY/BEAM"}, "JY/PIXEL"),
        (np.ones((3, 4, 4)), {}, "cube"),
    ],
)
def test_unfit_images_are_refused(tmp_path, data, cards, text):
    write_foreign(tmp_path / "sky.fits", data, **cards)
    with pytest.raises(FileFormatError, match=text):
        read_image_fits(tmp_path / "sky.fits")


def test_damaged_files_are_refused(tmp_path, samples):
    write_posterior_fits(tmp_path / "post.fits", samples, FOV, M87)
    whole = (tmp_path / "post.fits").read_bytes()
    parts = {"cut": whole[:3000], "short": whole[:-3000], "boundary": whole[: -4 * 2880]}
    for name, content in {**parts, "text": b"not a FITS file", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=name):
            read_image_fits(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_image_fits(tmp_path / "absent.fits")


def test_failed_write_leaves_no_file(tmp_path, samples):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_image_fits(tmp_path / "file" / "sky.fits", {"IMAGE": samples[0, 0]}, FOV, M87)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("planes", "text"),
    [
        ({}, "at least one image"),
        ({"a": torch.ones(3, 3), "A": torch.ones(3, 3)}, "two images named 'A'"),
        ({"a": torch.ones(3, 3), "b": torch.ones(3, 4)}, "share one shape"),
        ({"a": torch.ones(3, 3) * torch.nan}, "finite"),
        ({"a": torch.ones(3, dtype=torch.int64)}, "floating"),
    ],
)
def test_bad_planes_are_refused(tmp_path, planes, text):
    with pytest.raises(ValueError, match=text):
        write_image_fits(tmp_path / "sky.fits", planes, FOV, M87)
    assert not list(tmp_path.iterdir())


def test_metadata_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metadata\['prior'\] must be a JSON value, got Tensor"):
        write_image_fits(tmp_path / "sky.fits", {"a": torch.ones(4, 4)}, FOV, M87, {"prior": torch.ones(2)})


def test_single_sample_is_refused(tmp_path):
    with pytest.raises(ValueError, match="n >= 2"):
        write_posterior_fits(tmp_path / "post.fits", torch.ones(1, 1, 8, 8), FOV, M87)
