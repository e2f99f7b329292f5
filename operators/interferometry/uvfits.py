"""Read UVFITS files (random groups) into observations of Stokes I.

Format: AIPS Memo 117 (Greisen 2020); the EHT releases' dialect has one channel, one IF and u, v scaled to seconds.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinstruct.core.errors import FileFormatError
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.preparation import scans_by_gaps
from sciinstruct.operators.interferometry.stokes import stokes_i

if TYPE_CHECKING:
    from numpy.typing import NDArray

MJD_ZERO = 2400000.5
_NOT_UVFITS = "the reader needs a UVFITS file: random groups with visibilities and an AIPS AN antenna table"
_LONGEST_SECONDS = 10.0  # light-seconds; beyond any baseline, so larger numbers are wavelengths


def read_uvfits(
    path: str | os.PathLike[str], single_pol: str = "keep", channels: tuple[int, ...] | None = None
) -> Observation:
    """Read the Stokes I visibilities of a UVFITS file.

    Parameters
    ----------
    path : path
        The file; ``.gz`` is read too.
    single_pol : {'keep', 'drop'}
        What to do where only one parallel hand (RR or LL, XX or YY) is unflagged: use it alone as Stokes I, or drop
        the visibility.
    channels : tuple of int, optional
        Frequency channels to average, counted through all IFs (IF by IF) from 0; all by default.

    Returns
    -------
    Observation
        Unflagged cross-correlations in the file's order. Channels are averaged with inverse-variance weights; u and v
        are those of the weighted mean frequency. Scans come from the ``AIPS NX`` table, else from pauses in time.

    Raises
    ------
    FileFormatError
        If the file is truncated, foreign, lacks the antenna table, or has no unflagged visibility. One line that
        names the file and the way out.
    FileNotFoundError
        If there is no such file.
    """
    if single_pol not in ("keep", "drop"):
        raise ValueError(f"single_pol must be 'keep' or 'drop', got {single_pol!r}")
    file = _open(Path(path))
    stations = _stations(file)
    values, weights, notes = stokes_i(file, single_pol)
    frequencies, widths = _channels(file)
    chosen = _choose(channels, len(frequencies))
    values, weights, frequencies = values[:, chosen], weights[:, chosen], frequencies[chosen]
    first, second = _baselines(file, stations)
    weight = weights.sum(1)
    good = (weight > 0) & (first != second)
    if not good.any():
        raise FileFormatError(
            f"{path}: all {len(good)} visibilities are flagged (weight <= 0 or NaN), autocorrelations, or dropped by "
            f"single_pol={single_pol!r}; nothing to image"
        )
    values, weights, weight = values[good], weights[good], weight[good]
    mjd, time = _times(file, good)
    seconds = _finite(file, good, ("UU", "VV"))
    mean_frequency = (weights @ frequencies) / weight
    u, v = seconds * mean_frequency
    scan, scan_note = _scans(file, mjd, time)
    header = file.header
    history = (f"read {Path(path).name}: {int(good.sum())} of {len(good)} rows unflagged", *notes, scan_note)
    frequency = float(frequencies.mean())
    used, station1, station2 = _drop_unused(first[good], second[good])
    return Observation(
        **_tensors(u=u, v=v, vis=(weights * values).sum(1) / weight, sigma=weight**-0.5, time=time, scan=scan),
        **_tensors(station1=station1, station2=station2, integration=_integration(file, good)),
        stations=tuple(stations.names[i] for i in used),
        positions=torch.from_numpy(stations.positions[used]),
        ra=_source_coordinate(file, "OBSRA", "RA"),
        dec=_source_coordinate(file, "OBSDEC", "DEC"),
        frequency=frequency,
        bandwidth=float(widths[chosen].sum()),
        mjd=mjd,
        source=str(header.get("OBJECT", "unknown")).strip() or "unknown",
        band=f"{frequency / 1e9:.3f} GHz",
        history=history,
    )


def read_uvfits_bands(path: str | os.PathLike[str], single_pol: str = "keep") -> tuple[Observation, ...]:
    """Read one observation per IF (band) of a UVFITS file, so that bands are never mixed inside a closure.

    Parameters and errors are those of `read_uvfits`; channels are averaged within each IF. IFs without any unflagged
    visibility raise FileFormatError.
    """
    file = _open(Path(path))
    n_if, n_channel = file.data.shape[1:3]
    blocks = [tuple(range(i * n_channel, (i + 1) * n_channel)) for i in range(n_if)]
    return tuple(read_uvfits(path, single_pol, block) for block in blocks)


@dataclass(frozen=True)
class UvfitsFile:
    """Contents of a UVFITS file in fixed axis order, everything in memory and in native byte order.

    data : array, shape (rows, IFs, channels, stokes, 3)
        Real part, imaginary part and weight.
    """

    path: Path
    header: Any
    data: "NDArray[np.float64]"
    parameters: dict[str, list["NDArray[np.float64]"]]
    tables: dict[str, list[Any]]

    def error(self, text: str) -> FileFormatError:
        """Build the error that names this file."""
        return FileFormatError(f"{self.path}: {text}")

    def parameter(self, *names: str) -> "NDArray[np.float64]":
        """Random parameter of the first of `names` present, scaled; repeated ones are summed (AIPS Memo 117)."""
        for name in names:
            if name in self.parameters:
                return np.sum(self.parameters[name], axis=0)
        raise self.error(f"random parameter {names[0]} is missing, the file has {', '.join(self.parameters)}")

    def axis(self, kind: str) -> "NDArray[np.float64]":
        """Coordinate values of the image axis `kind` (STOKES, FREQ)."""
        for k in range(2, self.header["NAXIS"] + 1):
            if str(self.header.get(f"CTYPE{k}", "")).strip() == kind:
                index = np.arange(1, self.header[f"NAXIS{k}"] + 1)
                step, pixel = self.header.get(f"CDELT{k}", 1.0), self.header.get(f"CRPIX{k}", 1.0)
                return self.header[f"CRVAL{k}"] + (index - pixel) * step
        raise self.error(f"there is no {kind} axis; {_NOT_UVFITS}")


@dataclass(frozen=True)
class _Stations:
    names: tuple[str, ...]
    numbers: "NDArray[np.int64]"
    positions: "NDArray[np.float64]"


def _open(path: Path) -> UvfitsFile:
    """Load the whole file, turning everything that can be wrong with it into one FileFormatError."""
    from astropy.io import fits

    with open(path, "rb") as handle:  # missing files and folders raise the usual OSError here
        magic = handle.read(6)
    if not magic:
        raise FileFormatError(f"{path}: the file is empty; fetch it again")
    if magic != b"SIMPLE" and magic[:2] != b"\x1f\x8b":
        raise FileFormatError(f"{path}: this is not a FITS file; {_NOT_UVFITS}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with fits.open(path, memmap=False, lazy_load_hdus=False) as hdus:
                if not isinstance(hdus[0], fits.GroupsHDU):
                    raise FileFormatError(f"{path}: no random groups, the first block is not uv data; {_NOT_UVFITS}")
                if not hdus[0].header.get("GCOUNT"):
                    raise FileFormatError(f"{path}: the file has zero rows of visibilities; nothing to image")
                truncated = any("truncated" in str(w.message) for w in caught)
                if truncated:
                    raise FileFormatError(f"{path}: the file is truncated; fetch it again and compare its size")
                return _load(path, hdus)
    except FileFormatError:
        raise
    except (OSError, EOFError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise FileFormatError(f"{path}: damaged or truncated ({reason}); fetch it again, {_NOT_UVFITS}") from error


def _load(path: Path, hdus: Any) -> UvfitsFile:
    header, groups = hdus[0].header, hdus[0].data
    parameters: dict[str, list[NDArray[np.float64]]] = {}
    for k in range(1, header["PCOUNT"] + 1):
        raw = np.asarray(groups.field(k - 1), dtype=np.float64)  # scaled by PSCAL, PZERO
        parameters.setdefault(_parameter_name(header[f"PTYPE{k}"]), []).append(raw)
    tables: dict[str, list[Any]] = {}
    for hdu in hdus[1:]:
        hdu.data  # noqa: B018  read now, the file is closed afterwards
        tables.setdefault(hdu.name.strip(), []).append(hdu)
    return UvfitsFile(path, header.copy(), _axes_in_order(path, header, groups["DATA"]), parameters, tables)


def _parameter_name(name: str) -> str:
    """Projection suffixes differ between writers: UU---SIN, UU--, UU."""
    return name.strip().split("-")[0]


def _axes_in_order(path: Path, header: Any, data: "NDArray[Any]") -> "NDArray[np.float64]":
    """Reorder to (rows, IF, FREQ, STOKES, COMPLEX); other axes must have length one."""
    last = header["NAXIS"]
    place = {str(header.get(f"CTYPE{k}", "IF")).strip() or "IF": 1 + last - k for k in range(2, last + 1)}
    missing = [kind for kind in ("COMPLEX", "STOKES", "FREQ") if kind not in place]
    if missing or data.shape[place["COMPLEX"]] != 3:
        raise FileFormatError(f"{path}: needs axes COMPLEX (of 3), STOKES and FREQ, has {', '.join(place)}")
    kept = [place[kind] for kind in ("IF", "FREQ", "STOKES", "COMPLEX") if kind in place]
    rest = [k for k in range(1, data.ndim) if k not in kept]
    if any(data.shape[k] != 1 for k in rest):
        raise FileFormatError(f"{path}: has more than one position or unknown axis {data.shape}; split the sources")
    out = data.transpose(0, *rest, *kept).reshape(len(data), *(data.shape[k] for k in kept))
    return np.ascontiguousarray(out if "IF" in place else out[:, None], dtype=np.float64)


def _stations(file: UvfitsFile) -> _Stations:
    tables = file.tables.get("AIPS AN", [])
    if not tables:
        raise file.error("there is no AIPS AN antenna table; export the data again with its antenna table")
    if len(tables) > 1:
        raise file.error(f"has {len(tables)} subarrays (AIPS AN tables); split them into files of one subarray each")
    header, rows = tables[0].header, tables[0].data
    offset = [float(header.get(f"ARRAY{axis}") or 0.0) for axis in "XYZ"]
    positions = np.asarray(rows["STABXYZ"], dtype=np.float64).reshape(-1, 3)
    if str(header.get("XYZHAND", "RIGHT")).strip() == "LEFT":
        positions = positions * [1, -1, 1]
    names = tuple(str(name).strip() for name in rows["ANNAME"])
    return _Stations(names, np.asarray(rows["NOSTA"], dtype=np.int64), positions + offset)


def _baselines(file: UvfitsFile, stations: _Stations) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
    """Station indices from 256 a + b (or 2048 a + b + 65536); the fraction is the subarray."""
    code = np.floor(file.parameter("BASELINE")).astype(np.int64)
    large = code > 65536
    first = np.where(large, (code - 65536) // 2048, code // 256)
    second = np.where(large, (code - 65536) % 2048, code % 256)
    lookup = {int(number): i for i, number in enumerate(stations.numbers)}
    unknown = sorted({int(x) for x in np.union1d(first, second)} - set(lookup))
    if unknown:
        raise file.error(f"stations {unknown} have visibilities but no row in the AIPS AN table (NOSTA)")
    index = np.array([lookup.get(i, -1) for i in range(max(lookup) + 1)])
    return index[first], index[second]


def _drop_unused(first: "NDArray[np.int64]", second: "NDArray[np.int64]") -> tuple[Any, Any, Any]:
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    return used, inverse[: len(first)], inverse[len(first) :]


def _channels(file: UvfitsFile) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """Frequency and width in Hz of every channel, IF by IF."""
    _one_value(file, "FREQSEL", "frequency setups")
    _one_value(file, "SOURCE", "sources")
    axis = file.axis("FREQ")
    n_if = file.data.shape[1]
    step = abs(float(axis[1] - axis[0])) if len(axis) > 1 else 0.0
    offsets, widths = np.zeros(n_if), np.full(n_if, step or _single_width(file))
    if file.tables.get("AIPS FQ"):
        row = file.tables["AIPS FQ"][0].data[0]
        offsets = np.atleast_1d(row["IF FREQ"]).astype(np.float64)
        widths = np.abs(np.atleast_1d(row["CH WIDTH"]).astype(np.float64))
    elif n_if > 1:
        raise file.error(f"has {n_if} IFs but no AIPS FQ table with their frequencies")
    frequencies = (offsets[:, None] + axis).ravel()
    if len(offsets) != n_if or not (frequencies > 0).all():
        raise file.error(f"the frequencies of its {n_if} IFs cannot be read from the AIPS FQ table and FREQ axis")
    return frequencies, np.repeat(widths, len(axis))


def _single_width(file: UvfitsFile) -> float:
    kinds = {str(file.header.get(f"CTYPE{k}", "")).strip(): k for k in range(2, file.header["NAXIS"] + 1)}
    return abs(float(file.header.get(f"CDELT{kinds['FREQ']}", 0.0)))


def _one_value(file: UvfitsFile, name: str, what: str) -> None:
    if name in file.parameters and len(np.unique(file.parameter(name))) > 1:
        raise file.error(f"holds several {what} (random parameter {name}); split it into one file each")


def _choose(channels: tuple[int, ...] | None, n: int) -> list[int]:
    if channels is None:
        return list(range(n))
    if not channels or any(not 0 <= c < n for c in channels) or len(set(channels)) < len(channels):
        raise ValueError(f"channels must be distinct numbers from 0 to {n - 1}, got {tuple(channels)}")
    return list(channels)


def _times(file: UvfitsFile, good: "NDArray[np.bool_]") -> tuple[float, "NDArray[np.float64]"]:
    """MJD of the first day and hours since its 0h."""
    dates = file.parameters.get("DATE") or [file.parameter("DATE")]
    # the large part first, so that the day fraction keeps its precision
    mjd = sum((date[good] for date in dates[1:]), start=dates[0][good] - MJD_ZERO)
    if not np.isfinite(mjd).all() or mjd.min() < 0:
        raise file.error("random parameter DATE is not a Julian date (NaN or before 1858)")
    day = float(np.floor(mjd.min()))
    return day, 24 * (mjd - day)


def _finite(file: UvfitsFile, good: "NDArray[np.bool_]", names: tuple[str, ...]) -> "NDArray[np.float64]":
    values = np.stack([file.parameter(name)[good] for name in names])
    if not np.isfinite(values).all():
        raise file.error(f"{' or '.join(names)} is NaN or infinite in unflagged rows")
    if np.abs(values).max() > _LONGEST_SECONDS:
        raise file.error("u, v are not in light-seconds after scaling: set PSCAL of UU and VV to 1/frequency")
    return values


def _integration(file: UvfitsFile, good: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    if "INTTIM" not in file.parameters:
        return np.zeros(int(good.sum()))
    return np.nan_to_num(file.parameter("INTTIM")[good], nan=0.0, posinf=0.0)


def _scans(file: UvfitsFile, day: float, time: "NDArray[np.float64]") -> tuple["NDArray[np.int64]", str]:
    """Scan numbers from the AIPS NX table where it fits the data, else from pauses in time."""
    by_gaps = scans_by_gaps(torch.from_numpy(time)).numpy()
    if not file.tables.get("AIPS NX"):
        return by_gaps, f"{by_gaps.max() + 1} scans from pauses in time"
    rows = file.tables["AIPS NX"][0].data
    centre = np.asarray(rows["TIME"], dtype=np.float64) * 24 + 24 * (_reference_day(file, day) - day)
    half = np.asarray(rows["TIME INTERVAL"], dtype=np.float64) * 12
    outside = np.abs(time[:, None] - centre) - half
    if outside.min(1).max() > 1 / 60:
        return by_gaps, f"{by_gaps.max() + 1} scans from pauses in time (the AIPS NX table does not cover the data)"
    scan = np.unique(outside.argmin(1), return_inverse=True)[1]
    return scan, f"{scan.max() + 1} scans from the AIPS NX table"


def _reference_day(file: UvfitsFile, day: float) -> float:
    """MJD that the times of the NX table count from: RDATE of the antenna table."""
    from astropy.time import Time

    date = str(file.tables["AIPS AN"][0].header.get("RDATE", "")).strip()
    return float(Time(date, scale="utc").mjd) if date else day


def _source_coordinate(file: UvfitsFile, keyword: str, axis: str) -> float:
    return float(file.header[keyword]) if keyword in file.header else float(file.axis(axis)[0])


def _tensors(**arrays: "NDArray[Any]") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
