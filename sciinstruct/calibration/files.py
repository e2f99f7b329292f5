"""Samples and truths that somebody else made, from files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sciinstruct.calibration.chains import is_arviz
from sciinstruct.core import FileFormatError

_KINDS = ".npz, .npy, .nc, or a folder of .nc files with one observation each"


def read_events(samples: str | os.PathLike[str], truth: str | os.PathLike[str] | None = None) -> tuple[Any, Any]:
    """Read what `sciinstruct.calibration.calibrate` takes.

    Parameters
    ----------
    samples : path
        ``.npz`` with an array ``samples`` (N, S, ...), ``.npy`` with that array, ``.nc`` with a variable ``samples`` or
        with arviz's group ``posterior`` (dims chain, draw, observation, ...), or a folder of ``.nc`` files, one per
        observation in the order of their names: arviz objects, or what ``Posterior.to_netcdf`` wrote.
    truth : path, optional
        ``.npz`` with ``truth``, ``.npy``, or ``.nc`` with a variable ``truth``; (N, ...). May be left out where
        `samples` holds it.

    Returns
    -------
    tuple
        Samples and truth: arrays, labelled arrays, or a list of arviz objects.

    Raises
    ------
    FileFormatError
        If a file is missing, unreadable, or lacks what it should hold.
    """
    source = Path(samples)
    found = _folder(source) if source.is_dir() else _variable(source, "samples")
    if truth is not None:
        return found, _variable(Path(truth), "truth")
    if source.suffix in (".npz", ".nc"):
        return found, _variable(source, "truth")
    raise FileFormatError(f"{source} holds no truths; name the file that does")


def _variable(path: Path, name: str) -> Any:
    if not path.is_file():
        raise FileFormatError(f"no such file: {path}; expected {_KINDS}")
    readers = {".npy": _npy, ".npz": _npz, ".nc": _netcdf}
    if path.suffix not in readers:
        raise FileFormatError(f"cannot read {path}: expected {_KINDS}")
    try:
        return readers[path.suffix](path, name)
    except FileFormatError:
        raise
    except (OSError, ValueError, EOFError, KeyError) as error:
        if "pickle" in str(error):  # numpy's advice would be to load it unsafely
            raise FileFormatError(f"cannot read {path}: it is damaged, or holds Python objects, not numbers") from error
        raise FileFormatError(f"cannot read {path}: {error}") from error


def _npy(path: Path, _: str) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _npz(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if name not in archive:
            raise FileFormatError(f"{path} has no array {name!r}; it has {', '.join(archive.files) or 'none'}")
        return archive[name]


def _netcdf(path: Path, name: str) -> Any:
    import xarray

    groups = _groups(path)
    if name == "samples" and "posterior" in groups:
        return xarray.load_dataset(path, group="posterior", engine="h5netcdf")
    with xarray.open_dataset(path, engine="h5netcdf") as dataset:
        if name not in dataset:
            held = ", ".join(map(str, dataset.data_vars)) or "none"
            raise FileFormatError(f"{path} has no variable {name!r}; it has {held}")
        return dataset[name].load()


def _groups(path: Path) -> Sequence[str]:
    import h5netcdf

    with h5netcdf.File(path, "r") as file:
        return list(file.groups)


def _folder(folder: Path) -> Any:
    """One observation per file: chains as they are, independent samples side by side."""
    paths = sorted(folder.glob("*.nc"))
    if not paths:
        raise FileFormatError(f"{folder} holds no .nc files; expected {_KINDS}")
    found = [_variable(path, "samples") for path in paths]
    if all(is_arviz(one) for one in found):
        return found
    shapes = {one.shape for one in found}
    if len(shapes) > 1:
        raise FileFormatError(f"the files of {folder} hold samples of different shapes: {sorted(map(str, shapes))}")
    return np.stack([one.values for one in found])
