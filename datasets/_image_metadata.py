"""What a microscope's file says about its pixels: OME-XML, ImageJ's text, or the resolution tags of a plain TIFF."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from sciinstruct.datasets.length_units import length_um, resolution_um, time_s, um_per

if TYPE_CHECKING:
    from tifffile import TiffFile

NAMESPACE = "sciinstruct/instrument"  # of the annotation that holds our JSON
INSTRUMENT = ("optics", "camera", "provenance")
CONTENTS = "contents"  # key of the provenance that says what a file holds, if not counts of a camera


@dataclass(frozen=True)
class ImageMetadata:
    """Sizes and names of one image; None for what its file does not say."""

    file_format: str
    pixel_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    time_step_s: float | None = None
    channels: tuple[str, ...] | None = None
    emission_nm: tuple[float | None, ...] | None = None
    significant_bits: int | None = None
    description: str | None = None
    optics: dict[str, Any] | None = None
    camera: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None


def tiff_metadata(file: "TiffFile", series: int, n_series: int, path: Path) -> ImageMetadata:
    """Metadata of one series of an open TIFF file."""
    if file.is_ome:
        return _from_ome(file.ome_metadata or "", series, n_series, path)
    if file.is_imagej:
        return _from_imagej(file, path)
    return ImageMetadata("TIFF", pixel_um=_tag_pixel_um(file, path))


def _from_ome(text: str, series: int, n_series: int, path: Path) -> ImageMetadata:
    root = ElementTree.fromstring(text)
    images = root.findall("{*}Image")
    if len(images) != n_series:
        warnings.warn(
            f"{path}: its metadata names {len(images)} images and the file holds {n_series}: no sizes taken",
            stacklevel=2,
        )
        return ImageMetadata("OME-TIFF")
    image = images[series]
    pixels = image.find("{*}Pixels")
    if pixels is None:
        return ImageMetadata("OME-TIFF")
    y, x, z = (_ome_length(pixels, axis, path) for axis in "YXZ")
    channels = pixels.findall("{*}Channel")
    names = tuple(channel.get("Name", "") for channel in channels)
    emission = tuple(_emission_nm(channel) for channel in channels)
    bits = _number(pixels.get("SignificantBits"))
    description = image.findtext("{*}Description")
    return ImageMetadata(
        "OME-TIFF",
        pixel_um=None if y is None or x is None else (y, x),
        z_step_um=z,
        time_step_s=time_s(_number(pixels.get("TimeIncrement")), pixels.get("TimeIncrementUnit", "s")),
        channels=names if any(names) else None,
        emission_nm=emission if any(emission) else None,
        significant_bits=None if bits is None else int(bits),
        description=description,
        **_instrument(root, path),
    )


def _ome_length(pixels: ElementTree.Element, axis: str, path: Path) -> float | None:
    name = f"PhysicalSize{axis}"
    return length_um(_number(pixels.get(name)), pixels.get(f"{name}Unit", "um"), name, path)  # the schema's default


def _emission_nm(channel: ElementTree.Element) -> float | None:
    value, scale = _number(channel.get("EmissionWavelength")), um_per(channel.get("EmissionWavelengthUnit", "nm"))
    return None if value is None or scale is None else round(value * scale * 1e3, 6)


def _instrument(root: ElementTree.Element, path: Path) -> dict[str, dict[str, Any]]:
    """The JSON that `write_ome_tiff` put into an annotation."""
    for note in root.iterfind("{*}StructuredAnnotations/{*}CommentAnnotation"):
        if note.get("Namespace") == NAMESPACE:
            try:
                found = json.loads(note.findtext("{*}Value", ""))
                return {key: found[key] for key in INSTRUMENT if isinstance(found.get(key), dict)}
            except (ValueError, AttributeError):
                warnings.warn(f"{path}: its annotation {NAMESPACE} is damaged: no optics or camera taken", stacklevel=2)
    return {}


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _from_imagej(file: "TiffFile", path: Path) -> ImageMetadata:
    found = file.imagej_metadata or {}
    unit = str(found.get("unit", ""))
    units = {"X": unit, "Y": str(found.get("yunit", unit)), "Z": str(found.get("zunit", unit))}
    if "c0" in found or "c1" in found:
        warnings.warn(
            f"{path}: ImageJ shows its values as {found.get('c0', 0)} + {found.get('c1', 1)} * what is stored; they "
            "are read as stored",
            stacklevel=2,
        )
    y, x = (_imagej_pixel(file, axis, units[axis], path) for axis in "YX")
    return ImageMetadata(
        "ImageJ TIFF",
        pixel_um=None if y is None or x is None else (y, x),
        z_step_um=length_um(_number(found.get("spacing")), units["Z"], "spacing", path),
        time_step_s=time_s(_number(found.get("finterval")), str(found.get("tunit", "s"))),
        channels=_imagej_channels(found),
        description=str(found["Info"]) if "Info" in found else None,
    )


def _imagej_pixel(file: "TiffFile", axis: str, unit: str, path: Path) -> float | None:
    per_unit = _resolution(file, axis)
    if per_unit is None:
        return None
    if unit in ("inch", "in", "cm"):  # what ImageJ makes of the tags of a picture
        return resolution_um(per_unit, "inch" if unit != "cm" else "cm", path)
    return length_um(1 / per_unit, unit, f"pixel size {axis}", path)


def _imagej_channels(found: dict[str, Any]) -> tuple[str, ...] | None:
    """Names of channels, where every plane of a channel carries the same label."""
    labels, n_channels = found.get("Labels"), int(found.get("channels", 1))
    labels = [labels] if isinstance(labels, str) else labels  # of a single plane
    if not isinstance(labels, list | tuple) or len(labels) % n_channels or not labels:
        return None
    if found.get("order", "czt").lower() not in ("czt", "ctz", "default"):
        return None
    names = np.array([str(label) for label in labels]).reshape(-1, n_channels)
    return tuple(names[0].tolist()) if (names == names[0]).all() else None


def _tag_pixel_um(file: "TiffFile", path: Path) -> tuple[float, float] | None:
    tag = file.pages.first.tags.get("ResolutionUnit")
    unit = {2: "inch", 3: "cm"}.get(int(tag.value)) if tag is not None else None
    if unit is None:
        return None
    y, x = _resolution(file, "Y"), _resolution(file, "X")
    if y is None or x is None:
        return None
    x_um = resolution_um(x, unit, path)
    y_um = x_um if x == y else resolution_um(y, unit, path)
    return None if x_um is None or y_um is None else (y_um, x_um)


def _resolution(file: "TiffFile", axis: str) -> float | None:
    tag = file.pages.first.tags.get(f"{axis}Resolution")
    if tag is None:
        return None
    above, below = tag.value
    return above / below if above and below else None
