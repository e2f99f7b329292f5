"""Every spelling of a unit, and pixel sizes that are no pixel sizes."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from sciinstruct.datasets.length_units import length_um, time_s, um_per
from sciinstruct.datasets.microscopy_files import read_microscopy

SPELLINGS = [
    ("um", 1.0),
    ("\u00b5m", 1.0),
    ("\u03bcm", 1.0),
    ("\\u00B5m", 1.0),
    ("\\u00b5m", 1.0),
    ("\\u03BCm", 1.0),
    ("\u00c2\u00b5m", 1.0),  # UTF-8 read as Latin-1
    ("micron", 1.0),
    ("Microns", 1.0),
    ("micrometer", 1.0),
    ("micrometre", 1.0),
    ("nm", 1e-3),
    ("nanometer", 1e-3),
    ("mm", 1e3),
    ("cm", 1e4),
    ("m", 1e6),
    ("meter", 1e6),
    ("\u00c5", 1e-4),
    ("\u212b", 1e-4),
    ("angstrom", 1e-4),
    ("pm", 1e-6),
    ("inch", 25400.0),
]


@pytest.mark.parametrize(("unit", "um"), SPELLINGS, ids=[ascii(unit) for unit, _ in SPELLINGS])
def test_every_spelling_of_a_length(unit, um):
    assert um_per(unit) == um
    assert length_um(3.0, unit, "size", Path("a.tif")) == 3.0 * um


@pytest.mark.parametrize(
    ("unit", "why"), [("pixel", "no length"), ("Pixels", "no length"), ("furlong", "no unit of length")]
)
def test_a_unit_that_is_no_length_gives_none_and_a_warning(unit, why):
    with pytest.warns(UserWarning, match=why):
        assert length_um(1.0, unit, "size", Path("a.tif")) is None


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_useless_size_gives_none_and_a_warning(value):
    with pytest.warns(UserWarning, match="left unknown"):
        assert length_um(value, "um", "size", Path("a.tif")) is None


def test_times():
    spellings = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "min": 60.0, "h": 3600.0}
    assert {unit: time_s(1.0, unit) for unit in spellings} == spellings
    assert time_s(0.0, "s") is None and time_s(1.0, "fortnight") is None and time_s(None, "s") is None


@pytest.mark.parametrize(("unit", "um"), SPELLINGS, ids=[ascii(unit) for unit, _ in SPELLINGS])
def test_every_spelling_in_a_file_of_imagej(tmp_path, unit, um):
    """ImageJ's description is ASCII or Latin-1 bytes, patched in as ImageJ's many versions write it."""
    size = 0.065 / um
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.ones((2, 8, 8), np.uint16),
        imagej=True,
        resolution=(1 / size, 1 / size),
        metadata={"axes": "ZYX", "unit": "UNITUNITUNITUNIT", "spacing": 0.2 / um},
    )
    text = tifffile.tiffcomment(tmp_path / "a.tif").replace("UNITUNITUNITUNIT", unit)
    tifffile.tiffcomment(tmp_path / "a.tif", text.encode("utf-8"))
    image = read_microscopy(tmp_path / "a.tif")
    assert image.attrs["pixel_um"] == pytest.approx((0.065, 0.065), rel=1e-6)
    assert image.attrs["z_step_um"] == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize("unit", ["\u00b5m", "um", "nm", "mm", "\u00c5", None])
def test_units_of_ome(tmp_path, unit):
    per_um = {"nm": 1e3, "mm": 1e-3, "\u00c5": 1e4}.get(unit, 1.0)
    metadata = {"axes": "ZYX"}
    for axis, um in {"X": 0.1, "Y": 0.065, "Z": 0.2}.items():
        metadata |= {f"PhysicalSize{axis}": um * per_um} | ({f"PhysicalSize{axis}Unit": unit} if unit else {})
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((2, 8, 8), np.uint16), ome=True, metadata=metadata)
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.attrs["pixel_um"] == pytest.approx((0.065, 0.1), rel=1e-12)
    assert image.attrs["z_step_um"] == pytest.approx(0.2, rel=1e-12)


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_ome_sizes_in_pixels_are_no_sizes(tmp_path, unit):
    metadata = {"axes": "YX", "PhysicalSizeX": 1.0, "PhysicalSizeXUnit": unit}
    metadata |= {"PhysicalSizeY": 1.0, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((8, 8), np.uint16), ome=True, metadata=metadata)
    with pytest.warns(UserWarning, match="no length"):
        assert read_microscopy(tmp_path / "a.ome.tif").attrs["pixel_um"] is None


def test_one_side_of_a_pixel_is_no_pixel_size(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.ones((8, 8), np.uint16), ome=True, metadata={"axes": "YX", "PhysicalSizeX": 0.1}
    )
    image = read_microscopy(tmp_path / "a.ome.tif")
    assert image.attrs["pixel_um"] is None and not image.coords


@pytest.mark.parametrize(
    ("resolution", "unit"), [(72, "INCH"), (96, "INCH"), (28.35, "CENTIMETER"), (37.8, "CENTIMETER")]
)
def test_the_resolution_of_a_screen_is_no_pixel_size(tmp_path, resolution, unit):
    tifffile.imwrite(
        tmp_path / "a.tif", np.ones((8, 8), np.uint16), resolution=(resolution, resolution), resolutionunit=unit
    )
    with pytest.warns(UserWarning, match="screen"):
        assert read_microscopy(tmp_path / "a.tif").attrs["pixel_um"] is None


@pytest.mark.parametrize(("unit", "um"), [("INCH", 25400.0), ("CENTIMETER", 1e4), ("NONE", None)])
def test_plain_tags(tmp_path, unit, um):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.uint16), resolution=(1e5, 2e5), resolutionunit=unit)
    found = read_microscopy(tmp_path / "a.tif").attrs["pixel_um"]
    assert found is None if um is None else found == pytest.approx((um / 2e5, um / 1e5), rel=1e-6)


def test_a_printing_resolution_is_kept_with_a_warning(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.uint16), resolution=(300, 300), resolutionunit="INCH")
    with pytest.warns(UserWarning, match="printing"):
        found = read_microscopy(tmp_path / "a.tif").attrs["pixel_um"]
    assert found == pytest.approx((25400 / 300,) * 2, rel=1e-6)


def test_imagej_without_a_unit_has_no_sizes(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.ones((3, 8, 8), np.uint16), imagej=True, metadata={"axes": "ZYX", "spacing": 1.0}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_microscopy(tmp_path / "a.tif")
    assert image.attrs["pixel_um"] is None and image.attrs["z_step_um"] is None and not image.coords
