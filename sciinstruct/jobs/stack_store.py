"""Where the planes of a stack go: one Zarr store, and beside it a record of the planes that are done."""

import contextlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciinstruct.core import OutputError, SciinstructError, atomic_path

STORE, RECORD = "posterior.zarr", "planes.jsonl"
AXES = ("T", "C", "Z")
_LARGEST_CHUNK = 2048  # pixels on a side: 16 MB, what a viewer still loads at once


@dataclass(frozen=True)
class PlaneRecord:
    """What became of one plane.

    Parameters
    ----------
    plane : tuple of int
        Its index in the file along T, C, Z; 0 for an axis the file does not have.
    reason : str
        Why there is no result; empty if there is one.
    notes : tuple of str
        What to distrust in the result.
    scale, background : float
        Photo-electrons per latent pixel: of a typical foreground, and on average where the specimen is dark.
    seconds : float
        Wall time.
    """

    plane: tuple[int, int, int]
    reason: str = ""
    notes: tuple[str, ...] = ()
    scale: float | None = None
    background: float | None = None
    seconds: float = 0.0


def need_zarr() -> None:
    """Raise SciinstructError, saying what to install, if Zarr or Dask is missing."""
    for module in ("zarr", "dask.array"):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise SciinstructError(
                "a stack's results go into a Zarr store, which needs Zarr and Dask: pip install 'sciinstruct[multi]'"
            ) from error


def create_store(
    store: Path,
    coordinates: Mapping[str, tuple[Any, str]],
    statistics: tuple[str, ...],
    n_samples: int,
    attributes: Mapping[str, str],
) -> None:
    """Make a store of NaN, whole or not at all; `coordinates` of T, C, Z, Y, X are values and unit, 0 samples: none."""
    import xarray
    from dask.array import full

    sizes = {axis: len(values) for axis, (values, _) in coordinates.items()}
    sizes |= {"statistic": len(statistics), "sample": n_samples}

    def empty(*dims: str) -> tuple[tuple[str, ...], Any, dict[str, str]]:
        chunks = tuple(min(sizes[d], _LARGEST_CHUNK) if d in "YX" else 1 for d in dims)
        kind = np.float32 if "Y" in dims else np.float64
        pixels = full(tuple(sizes[d] for d in dims), np.nan, dtype=kind, chunks=chunks)
        return dims, pixels, {"units": "photo-electrons per latent pixel"}

    variables = {"posterior": empty(*AXES, "statistic", "Y", "X"), "scale": empty(*AXES), "background": empty(*AXES)}
    if n_samples:
        variables["samples"] = empty(*AXES, "sample", "Y", "X")
    axes = {axis: (axis, values, {"units": unit}) for axis, (values, unit) in coordinates.items()}
    dataset = xarray.Dataset(variables, {**axes, "statistic": list(statistics)}, dict(attributes))
    temporary = store.with_suffix(".partial")
    with _writing(store):
        shutil.rmtree(temporary, ignore_errors=True)
        dataset.to_zarr(temporary, mode="w", zarr_format=2, consolidated=True, compute=False)
        os.replace(temporary, store)


def write_plane(store: Path, at: tuple[int, int, int], values: Mapping[str, Any]) -> None:
    """Write the results of the plane at one place; planes have chunks of their own, so any process may."""
    import xarray

    names = {"posterior": ("statistic", "Y", "X"), "samples": ("sample", "Y", "X")}
    variables = {
        name: ((*AXES, *names.get(name, ())), np.asarray(array)[None, None, None]) for name, array in values.items()
    }
    region = {axis: slice(i, i + 1) for axis, i in zip(AXES, at)}
    with _writing(store):
        xarray.Dataset(variables).to_zarr(store, mode="r+", region=region)


def append_record(folder: Path, record: PlaneRecord) -> None:
    """Add a line to the record; it is on the disk when this returns."""
    with _writing(folder / RECORD), (folder / RECORD).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(record)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(folder: Path) -> dict[tuple[int, int, int], PlaneRecord]:
    """What became of each plane; a line that a killed run left unfinished is dropped from the file."""
    known = {}
    for line in (folder / RECORD).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            plane, notes = tuple(entry.pop("plane")), tuple(entry.pop("notes"))
            known[plane] = PlaneRecord(plane=plane, notes=notes, **entry)
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text("".join(json.dumps(asdict(one)) + "\n" for one in known.values()), encoding="utf-8")
    return known


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
