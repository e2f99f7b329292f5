"""The contents of a UVFITS file in one fixed layout, or one clear error.

Format: AIPS Memo 117 (Greisen 2020).
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinstruct.core.errors import FileFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEEDED = "a UVFITS file has random groups with visibilities and an AIPS AN antenna table"


@dataclass(frozen=True)
class UvfitsFile:
    """Contents of a UVFITS file, all in memory.

    Parameters
    ----------
    path : Path
        Where it came from, for error messages.
    header : astropy.io.fits.Header
        Primary header.
    data : array, shape (rows, IFs, channels, stokes, 3)
        Real part, imaginary part and weight.
    parameters : dict of str to list of array
        Random parameters, scaled, by name without projection suffix (``UU---SIN`` is ``UU``); repeated ones in order.
    tables : dict of str to list
        Extension tables by name.
    """

    path: Path
    header: Any
    data: "NDArray[np.float64]"
    parameters: dict[str, list["NDArray[np.float64]"]]
    tables: dict[str, list[Any]]

    def error(self, text: str) -> FileFormatError:
        """Build the error that names this file."""
        return FileFormatError(f"{self.path}: {text}")

    def parameter(self, name: str) -> "NDArray[np.float64]":
        """Values of a random parameter, shape (rows,); repeated ones are summed."""
        if name not in self.parameters:
            raise self.error(f"random parameter {name} is missing, the file has {', '.join(self.parameters)}")
        return np.sum(self.parameters[name], axis=0)

    def column(self, table: str, name: str) -> "NDArray[Any]":
        """Column of the first extension table of that name."""
        hdu = self.tables[table][0]
        if name not in hdu.columns.names:
            raise self.error(f"the {table} table has no column {name}, only {', '.join(hdu.columns.names)}")
        return np.asarray(hdu.data[name])

    def axis(self, kind: str) -> "NDArray[np.float64]":
        """Coordinate values along the axis `kind` (STOKES, FREQ, RA, DEC)."""
        k = self._axis_number(kind)
        pixel = np.arange(1, self.header[f"NAXIS{k}"] + 1) - self.header.get(f"CRPIX{k}", 1.0)
        return self.header[f"CRVAL{k}"] + pixel * self.step(kind)

    def step(self, kind: str) -> float:
        """Coordinate step along the axis `kind`."""
        return float(self.header.get(f"CDELT{self._axis_number(kind)}", 1.0))

    def _axis_number(self, kind: str) -> int:
        for k in range(2, self.header["NAXIS"] + 1):
            if _axis_kind(self.header, k) == kind:
                return k
        raise self.error(f"there is no {kind} axis; {_NEEDED}")


def open_uvfits(path: Path) -> UvfitsFile:
    """Load a whole UVFITS file.

    Raises
    ------
    FileFormatError
        If it is empty, truncated, damaged, not FITS, FITS without random groups, or has zero rows.
    OSError
        If it cannot be opened at all.
    """
    from astropy.io import fits

    _check_magic(path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with fits.open(path, memmap=False, lazy_load_hdus=False) as hdus:
                if any("truncated" in str(w.message) for w in caught):
                    raise FileFormatError(f"{path}: the file is truncated; fetch it again and compare its size")
                if not isinstance(hdus[0], fits.GroupsHDU):
                    raise FileFormatError(f"{path}: a FITS file, but its first block is not uv data; {_NEEDED}")
                if not hdus[0].header.get("GCOUNT"):
                    raise FileFormatError(f"{path}: the file has zero rows of visibilities; there is nothing to image")
                return _load(path, hdus)
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file can fail anywhere inside the FITS reader
        reason = " ".join(str(error).split())
        raise FileFormatError(f"{path}: the file is damaged or truncated ({reason}); fetch it again") from error


def _check_magic(path: Path) -> None:
    with open(path, "rb") as handle:
        magic = handle.read(6)
    if not magic:
        raise FileFormatError(f"{path}: the file is empty; fetch it again")
    if magic != b"SIMPLE" and magic[:2] != b"\x1f\x8b":  # the second starts gzip files, which astropy reads
        raise FileFormatError(f"{path}: this is not a FITS file; {_NEEDED}")


def _load(path: Path, hdus: Any) -> UvfitsFile:
    header, groups = hdus[0].header.copy(), hdus[0].data
    parameters: dict[str, list[NDArray[np.float64]]] = {}
    for k in range(header["PCOUNT"]):
        name = header[f"PTYPE{k + 1}"].strip().lstrip("_").split("-")[0]  # astropy may call a repeated DATE _DATE
        parameters.setdefault(name, []).append(np.asarray(groups.field(k), dtype=np.float64))
    tables: dict[str, list[Any]] = {}
    for hdu in hdus[1:]:
        hdu.data  # noqa: B018  read now: the file is closed afterwards
        tables.setdefault(hdu.name.strip(), []).append(hdu)
    return UvfitsFile(path, header, _in_fixed_order(path, header, groups["DATA"]), parameters, tables)


def _axis_kind(header: Any, k: int) -> str:
    """Name of an axis; the IF axis comes without one in the EHT files."""
    return str(header.get(f"CTYPE{k}", "")).strip() or "IF"


def _in_fixed_order(path: Path, header: Any, data: "NDArray[Any]") -> "NDArray[np.float64]":
    """Reorder to (rows, IF, FREQ, STOKES, COMPLEX); the other axes must have length one."""
    last = header["NAXIS"]
    place = {_axis_kind(header, k): 1 + last - k for k in range(last, 1, -1)}  # FITS counts axes from the other end
    missing = [kind for kind in ("COMPLEX", "STOKES", "FREQ") if kind not in place]
    if missing or data.shape[place["COMPLEX"]] != 3:
        raise FileFormatError(f"{path}: the visibilities need axes COMPLEX (3 long), STOKES, FREQ; got {list(place)}")
    kept = [place[kind] for kind in ("IF", "FREQ", "STOKES", "COMPLEX") if kind in place]
    rest = [k for k in range(1, data.ndim) if k not in kept]
    if any(data.shape[k] != 1 for k in rest):
        raise FileFormatError(f"{path}: more than one sky position or an unknown axis, {data.shape}; split the file")
    ordered = data.transpose(0, *rest, *kept).reshape(len(data), *(data.shape[k] for k in kept))
    return np.ascontiguousarray(ordered if "IF" in place else ordered[:, None], dtype=np.float64)
