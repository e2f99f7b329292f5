"""Files in, purified files of the same kind out, and a table that tells the truth about fluxes."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sciinstruct import cli
from sciinstruct.core import FileFormatError, PriorError
from sciinstruct.diffusion.edm import EDMPrecond
from sciinstruct.diffusion.unet import UNetConfig, make_unet
from sciinstruct.jobs import purify_files
from sciinstruct.jobs.image_files import read_image_file
from sciinstruct.priors.network import Card, NetworkPrior


def save_prior(folder, channels=1):
    """An untrained prior of 8x8 images with mean 2 and standard deviation 1."""
    config = UNetConfig(in_channels=channels, out_channels=channels, channels=16, multipliers=(1, 1), embedding=16)
    card = Card((channels, 8, 8), (0.01, 10.0), 2.0, 2.0, 0.5, vars(config), units="sky")
    NetworkPrior(EDMPrecond(make_unet(config, 1), 0.5), card).save(folder)
    return folder


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return save_prior(tmp_path_factory.mktemp("prior") / "tiny")


def images(*shape, seed=0):
    return (2 + np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def quick(files, out, prior, **settings):
    return purify_files(files, out, prior=prior, draws=4, progress=False, **settings)


def test_npy_keeps_its_shape_and_the_table_is_that_of_the_pixels(prior, tmp_path):
    before = images(2, 3, 8, 8)
    np.save(tmp_path / "sky.npy", before)
    found = quick([tmp_path / "sky.npy"], tmp_path / "out", prior, method="one-shot")
    after, spread = np.load(found.images[0]), np.load(found.spreads[0])
    assert after.shape == spread.shape == before.shape and (spread > 0).all()
    assert [row.plane for row in found.table] == list(range(6))
    row, one, other = found.table[4], before[1, 1].astype(float), after[1, 1].astype(float)
    assert row.flux_before == pytest.approx(one.sum(), rel=1e-6)
    assert row.flux_after == pytest.approx(other.sum(), rel=1e-5)
    assert row.change_percent == pytest.approx(100 * (other - one).sum() / one.sum(), rel=1e-3)
    assert row.largest_change == pytest.approx((other - one)[row.row, row.column], rel=1e-4)
    assert abs(row.largest_change) == pytest.approx(np.abs(other - one).max(), rel=1e-4)
    with found.csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and float(rows[4]["flux_before"]) == row.flux_before
    content = json.loads(found.json.read_text())
    assert content["method"] == "one-shot" and content["calls"] == [[1, 0]] and len(content["flux"]) == 6


def test_fits_keeps_its_header_and_orientation(prior, tmp_path):
    from astropy.io import fits

    before = images(8, 8)
    header = fits.Header({"CRVAL1": 12.5, "OBJECT": "galaxy", "BUNIT": "Jy"})
    fits.PrimaryHDU(before, header).writeto(tmp_path / "a.fits")
    np.save(tmp_path / "b.npy", before[::-1])
    found = quick([tmp_path / "a.fits"], tmp_path / "out", prior)
    flipped = quick([tmp_path / "b.npy"], tmp_path / "other", prior)
    with fits.open(found.images[0]) as opened:
        assert opened[0].header["CRVAL1"] == 12.5 and opened[0].header["BUNIT"] == "Jy"
        assert "scoreopt-o" in str(opened[0].header["HISTORY"])
        np.testing.assert_allclose(opened[0].data, np.load(flipped.images[0])[::-1], rtol=1e-6)


def test_stored_integers_of_fits_come_back_as_what_they_mean(prior, tmp_path):
    from astropy.io import fits

    counts = np.random.default_rng(0).integers(40000, 50000, (8, 8)).astype(np.uint16)
    fits.PrimaryHDU(counts).writeto(tmp_path / "raw.fits")
    found = quick([tmp_path / "raw.fits"], tmp_path / "out", prior, unit=3000.0, offset=39000.0)
    with fits.open(found.images[0]) as opened:
        assert opened[0].data.dtype.kind == "f" and 30000 < opened[0].data.mean() < 60000


def test_tiff_keeps_axes_and_pixel_size(prior, tmp_path):
    from sciinstruct.datasets.microscopy_files import read_microscopy
    from sciinstruct.datasets.ome_tiff import write_ome_tiff

    before = images(3, 8, 8)
    write_ome_tiff(tmp_path / "stack.ome.tif", before, axes="ZYX", pixel_um=(0.1, 0.1), z_step_um=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = quick([tmp_path / "stack.ome.tif"], tmp_path / "out", prior)
        again = read_microscopy(found.images[0])
    assert again.dims == ("Z", "Y", "X") and again.shape == (3, 8, 8) and again.dtype == np.float32
    assert again.attrs["pixel_um"] == (0.1, 0.1) and len(found.table) == 3


def test_units_of_the_file_are_the_files(prior, tmp_path):
    """Counts that are 100 + 50 times the prior's values come back as such, seed by seed."""
    before = images(8, 8)
    np.save(tmp_path / "sky.npy", before)
    np.save(tmp_path / "counts.npy", 100 + 50 * before)
    plain = quick([tmp_path / "sky.npy"], tmp_path / "a", prior, seed=3)
    counts = quick([tmp_path / "counts.npy"], tmp_path / "b", prior, unit=50.0, offset=100.0, seed=3)
    np.testing.assert_allclose(np.load(counts.images[0]), 100 + 50 * np.load(plain.images[0]), rtol=1e-4)
    assert not np.array_equal(np.load(plain.images[0]), before)
    for name in ("change_percent", "bright_change_percent"):  # the offset is no flux
        assert getattr(counts.table[0], name) == pytest.approx(getattr(plain.table[0], name), rel=1e-3)
    again = quick([tmp_path / "sky.npy"], tmp_path / "c", prior, seed=3)
    assert np.array_equal(np.load(again.images[0]), np.load(plain.images[0]))


def test_a_flux_near_zero_has_no_percentage(prior, tmp_path):
    before = images(8, 8)
    np.save(tmp_path / "level.npy", before - before.mean())
    (row,) = quick([tmp_path / "level.npy"], tmp_path / "out", prior).table
    assert row.change_percent is None and row.bright_change_percent is not None


@pytest.mark.parametrize("method", ["scoreopt-n", "purify++", "diffpure"])
def test_every_method_runs(method, prior, tmp_path):
    np.save(tmp_path / "sky.npy", images(8, 8))
    found = quick([tmp_path / "sky.npy"], tmp_path / "out", prior, method=method)
    assert np.isfinite(np.load(found.images[0])).all()


def test_larger_images_are_tiled_if_asked(prior, tmp_path):
    np.save(tmp_path / "wide.npy", images(12, 16))
    with pytest.raises(PriorError, match="--tile"):
        quick([tmp_path / "wide.npy"], tmp_path / "out", prior)
    found = quick([tmp_path / "wide.npy"], tmp_path / "out", prior, tile=True)
    assert np.load(found.images[0]).shape == (12, 16)


def test_channels_of_the_prior_are_the_axis_before_the_rows(tmp_path):
    two = save_prior(tmp_path / "two", 2)
    np.save(tmp_path / "a.npy", images(2, 8, 8))
    np.save(tmp_path / "b.npy", images(3, 8, 8))
    assert len(quick([tmp_path / "a.npy"], tmp_path / "out", two).table) == 1
    with pytest.raises(FileFormatError, match="2 channels"):
        quick([tmp_path / "b.npy"], tmp_path / "out", two)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (np.full((8, 8), np.nan), FileFormatError, "64 pixels that are NaN"),
        (images(8, 8) * 200, ValueError, "--unit.*--offset"),
        (images(8, 8) / 65535, ValueError, "contrast"),
        (images(4, 4), PriorError, "smaller than the prior's"),
        (images(8), FileFormatError, "real images"),
        (images(8, 8).astype(complex), FileFormatError, "real images"),
        (np.array([None]), FileFormatError, "Python objects"),
    ],
)
def test_bad_images_are_refused_and_nothing_is_written(content, error, text, prior, tmp_path):
    np.save(tmp_path / "good.npy", images(8, 8))
    np.save(tmp_path / "bad.npy", content, allow_pickle=True)
    with pytest.raises(error, match=text):
        quick([tmp_path / "good.npy", tmp_path / "bad.npy"], tmp_path / "out", prior)
    assert not list((tmp_path / "out").iterdir())


def test_bad_files_and_settings_are_refused(prior, tmp_path):
    (tmp_path / "x.fits").write_bytes(b"SIMPLE  = nothing")
    (tmp_path / "x.txt").write_text("1 2 3")
    for name, text in (("none.fits", "no such file"), ("x.fits", "cannot read"), ("x.txt", "ends in")):
        with pytest.raises(FileFormatError, match=text):
            read_image_file(tmp_path / name, 1)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        np.save(folder / "a.npy", images(8, 8))
    with pytest.raises(FileFormatError, match="several files"):
        quick([tmp_path / "a.npy", tmp_path / "other" / "a.npy"], tmp_path / "out", prior)
    for settings, text in (
        ({"method": "magic"}, "method"), ({"unit": 0.0}, "unit"), ({"sigma": 1e4}, "sigma"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            quick([tmp_path / "a.npy"], tmp_path / "out", prior, **settings)


def test_the_command_shows_the_table(prior, tmp_path):
    np.save(tmp_path / "sky.npy", images(8, 8))
    arguments = ["purify", tmp_path / "sky.npy", "--prior", prior, "--out", tmp_path / "out", "--draws", "2", "-q"]
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    assert "flux before" in done.output and "sky.npy" in done.output and "not for photometry" in done.output
    bad = CliRunner().invoke(cli.app, [str(a) for a in [*arguments[:1], tmp_path / "no.npy", *arguments[2:]]])
    assert bad.exit_code == 1 and bad.stderr.startswith("error: no such file")
    assert torch.is_grad_enabled()
