"""Files that are cut off, foreign, coloured, unexplained or impossible: clear errors, never a guess."""

import importlib.util
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.io import imsave

from sciinstruct.core import FileFormatError
from sciinstruct.datasets.folder import read_image
from sciinstruct.datasets.microscopy_files import read_microscopy
from sciinstruct.datasets.ome_tiff import write_ome_tiff
from sciinstruct.datasets.pixel_extremes import pixel_extremes, saturation_level

STACK = np.random.default_rng(0).integers(0, 4000, (5, 32, 24)).astype(np.uint16)
COLOURS = np.random.default_rng(1).integers(0, 200, (16, 12, 3)).astype(np.uint8)
WRITERS = {
    "ome": lambda path: tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX"}),
    "ome zlib": lambda path: write_ome_tiff(path, STACK, axes="ZYX", pixel_um=(0.1, 0.1)),
    "imagej": lambda path: tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZYX"}),
    "plain": lambda path: tifffile.imwrite(path, STACK, metadata={"axes": "ZYX"}),
    "zlib": lambda path: tifffile.imwrite(path, STACK, compression="zlib", metadata={"axes": "ZYX"}),
    "pages": lambda path: [tifffile.imwrite(path, plane, append=True, metadata=None) for plane in STACK],
    "tiled": lambda path: tifffile.imwrite(path, STACK, tile=(16, 16), metadata={"axes": "ZYX"}),
    "big": lambda path: tifffile.imwrite(path, STACK, bigtiff=True, metadata={"axes": "ZYX"}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_stack_is_never_read_as_a_smaller_or_darker_one(tmp_path, writer):
    """Cut anywhere, the file is refused, or (cut behind its last pixel and page) read whole."""
    path = tmp_path / "a.tif"
    WRITERS[writer](path)
    whole = path.read_bytes()
    axes = "ZYX" if writer == "pages" else None
    refused = 0
    for size in np.linspace(1, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:size])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                np.testing.assert_array_equal(read_microscopy(path, axes=axes), STACK)
            except FileFormatError as error:
                assert "a.tif" in str(error)
                refused += 1
    assert refused >= 55


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG")])
def test_a_truncated_picture(tmp_path, suffix, kind):
    path = tmp_path / f"a{suffix}"
    imsave(path, (STACK[0] % 256).astype(np.uint8), check_contrast=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFormatError, match="truncated or damaged"):
        read_microscopy(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\x00\x01 something else", "must be a TIFF, PNG or JPEG"),
        (b"II*\0", "truncated or damaged"),
        (b"II*\0" + b"\xff" * 60, "truncated or damaged"),
        (b"MM\0*\0\0\0\x08\0\0\0\0\0\0", "truncated or damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_image_at_all(tmp_path, content, match):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(FileFormatError, match=match):
        read_microscopy(tmp_path / "a.tif")


def test_absent_files_and_folders(tmp_path):
    with pytest.raises(FileFormatError, match="No such file"):
        read_microscopy(tmp_path / "absent.tif")
    with pytest.raises(FileFormatError, match="directory"):
        read_microscopy(tmp_path)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    tifffile.imwrite(tmp_path / "a.png", STACK[0])
    np.testing.assert_array_equal(read_microscopy(tmp_path / "a.png"), STACK[0])


def test_planes_that_the_metadata_names_and_the_file_lacks(tmp_path):
    """tifffile would fill them with zeros."""
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX"})
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace('SizeZ="5"', 'SizeZ="9"').encode())
    with pytest.raises(FileFormatError, match="missing 4 frames"):
        read_microscopy(path)


def test_unknown_axes_are_named_with_the_way_out(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(FileFormatError, match=r"axes 'QYX' .*what Q is.*axes='ZYX'"):
        read_microscopy(tmp_path / "a.tif")
    assert read_microscopy(tmp_path / "a.tif", axes="TYX").dims == ("T", "Y", "X")
    tifffile.imwrite(tmp_path / "b.tif", STACK[:4].reshape(2, 2, 32, 24), photometric="minisblack")
    with pytest.raises(FileFormatError, match="axes='ZTYX'"):
        read_microscopy(tmp_path / "b.tif")
    image = read_microscopy(tmp_path / "b.tif", axes="zcyx")
    assert image.dims == ("C", "Z", "Y", "X")
    np.testing.assert_array_equal(image.isel(C=1, Z=0), STACK[1])


def test_pages_without_a_description_have_unknown_axes(tmp_path):
    WRITERS["pages"](tmp_path / "a.tif")
    with pytest.raises(FileFormatError, match="what I is"):
        read_microscopy(tmp_path / "a.tif")


@pytest.mark.parametrize("axes", ["YX", "ZZX", "QYX", "TZYX", ""])
def test_axes_that_do_not_fit(tmp_path, axes):
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(ValueError, match=r"each of the 3 axes.*shape \(5, 32, 24\)"):
        read_microscopy(tmp_path / "a.tif", axes=axes)


@pytest.mark.parametrize(
    ("planes", "match"),
    [
        ({"Z": 5}, "below 5"),
        ({"T": 0}, r"axes of the file \(Z\)"),
        ({"Y": 0}, "axes of the file"),
        ({"Z": []}, "nothing"),
    ],
)
def test_planes_that_are_not_there(tmp_path, planes, match):
    write_ome_tiff(tmp_path / "a.ome.tif", STACK, axes="ZYX")
    with pytest.raises(ValueError, match=match):
        read_microscopy(tmp_path / "a.ome.tif", planes=planes)


def test_several_images_in_a_file_must_be_chosen(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(STACK, metadata={"axes": "ZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1})
        file.write(STACK[0, :16], metadata={"axes": "YX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3})
    with pytest.raises(FileFormatError, match=r"2 images .*series=0"):
        read_microscopy(tmp_path / "a.ome.tif")
    image = read_microscopy(tmp_path / "a.ome.tif", series=1)
    np.testing.assert_array_equal(image, STACK[0, :16])
    assert image.attrs["pixel_um"] == (0.3, 0.2)
    with pytest.raises(ValueError, match="from 0 to 1"):
        read_microscopy(tmp_path / "a.ome.tif", series=2)


@pytest.mark.parametrize("writer", ["tif", "ome.tif", "planar.tif", "png"])
def test_colours_are_refused_unless_they_are_equal(tmp_path, writer):
    path = tmp_path / f"a.{writer}"
    for image in (COLOURS, np.stack([COLOURS[..., 0]] * 3, -1)):
        if writer == "png":
            imsave(path, image, check_contrast=False)
        elif writer == "planar.tif":
            tifffile.imwrite(path, np.moveaxis(image, -1, 0), photometric="rgb", planarconfig="separate")
        else:
            tifffile.imwrite(path, image, photometric="rgb", ome=writer == "ome.tif")
        if image is COLOURS:
            with pytest.raises(FileFormatError, match=r"colour image.*Split Channels.*axes='(YXC|CYX)'") as caught:
                read_microscopy(path)
            channels = read_microscopy(path, axes=str(caught.value).split("axes='")[1][:3])
            assert channels.dims == ("C", "Y", "X")
            np.testing.assert_array_equal(channels.transpose("Y", "X", "C"), image)
        else:
            grey = read_microscopy(path)
            assert grey.dims == ("Y", "X") and grey.dtype == np.uint8
            np.testing.assert_array_equal(grey, image[..., 0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparency_is_no_colour(tmp_path, suffix):
    image = np.concatenate([np.stack([COLOURS[..., 0]] * 3, -1), COLOURS[..., 1:2]], -1)
    if suffix == "png":
        imsave(tmp_path / "a.png", image, check_contrast=False)
    else:
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_microscopy(tmp_path / f"a.{suffix}"), COLOURS[..., 0])


def save_with_pillow(path, planes, compression):
    first, *others = [Image.fromarray(plane) for plane in planes]
    first.save(path, save_all=True, append_images=others, compression=compression)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_lzw_is_read_with_or_without_imagecodecs(tmp_path, dtype):
    planes = (STACK % 251).astype(dtype)
    save_with_pillow(tmp_path / "a.tif", planes, "tiff_lzw")
    image = read_microscopy(tmp_path / "a.tif", axes="ZYX")
    assert image.dtype == planes.dtype
    np.testing.assert_array_equal(image, planes)
    np.testing.assert_array_equal(read_microscopy(tmp_path / "a.tif", axes="ZYX", planes={"Z": [3, 1]}), planes[[3, 1]])


def test_training_folders_take_lzw_and_refuse_what_is_cut_off(tmp_path):
    save_with_pillow(tmp_path / "a.tif", STACK[:1], "tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), STACK[0])
    tifffile.imwrite(tmp_path / "b.tif", STACK, imagej=True, metadata={"axes": "ZYX"})
    (tmp_path / "b.tif").write_bytes((tmp_path / "b.tif").read_bytes()[:-3000])
    with pytest.raises(FileFormatError, match="truncated or damaged"):
        read_image(tmp_path / "b.tif")


def test_warnings_as_errors_keep_their_words(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], resolution=(72, 72), resolutionunit="INCH")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="screen"):
            read_microscopy(tmp_path / "a.tif")


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
def test_a_codec_that_is_not_installed_is_named_with_the_way_out(tmp_path):
    save_with_pillow(tmp_path / "a.tif", (STACK % 251).astype(np.uint8), "jpeg")
    with pytest.raises(FileFormatError, match="compressed with JPEG.*pip install imagecodecs"):
        read_microscopy(tmp_path / "a.tif", axes="ZYX")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers(tmp_path, value):
    image = np.ones((3, 8, 8), dtype=np.float32)
    image[1, 2, 3] = image[2, 0, 0] = value
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(FileFormatError, match="2 that are NaN or infinite, the first at Z=1, Y=2, X=3"):
        read_microscopy(tmp_path / "a.tif")
    assert float(read_microscopy(tmp_path / "a.tif", planes={"Z": 0}).mean()) == 1.0


def test_complex_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), dtype=np.complex64))
    with pytest.raises(FileFormatError, match="real numbers, got complex64"):
        read_microscopy(tmp_path / "a.tif")


def test_negative_pixels_are_counted_and_kept(tmp_path):
    image = STACK[0].astype(np.float32) - 100.0
    write_ome_tiff(tmp_path / "a.ome.tif", image, axes="YX")
    with pytest.warns(UserWarning, match="negative"):
        back = read_microscopy(tmp_path / "a.ome.tif")
    assert back.attrs["negative_pixels"] == int((image < 0).sum()) > 0
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(("top", "dtype"), [(255, "uint8"), (1023, "uint16"), (4095, "uint16"), (65535, "uint16")])
def test_saturated_pixels_are_counted(tmp_path, top, dtype):
    image = np.full((8, 8), 100, dtype=dtype)
    image[0, :3] = top
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.warns(UserWarning, match=f"3 of 64 pixels are saturated .at {top}.:"):
        back = read_microscopy(tmp_path / "a.tif")
    assert (back.attrs["saturated_pixels"], back.attrs["saturation_level"]) == (3, top)


def test_bits_of_the_type_say_nothing_about_the_camera():
    assert saturation_level(np.array([7, 4095], dtype=np.uint16), significant_bits=16) == 4095
    assert saturation_level(np.array([7, 4095], dtype=np.uint16), significant_bits=14) == 2**14 - 1


def test_a_calibration_of_values_is_mentioned(tmp_path):
    """ImageJ keeps signed 16-bit images as unsigned numbers 32768 higher."""
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], imagej=True, metadata={"axes": "YX", "c0": -32768, "c1": 1})
    with pytest.warns(UserWarning, match=r"-32768 \+ 1 \* what is stored"):
        np.testing.assert_array_equal(read_microscopy(tmp_path / "a.tif"), STACK[0])


def test_the_camera_bits_in_a_file_decide(tmp_path):
    image = np.full((8, 8), 4095, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, ome=True, metadata={"axes": "YX", "SignificantBits": 14})
    back = read_microscopy(tmp_path / "a.ome.tif")
    assert (back.attrs["saturated_pixels"], back.attrs["saturation_level"]) == (0, 2**14 - 1)


def test_levels_that_no_camera_has():
    assert saturation_level(np.array([1.5, 65535.0])) is None
    assert saturation_level(np.array([3000], dtype=np.uint16)) == 65535
    assert pixel_extremes(np.array([-3, -1, 7], dtype=np.int16)) == (0, 32767, 2)
    assert pixel_extremes(np.array([-3.0, 70000.0])) == (0, None, 1)


def test_a_colour_map_is_mentioned(tmp_path):
    colours = np.stack([np.arange(256) * 257] * 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", (STACK[0] % 251).astype(np.uint8), photometric="palette", colormap=colours)
    with pytest.warns(UserWarning, match="colour map"):
        np.testing.assert_array_equal(read_microscopy(tmp_path / "a.tif"), STACK[0] % 251)


def test_a_damaged_annotation_does_not_hide_the_image(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_ome_tiff(path, STACK, axes="ZYX", optics={"na": 1.4}, pixel_um=(0.1, 0.1))
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace("optics", "optics\\").encode())
    with pytest.warns(UserWarning, match="annotation"):
        image = read_microscopy(path)
    assert image.attrs["optics"] is None and image.attrs["pixel_um"] == (0.1, 0.1)
