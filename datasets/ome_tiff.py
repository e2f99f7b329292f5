"""Writing OME-TIFF: results and camera frames with units, channel names and the instrument, for Fiji and napari."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sciinstruct.core import atomic_path
from sciinstruct.core.posterior_io import json_safe
from sciinstruct.datasets._image_metadata import INSTRUMENT, NAMESPACE
from sciinstruct.datasets._tiff_pixels import AXES
from sciinstruct.datasets.length_units import um_per

if TYPE_CHECKING:
    import xarray

_TYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
_MICRO = "\u00b5m"  # the micro sign of the OME schema, not the Greek letter
_CLASSIC_BYTES = 2**32 - 2**25  # more needs BigTIFF


class _Steps(NamedTuple):
    pixel_um: tuple[float, float] | None
    z_step_um: float | None
    time_step_s: float | None


def write_ome_tiff(
    path: str | os.PathLike[str],
    image: "xarray.DataArray | np.ndarray",
    *,
    axes: str | None = None,
    pixel_um: tuple[float, float] | None = None,
    z_step_um: float | None = None,
    time_step_s: float | None = None,
    channels: Sequence[str] | None = None,
    emission_nm: Sequence[float | None] | None = None,
    optics: Mapping[str, Any] | None = None,
    camera: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> None:
    """Write an image as OME-TIFF (zlib, dtype kept), the whole file or nothing.

    Every argument left out is taken from a DataArray: sizes from its coordinates, then from its attributes, the rest
    from its attributes, all named as `read_microscopy` names them.

    Parameters
    ----------
    path : path
        Usually ends in ``.ome.tif``. Replaced if it exists.
    image : DataArray or ndarray
        Dims among T, C, Z, Y, X (small letters too), with Y and X. Camera frames keep their offset and their uint16.
    axes : str, optional
        Names of an array's axes, such as ``"ZYX"``; needed for an ndarray.
    pixel_um : (float, float), optional
        Pixel size (y, x) in um; none is written if it is not known.
    z_step_um, time_step_s : float, optional
        Distance of planes in um, of frames in s.
    channels : sequence of str, optional
        A name per channel.
    emission_nm : sequence of float, optional
        Emission wavelength per channel in nm, None where unknown.
    optics, camera, provenance : dict, optional
        What JSON can hold; stored in an annotation of the OME-XML and read back by `read_microscopy`. The package's
        version joins the provenance.
    description : str, optional
        Text that viewers show.

    Raises
    ------
    ValueError
        If axes, names or sizes do not fit the image, its dtype has no counterpart in OME, or a pixel is not finite.
    OutputError
        If the file cannot be written.
    """
    pixels, dims = _array(image, axes)
    attributes = dict(getattr(image, "attrs", {}))
    steps = _steps(image, attributes, _Steps(pixel_um, z_step_um, time_step_s))
    names = _channel_names(image, channels, attributes)
    if emission_nm is None:
        emission_nm = _emission_of(names, attributes)
    given = {"optics": optics, "camera": camera, "provenance": provenance}
    instrument = {key: dict(given[key] or attributes.get(key) or {}) for key in INSTRUMENT}
    metadata = {
        "axes": dims,
        **_sizes(steps, dims),
        **_channels(names, emission_nm, pixels.shape, dims),
        **_annotation(instrument),
    }
    description = description or attributes.get("description")
    bits = attributes.get("significant_bits")
    if description:
        metadata["Description"] = description
    if bits and np.issubdtype(pixels.dtype, np.unsignedinteger):
        metadata["SignificantBits"] = int(bits)
    _write(Path(path), pixels, metadata, steps.pixel_um)


def _array(image: "xarray.DataArray | np.ndarray", axes: str | None) -> tuple[np.ndarray, str]:
    """Pixels with axes in the order T C Z Y X."""
    dims = [str(dim).upper() for dim in getattr(image, "dims", axes or "")] if axes is None else list(axes.upper())
    pixels = np.asarray(image)
    if len(dims) != pixels.ndim or len(set(dims)) != len(dims) or set(dims) - set(AXES) or not {"Y", "X"} <= set(dims):
        raise ValueError(
            f"image must have axes named among {', '.join(AXES)}, Y and X included, got {dims or 'none'} for shape "
            f"{pixels.shape}: pass axes='ZYX' or the like, or rename the dims"
        )
    if pixels.dtype.name not in _TYPES:
        raise ValueError(f"image must be of a type that OME-TIFF knows ({', '.join(_TYPES)}), got {pixels.dtype}")
    if pixels.size == 0 or not np.isfinite(pixels).all():
        raise ValueError(
            f"image must have pixels and all of them finite, got shape {pixels.shape} with NaN or infinity"
        )
    order = [axis for axis in AXES if axis in dims]
    return np.ascontiguousarray(pixels.transpose([dims.index(axis) for axis in order])), "".join(order)


def _steps(image: Any, attributes: dict[str, Any], given: _Steps) -> _Steps:
    pixel = given.pixel_um or attributes.get("pixel_um")
    y, x = pixel if pixel is not None else (None, None)
    if given.pixel_um is None:
        y, x = _coordinate_step(image, "Y", y), _coordinate_step(image, "X", x)
    z = given.z_step_um or _coordinate_step(image, "Z", attributes.get("z_step_um"))
    t = given.time_step_s or _coordinate_step(image, "T", attributes.get("time_step_s"))
    for name, value in {"pixel_um[0]": y, "pixel_um[1]": x, "z_step_um": z, "time_step_s": t}.items():
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name} must be positive and finite, or None if unknown, got {value}")
    return _Steps(None if y is None or x is None else (float(y), float(x)), z, t)


def _coordinate_step(image: Any, axis: str, stated: float | None) -> float | None:
    """Step of a coordinate in um (s for T): what is true after slicing; `stated` where there is no coordinate."""
    coords = getattr(image, "coords", {})
    name = next((key for key in (axis, axis.lower()) if key in coords), None)
    if name is None or coords[name].size < 2:
        return stated
    scale = 1.0 if axis == "T" else um_per(str(coords[name].attrs.get("units", "")))
    if scale is None:
        return stated
    step = even_step(np.asarray(coords[name], dtype=float), f"coordinate {name}") * scale
    return stated if stated is not None and np.isclose(step, stated, rtol=1e-6, atol=0) else step


def even_step(values: np.ndarray, name: str) -> float:
    """Distance of evenly spaced values, positive; raises ValueError if they are not evenly spaced."""
    steps = np.diff(values)
    mean = float(steps.mean())
    if not np.allclose(steps, mean, rtol=1e-3, atol=0) or mean == 0:
        raise ValueError(f"{name} must be evenly spaced, got steps from {steps.min():.6g} to {steps.max():.6g}")
    return abs(mean)


def _channel_names(image: Any, given: Sequence[str] | None, attributes: dict[str, Any]) -> Sequence[str] | None:
    if given is not None:
        return given
    coords = getattr(image, "coords", {})
    name = next((key for key in ("C", "c") if key in coords and coords[key].dtype.kind in "UO"), None)
    return [str(entry) for entry in np.atleast_1d(coords[name])] if name else attributes.get("channels")


def _emission_of(names: Sequence[str] | None, attributes: dict[str, Any]) -> Sequence[float | None] | None:
    """Wavelengths among the attributes, of the channels that are left after a selection by name."""
    stored, emission_nm = attributes.get("channels"), attributes.get("emission_nm")
    if emission_nm is None or names is None or stored is None or tuple(names) == tuple(stored):
        return emission_nm
    of = dict(zip(stored, emission_nm))
    return [of.get(name) for name in names]


def _sizes(steps: _Steps, dims: str) -> dict[str, Any]:
    y, x = steps.pixel_um or (None, None)
    found: dict[str, Any] = {}
    for axis, step in zip("YXZ", (y, x, steps.z_step_um)):
        if step is not None:
            found |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": _MICRO}
    if steps.time_step_s is not None and "T" in dims:
        found |= {"TimeIncrement": steps.time_step_s, "TimeIncrementUnit": "s"}
    return found


def _channels(
    names: Sequence[str] | None, emission_nm: Sequence[float | None] | None, shape: tuple[int, ...], dims: str
) -> dict[str, Any]:
    n_channels = shape[dims.index("C")] if "C" in dims else 1
    listed: list[dict[str, Any]] = [{} for _ in range(n_channels)]
    for name, entries in {"channels": names, "emission_nm": emission_nm}.items():
        if entries is not None and (isinstance(entries, str) or len(entries) != n_channels):
            raise ValueError(f"{name} must have one entry per channel, {n_channels}, got {entries!r}")
    for channel, name in zip(listed, names or []):
        channel |= {"Name": str(name)} if name else {}
    for channel, wavelength in zip(listed, emission_nm or []):
        channel |= {"EmissionWavelength": float(wavelength), "EmissionWavelengthUnit": "nm"} if wavelength else {}
    return {"Channel": listed} if any(listed) else {}


def _annotation(instrument: dict[str, dict[str, Any]]) -> dict[str, Any]:
    import sciinstruct

    instrument["provenance"].setdefault("sciinstruct", sciinstruct.__version__)
    return {"CommentAnnotation": {"Namespace": NAMESPACE, "Value": json.dumps(json_safe(instrument))}}


def _write(path: Path, pixels: np.ndarray, metadata: dict[str, Any], pixel_um: tuple[float, float] | None) -> None:
    from tifffile import imwrite

    tags: dict[str, Any] = {}
    if pixel_um is not None:  # for readers that know no OME
        tags = {"resolution": (1e4 / pixel_um[1], 1e4 / pixel_um[0]), "resolutionunit": "CENTIMETER"}
    with atomic_path(path) as temporary:
        imwrite(
            temporary,
            pixels,
            ome=True,
            bigtiff=pixels.nbytes > _CLASSIC_BYTES,
            photometric="minisblack",
            compression="zlib",
            compressionargs={"level": 1},  # noise is no smaller at the default level, which takes six times as long
            metadata=metadata,
            **tags,
        )
