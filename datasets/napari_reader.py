"""What napari calls to open a microscope image; `napari.yaml` names it. Nothing here needs napari."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sciinstruct.datasets.microscopy_files import read_microscopy

if TYPE_CHECKING:
    import xarray

LayerData = tuple[Any, dict[str, Any], str]


def get_reader(path: str | os.PathLike[str] | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """Give the reader for one TIFF file; None for anything else, as napari expects."""
    if isinstance(path, list) or not str(path).lower().endswith((".tif", ".tiff")):
        return None
    return read_layers


def read_layers(path: str | os.PathLike[str]) -> list[LayerData]:
    """Read one image layer per channel: (array, options, ``"image"``).

    Parameters
    ----------
    path : path
        What `read_microscopy` reads.

    Returns
    -------
    list of tuple
        Options are ``name``, ``metadata`` (attributes of the image) and, where the file gives the size of every axis in
        space, ``scale`` and ``units``. Summaries of a posterior open as layers ``mean``, ``sd``, ``q05``...

    Raises
    ------
    FileFormatError
        As `read_microscopy` does.
    """
    image = read_microscopy(path)
    options = {"metadata": dict(image.attrs), **_scale(image)}
    if "C" not in image.dims:
        return [(image.values, {"name": image.name, **options}, "image")]
    names = image.attrs["channels"] or ("",) * image.sizes["C"]
    return [
        (image.isel(C=c).values, {"name": name or f"{image.name} channel {c}", **options}, "image")
        for c, name in enumerate(names)
    ]


def _scale(image: "xarray.DataArray") -> dict[str, tuple[Any, ...]]:
    y, x = image.attrs["pixel_um"] or (None, None)
    steps = {"T": image.attrs["time_step_s"], "Z": image.attrs["z_step_um"], "Y": y, "X": x}
    axes = [str(axis) for axis in image.dims if axis != "C"]
    if any(steps[axis] is None for axis in axes if axis != "T"):
        return {}
    time = "second" if steps["T"] is not None else "pixel"  # napari's name for a bare index
    return {
        "scale": tuple(steps[axis] if steps[axis] is not None else 1.0 for axis in axes),
        "units": tuple(time if axis == "T" else "um" for axis in axes),
    }
