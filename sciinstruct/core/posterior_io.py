"""Posterior samples as an xarray dataset, and back from a NetCDF file."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core.errors import FileFormatError
from sciinstruct.core.posterior import Posterior

if TYPE_CHECKING:
    import xarray

QUANTILES = (0.025, 0.05, 0.16, 0.5, 0.84, 0.95, 0.975)
_DIAGNOSTIC = "diagnostic_"
_AXES = {1: ("parameter",), 2: ("y", "x"), 3: ("channel", "y", "x"), 4: ("channel", "z", "y", "x")}


def json_safe(value: Any) -> Any:
    """Turn `value` into what JSON can hold: tensors into lists, NaN and infinities into None, the rest by str."""
    if isinstance(value, Tensor):
        return json_safe(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return json_safe(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): json_safe(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_safe(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def event_axes(event_shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the axes of one event: (channel, y, x) for images, with z for stacks, (parameter,), else axis_0..."""
    return _AXES.get(len(event_shape), tuple(f"axis_{i}" for i in range(len(event_shape))))


def _coordinates(posterior: Posterior, axes: tuple[str, ...]) -> dict[str, Any]:
    event_shape = tuple(posterior.samples.shape[1:])
    unknown = set(posterior.coordinates) - set(axes)
    if unknown:
        raise ValueError(f"coordinates must be named among {axes}, got {sorted(unknown)}")
    found = {}
    for axis, length in zip(axes, event_shape):
        if axis not in posterior.coordinates and axis not in ("x", "y"):
            continue
        values, unit = posterior.coordinates.get(axis, (np.arange(length), "pixel"))
        values = np.asarray(values)
        if values.shape != (length,):
            raise ValueError(f"coordinate {axis!r} must have {length} values, one per pixel, got shape {values.shape}")
        found[axis] = (axis, values, {"units": unit})
    return found


def to_dataset(posterior: Posterior) -> "xarray.Dataset":
    """Samples, mean, sd and quantiles with coordinates and units.

    Parameters
    ----------
    posterior : Posterior
        Images ``(sample, channel, y, x)`` or ``(sample, y, x)``; vectors get the axis ``parameter``.

    Returns
    -------
    xarray.Dataset
        Variables ``samples``, ``mean``, ``sd``, ``quantiles`` (levels `QUANTILES`), one ``diagnostic_<name>`` for every
        tensor among the diagnostics, and ``provenance``: a JSON text with all attributes and the remaining diagnostics.
        Attributes that are plain numbers or short texts are also in ``attrs``.

    Raises
    ------
    ValueError
        If a coordinate is of another length than its axis, or belongs to no axis.
    """
    import xarray

    values = posterior.samples.detach().cpu().numpy()
    axes = event_axes(values.shape[1:])
    unit = {"units": str(posterior.attributes.get("unit", ""))}
    coordinates = _coordinates(posterior, axes)
    data: dict[str, Any] = {
        "samples": (("sample", *axes), values, unit),
        "mean": (axes, values.mean(0), unit),
        "sd": (axes, posterior.std.detach().cpu().numpy(), unit),
        "quantiles": (("quantile", *axes), np.quantile(values, QUANTILES, axis=0).astype(values.dtype), unit),
    }
    plain = {}
    for name, entry in posterior.diagnostics.items():
        if isinstance(entry, Tensor):
            dims = tuple(f"{name}_{i}" for i in range(entry.ndim))
            data[_DIAGNOSTIC + name] = (dims, entry.detach().cpu().numpy())
        else:
            plain[name] = json_safe(entry)
    provenance = {"attributes": json_safe(posterior.attributes), "diagnostics": plain}
    data["provenance"] = ((), json.dumps(provenance), {"comment": "JSON: attributes and diagnostics of the run"})
    coordinates["quantile"] = ("quantile", np.array(QUANTILES))
    attrs = {"title": "posterior samples", "source": "sciinstruct", **_readable(posterior.attributes)}
    return xarray.Dataset(data, coordinates, attrs)


def _readable(attributes: Mapping[str, Any]) -> dict[str, str | int | float]:
    """The attributes a NetCDF header shows well; HDF5 allows 64 kB for all of them together."""
    return {
        str(name): entry
        for name, entry in attributes.items()
        if isinstance(entry, int | float) and not isinstance(entry, bool) or isinstance(entry, str) and len(entry) < 500
    }


def from_dataset(dataset: "xarray.Dataset") -> Posterior:
    """Inverse of `to_dataset`.

    Raises
    ------
    FileFormatError
        If the dataset lacks the samples or their provenance, or these are damaged.
    """
    missing = {"samples", "provenance"} - set(dataset.variables)
    if missing:
        raise FileFormatError(f"not a posterior file of sciinstruct: {', '.join(sorted(missing))} missing")
    samples = dataset["samples"]
    try:
        provenance = json.loads(str(dataset["provenance"].values))
        diagnostics = dict(provenance["diagnostics"])
        for name in dataset.data_vars:
            if str(name).startswith(_DIAGNOSTIC):
                diagnostics[str(name)[len(_DIAGNOSTIC) :]] = torch.as_tensor(np.array(dataset[name].values))
        coordinates = {
            str(axis): (dataset[axis].values, str(dataset[axis].attrs.get("units", "")))
            for axis in samples.dims[1:]
            if axis in dataset.coords
        }
        return Posterior(torch.as_tensor(np.array(samples.values)), coordinates, provenance["attributes"], diagnostics)
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"damaged posterior file: {error}") from error


def read_netcdf(path: str | os.PathLike[str]) -> Posterior:
    """Read what `Posterior.to_netcdf` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If it is truncated, no NetCDF file, or not one of ours.
    """
    import xarray

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {os.fspath(path)}")
    try:
        with xarray.open_dataset(path, engine="h5netcdf") as dataset:
            return from_dataset(dataset.load())
    except FileFormatError as error:
        raise FileFormatError(f"{os.fspath(path)}: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FileFormatError(f"{os.fspath(path)} is not a readable NetCDF-4 file: {error}") from error
