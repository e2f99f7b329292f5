"""Axes, sizes, units, names, numbers and types of OME and ImageJ TIFFs come back as they went in."""

import itertools
import json
import warnings
from importlib import resources
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import xarray
from PIL import Image

from sciinstruct import __version__
from sciinstruct.datasets.microscopy_files import read_microscopy
from sciinstruct.datasets.ome_tiff import write_ome_tiff

SIZES = {"T": 3, "C": 2, "Z": 4, "Y": 16, "X": 12}
AXES = ["YX", "ZYX", "CYX", "TYX", "CZYX", "TZYX", "TCYX", "TCZYX"]
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "bool"]


def pixels(axes, dtype="uint16"):
    shape = tuple(SIZES[a] for a in axes)
    values = np.random.default_rng(0).integers(1, 100, shape)
    return (values > 50) if dtype == "bool" else values.astype(dtype) + np.dtype(dtype).type(0)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("axes", AXES)
def test_ome_keeps_everything(tmp_path, axes):
    given = {
        "pixel_um": (0.065, 0.1),
        "z_step_um": 0.2,
        "optics": {"na": 1.4, "psf": {"model": "gibson-lanni"}},
        "camera": {"offset_counts": 100.0},
        "description": "cells <1> & \u00b5",
    }
    if "T" in axes:
        given["time_step_s"] = 1.5
    given["channels"] = ("488", "n\u00facleo") if "C" in axes else ("only",)
    given["emission_nm"] = (525.0, None) if "C" in axes else (670.5,)
    image = pixels(axes)
    write_ome_tiff(tmp_path / "a.ome.tif", image, axes=axes, provenance={"seed": 7}, **given)
    back = read_microscopy(tmp_path / "a.ome.tif")
    assert back.dims == tuple(axes) and back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)
    assert {key: back.attrs[key] for key in given} == given
    assert back.attrs["provenance"] == {"seed": 7, "sciinstruct": __version__}
    assert back.attrs["file_format"] == "OME-TIFF" and back.attrs["source"] == "a.ome.tif" and back.name == "a"
    for axis, step in {"Y": 0.065, "X": 0.1, "Z": 0.2, "T": 1.5}.items():
        if axis in axes:
            np.testing.assert_array_equal(back[axis], np.arange(SIZES[axis]) * step)
            assert back[axis].attrs["units"] == ("s" if axis == "T" else "um")
    if "C" in axes:
        assert back["C"].values.tolist() == list(given["channels"])


@pytest.mark.parametrize("dtype", TYPES)
def test_ome_keeps_the_type(tmp_path, dtype):
    image = pixels("ZYX", dtype)
    write_ome_tiff(tmp_path / "a.ome.tif", image, axes="ZYX")
    back = read_microscopy(tmp_path / "a.ome.tif")
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)


def test_unknown_sizes_stay_unknown(tmp_path):
    write_ome_tiff(tmp_path / "a.ome.tif", pixels("CZYX"), axes="CZYX")
    back = read_microscopy(tmp_path / "a.ome.tif")
    unknown = ["pixel_um", "z_step_um", "time_step_s", "channels", "emission_nm", "optics", "camera", "description"]
    assert [back.attrs[key] for key in unknown if key not in ("optics", "camera")] == [None] * 6
    assert not back.attrs["optics"] and not back.attrs["camera"] and not back.coords


@pytest.mark.parametrize("axes", ["".join(p) for p in itertools.permutations("CZYX")][::5])
def test_any_order_of_axes_is_written_as_t_c_z_y_x(tmp_path, axes):
    image = pixels(axes)
    write_ome_tiff(tmp_path / "a.ome.tif", xarray.DataArray(image, dims=list(axes.lower())))
    back = read_microscopy(tmp_path / "a.ome.tif")
    assert back.dims == ("C", "Z", "Y", "X")
    np.testing.assert_array_equal(back, xarray.DataArray(image, dims=list(axes)).transpose("C", "Z", "Y", "X"))


def test_what_was_read_is_written_again_and_follows_a_selection(tmp_path):
    write_ome_tiff(
        tmp_path / "a.ome.tif",
        pixels("TCZYX"),
        axes="TCZYX",
        pixel_um=(0.065, 0.065),
        z_step_um=0.25,
        time_step_s=2.0,
        channels=("a", "b"),
        emission_nm=(525.0, 600.0),
    )
    image = read_microscopy(tmp_path / "a.ome.tif")
    write_ome_tiff(tmp_path / "same.ome.tif", image)
    xarray.testing.assert_identical(
        read_microscopy(tmp_path / "same.ome.tif").drop_attrs(), image.rename("same").drop_attrs()
    )
    write_ome_tiff(tmp_path / "part.ome.tif", image.isel(T=0, C=1, Z=slice(0, 4, 2), X=slice(None, None, 2)))
    part = read_microscopy(tmp_path / "part.ome.tif")
    assert part.dims == ("Z", "Y", "X") and part.attrs["channels"] == ("b",) and part.attrs["emission_nm"] == (600.0,)
    assert part.attrs["pixel_um"] == pytest.approx((0.065, 0.13), rel=1e-12) and part.attrs["z_step_um"] == 0.5


def test_coordinates_in_nanometres_are_understood(tmp_path):
    image = xarray.DataArray(
        pixels("YX"),
        dims=["y", "x"],
        coords={a: (a, 65.0 * np.arange(SIZES[a.upper()]) - 300, {"units": "nm"}) for a in "yx"},
    )
    write_ome_tiff(tmp_path / "a.ome.tif", image)
    assert read_microscopy(tmp_path / "a.ome.tif").attrs["pixel_um"] == pytest.approx((0.065, 0.065), rel=1e-12)


@pytest.mark.parametrize("axes", ["YX", "ZYX", "CYX", "TYX", "ZCYX", "TZYX", "TCYX", "TZCYX"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_imagej_hyperstacks(tmp_path, axes, dtype):
    image = pixels(axes, dtype)
    names = ("channel a", "channel b")[: 2 if "C" in axes else 1]
    labels = list(names) * (image[..., 0, 0].size // len(names))
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        imagej=True,
        resolution=(1 / 0.1, 1 / 0.065),
        metadata={"axes": axes, "unit": "um", "spacing": 0.2, "finterval": 1.5, "Labels": labels, "Info": "notes"},
    )
    back = read_microscopy(tmp_path / "a.tif")
    dims = [a for a in "TCZYX" if a in axes]
    assert list(back.dims) == dims and back.dtype == image.dtype and back.attrs["file_format"] == "ImageJ TIFF"
    np.testing.assert_array_equal(back, image.transpose([axes.index(a) for a in dims]))
    assert back.attrs["pixel_um"] == pytest.approx((0.065, 0.1), rel=1e-6)  # a ratio of two 32-bit numbers
    assert back.attrs["z_step_um"] == 0.2 and back.attrs["time_step_s"] == 1.5
    assert back.attrs["channels"] == names
    assert back.attrs["description"] == "notes"


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"imagej": True},
        {"imagej": True, "truncate": True},  # as ImageJ writes stacks of more than 4 GB
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 3},
        {"bigtiff": True},
    ],
)
def test_byte_order_and_layout_do_not_matter(tmp_path, byteorder, options):
    image = pixels("ZYX")
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="minisblack",
        metadata={"axes": "ZYX"},
        **{"byteorder": byteorder} | options,
    )
    back = read_microscopy(tmp_path / "a.tif")
    np.testing.assert_array_equal(back, image)
    assert back.dtype.isnative


@pytest.mark.parametrize("writer", ["ome", "imagej", "plain", "zlib"])
def test_selected_planes_are_those_of_the_whole(tmp_path, writer):
    image = pixels("TZCYX")
    options = {"ome": {"ome": True}, "imagej": {"imagej": True}, "plain": {}, "zlib": {"compression": "zlib"}}[writer]
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", metadata={"axes": "TZCYX"}, **options)
    whole = read_microscopy(tmp_path / "a.tif")
    for planes in [
        {"T": 1},
        {"Z": slice(1, 3)},
        {"C": [1, 0]},
        {"T": -1, "Z": 2, "C": 1},
        {"T": [2, 0], "Z": np.int64(1)},
    ]:
        part = read_microscopy(tmp_path / "a.tif", planes=planes)
        np.testing.assert_array_equal(part, whole.isel(planes))
        assert part.dims == whole.isel(planes).dims


def test_sizes_and_names_follow_the_selected_planes(tmp_path):
    write_ome_tiff(
        tmp_path / "a.ome.tif",
        pixels("CZYX"),
        axes="CZYX",
        z_step_um=0.25,
        channels=("a", "b"),
        emission_nm=(525.0, 600.0),
    )
    part = read_microscopy(tmp_path / "a.ome.tif", planes={"C": [1, 0], "Z": slice(1, None, 2)})
    assert part.attrs["channels"] == ("b", "a") and part.attrs["emission_nm"] == (600.0, 525.0)
    assert part.attrs["z_step_um"] == 0.5 and part["Z"].values.tolist() == [0.25, 0.75]
    uneven = read_microscopy(tmp_path / "a.ome.tif", planes={"Z": [0, 1, 3]})
    assert uneven.attrs["z_step_um"] is None and uneven["Z"].values.tolist() == [0.0, 0.25, 0.75]
    with pytest.raises(ValueError, match="evenly spaced"):
        write_ome_tiff(tmp_path / "b.ome.tif", uneven)


def test_viewers_without_this_package_find_what_they_look_for(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(path, pixels("CZYX"), axes="CZYX", pixel_um=(0.065, 0.1), z_step_um=0.2, channels=("a", "b"))
    with tifffile.TiffFile(path) as file:
        assert file.is_ome and file.series[0].axes == "CZYX"
        page, xml = file.pages.first, ElementTree.fromstring(file.ome_metadata)
        assert page.photometric.name == "MINISBLACK" and page.compression.name == "ADOBE_DEFLATE"
        ratios = [page.tags[f"{a}Resolution"].value for a in "YX"]
        assert int(page.tags["ResolutionUnit"].value) == 3  # centimetres, for readers that know no OME
    assert [1e4 * below / above for above, below in ratios] == pytest.approx([0.065, 0.1], rel=1e-6)
    namespace = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
    assert xml.tag == f"{namespace}OME"
    assert [child.tag for child in xml] == [f"{namespace}Image", f"{namespace}StructuredAnnotations"]  # in this order
    found = xml.find(f"{namespace}Image/{namespace}Pixels").attrib
    sizes = {f"Size{axis}": "1" if axis == "T" else str(length) for axis, length in SIZES.items()}
    assert {key: found[key] for key in sizes} == sizes
    assert {found[f"PhysicalSize{a}Unit"].encode() for a in "XYZ"} == {b"\xc2\xb5m"}  # the micro sign
    reference = xml.find(f"{namespace}Image/{namespace}AnnotationRef").get("ID")
    note = xml.find(f"{namespace}StructuredAnnotations/{namespace}CommentAnnotation")
    assert note.get("ID") == reference and note.get("Namespace") == "sciinstruct/instrument"


@pytest.mark.filterwarnings("default")
def test_the_metadata_are_valid_by_the_schema_and_another_reader_agrees(tmp_path):
    ome_types = pytest.importorskip("ome_types")
    write_ome_tiff(
        tmp_path / "a.ome.tif",
        pixels("TCZYX"),
        axes="TCZYX",
        pixel_um=(0.065, 0.1),
        z_step_um=0.2,
        time_step_s=1.5,
        channels=("a", "b"),
        emission_nm=(525.0, None),
        description="cells",
        optics={"na": 1.4},
    )
    xml = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    schema = resources.files("ome_types").joinpath("ome-2016-06.xsd").read_bytes()
    assert tifffile.OmeXml.validate(xml, schema)
    found = ome_types.from_xml(xml)
    read, note = found.images[0].pixels, found.structured_annotations[0]
    assert (read.physical_size_y, read.physical_size_x, read.physical_size_z) == (0.065, 0.1, 0.2)
    assert {read.physical_size_x_unit.value, read.physical_size_z_unit.value} == {"\u00b5m"}
    assert (read.size_t, read.size_c, read.size_z, read.time_increment) == (3, 2, 4, 1.5)
    assert [(c.name, c.emission_wavelength) for c in read.channels] == [("a", 525.0), ("b", None)]
    assert json.loads(note.value)["optics"] == {"na": 1.4} and found.images[0].description == "cells"


def test_pillow_reads_the_same_planes(tmp_path):
    """libtiff is another decoder."""
    image = pixels("ZYX", "float32")
    write_ome_tiff(tmp_path / "a.ome.tif", image, axes="ZYX")
    with Image.open(tmp_path / "a.ome.tif") as file:
        assert file.n_frames == 4
        for z in range(4):
            file.seek(z)
            np.testing.assert_array_equal(np.asarray(file), image[z])


def test_a_refused_image_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(path, pixels("YX"), axes="YX")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="finite"):
        write_ome_tiff(path, np.full((4, 4), np.nan, dtype=np.float32), axes="YX")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.ome.tif"]


@pytest.mark.parametrize(
    ("image", "options", "match"),
    [
        (np.ones((4, 4)), {}, "axes='ZYX'"),
        (np.ones((4, 4)), {"axes": "ZX"}, "Y and X included"),
        (np.ones((4, 4)), {"axes": "ZYX"}, r"shape \(4, 4\)"),
        (np.ones((2, 4, 4)), {"axes": "QYX"}, "named among"),
        (np.ones((4, 4), dtype=np.int64), {"axes": "YX"}, "got int64"),
        (np.ones((4, 4), dtype=np.complex64), {"axes": "YX"}, "got complex64"),
        (np.ones((0, 4)), {"axes": "YX"}, "have pixels"),
        (np.ones((4, 4)), {"axes": "YX", "pixel_um": (0.0, 0.1)}, r"pixel_um\[0\] must be positive"),
        (np.ones((4, 4)), {"axes": "YX", "z_step_um": -1.0}, "z_step_um must be positive"),
        (np.ones((2, 4, 4)), {"axes": "CYX", "channels": ["a"]}, "one entry per channel, 2"),
        (np.ones((2, 4, 4)), {"axes": "CYX", "emission_nm": [1.0, 2.0, 3.0]}, "emission_nm must have one entry"),
    ],
)
def test_the_writer_refuses_what_it_cannot_say(tmp_path, image, options, match):
    with pytest.raises(ValueError, match=match):
        write_ome_tiff(tmp_path / "a.ome.tif", image, **options)
    assert not list(tmp_path.iterdir())
