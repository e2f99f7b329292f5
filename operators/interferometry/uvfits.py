"""Read UVFITS files into observations of Stokes I.

The EHT releases have one channel, one IF, and u, v scaled to light-seconds.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.preparation import scans_by_gaps
from sciinstruct.operators.interferometry.stokes import stokes_i
from sciinstruct.operators.interferometry.uvfits_file import UvfitsFile, open_uvfits

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MJD_ZERO = 2400000.5
_LONGEST_SECONDS = 10.0  # longer than any baseline, ground or space: numbers beyond it are no light-seconds


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
        Frequency channels to average, counted from 0 through the channels of the first IF, then the second and so on;
        all by default.

    Returns
    -------
    Observation
        Unflagged cross-correlations in the file's order. Channels are averaged with inverse-variance weights; u and v
        are those of the weighted mean frequency. Scans come from the ``AIPS NX`` table, else from pauses in time.

    Raises
    ------
    FileFormatError
        If the file is truncated, foreign, lacks the antenna table, or has no unflagged visibility: one line that names
        the file and the way out.
    FileNotFoundError
        If there is no such file.
    """
    if single_pol not in ("keep", "drop"):
        raise ValueError(f"single_pol must be 'keep' or 'drop', got {single_pol!r}")
    return _observation(open_uvfits(Path(path)), single_pol, channels)


def read_uvfits_bands(path: str | os.PathLike[str], single_pol: str = "keep") -> tuple[Observation, ...]:
    """Read one observation per IF (band) of a UVFITS file, so that bands are never mixed inside a closure.

    Arguments and errors are those of `read_uvfits`; the channels of each IF are averaged. An IF without any unflagged
    visibility raises FileFormatError.
    """
    file = open_uvfits(Path(path))
    n_if, n = file.data.shape[1:3]
    return tuple(_observation(file, single_pol, tuple(range(i * n, i * n + n))) for i in range(n_if))


@dataclass(frozen=True)
class _Stations:
    names: tuple[str, ...]
    numbers: "NDArray[np.int64]"
    positions: "NDArray[np.float64]"


def _observation(file: UvfitsFile, single_pol: str, channels: tuple[int, ...] | None) -> Observation:
    stations = _stations(file)
    first, second = _baselines(file, stations)
    values, weights, notes = stokes_i(file, single_pol)
    frequencies, widths = _channels(file)
    chosen = _choose(channels, len(frequencies))
    weights = weights[:, chosen] * (first != second)[:, None]
    good = weights.sum(1) > 0
    if not good.any():
        raise file.error(
            f"all {len(good)} visibilities are flagged (weight not positive or NaN), autocorrelations, or dropped by "
            f"single_pol={single_pol!r}; there is nothing to image"
        )
    values, weights = values[good][:, chosen], weights[good]
    total = weights.sum(1)
    u, v = _light_seconds(file, good) * ((weights @ frequencies[chosen]) / total)
    mjd, time = _times(file, good)
    scan, scan_note = _scans(file, mjd, time)
    used, ends = np.unique(np.stack([first[good], second[good]]), return_inverse=True)
    station1, station2 = ends.reshape(2, -1)
    frequency = float(frequencies[chosen].mean())
    return Observation(
        **_tensors(u=u, v=v, vis=(weights * values).sum(1) / total, sigma=total**-0.5, time=time, scan=scan),
        **_tensors(station1=station1, station2=station2, integration=_integration(file, good)),
        **_tensors(positions=stations.positions[used]),
        stations=tuple(stations.names[i] for i in used),
        ra=_source_coordinate(file, "OBSRA", "RA"),
        dec=_source_coordinate(file, "OBSDEC", "DEC"),
        frequency=frequency,
        bandwidth=float(widths[chosen].sum()),
        mjd=mjd,
        source=str(file.header.get("OBJECT", "")).strip() or "unknown",
        band=f"{frequency / 1e9:.3f} GHz",
        history=(f"read {file.path.name}: {good.sum()} of {len(good)} rows unflagged", *notes, scan_note),
    )


def _stations(file: UvfitsFile) -> _Stations:
    tables = file.tables.get("AIPS AN", [])
    if not tables:
        raise file.error("there is no AIPS AN antenna table; export the data again with its antenna table")
    if len(tables) > 1:
        raise file.error(f"has {len(tables)} subarrays (AIPS AN tables); split it into one file per subarray")
    header = tables[0].header
    offset = [float(header.get(f"ARRAY{axis}") or 0.0) for axis in "XYZ"]
    positions = file.column("AIPS AN", "STABXYZ").astype(np.float64).reshape(-1, 3)
    if str(header.get("XYZHAND", "RIGHT")).strip() == "LEFT":
        positions = positions * [1, -1, 1]
    names = tuple(str(name).strip() for name in file.column("AIPS AN", "ANNAME"))
    return _Stations(names, file.column("AIPS AN", "NOSTA").astype(np.int64), positions + offset)


def _baselines(file: UvfitsFile, stations: _Stations) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
    """Station indices from BASELINE = 256 a + b, or 2048 a + b + 65536; a fraction tells the subarray."""
    code = np.floor(file.parameter("BASELINE")).astype(np.int64)
    first, second = np.where(code > 65536, np.divmod(code - 65536, 2048), np.divmod(code, 256))
    unknown = np.setdiff1d([first, second], stations.numbers)
    if len(unknown):
        raise file.error(f"stations {unknown.tolist()} have visibilities but no row in the AIPS AN table (NOSTA)")
    order = np.argsort(stations.numbers)
    rank = np.searchsorted(stations.numbers[order], [first, second])
    return order[rank[0]], order[rank[1]]


def _channels(file: UvfitsFile) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """Frequency and width in Hz of every channel, IF by IF."""
    for name, what in (("FREQSEL", "frequency setups"), ("SOURCE", "sources")):
        if name in file.parameters and len(np.unique(file.parameter(name))) > 1:
            raise file.error(f"holds several {what} (random parameter {name}); split it into one file each")
    n_if = file.data.shape[1]
    offsets, widths = np.zeros(1), np.full(1, abs(file.step("FREQ")))
    if file.tables.get("AIPS FQ"):
        offsets = file.column("AIPS FQ", "IF FREQ")[:1].ravel().astype(np.float64)
        widths = np.abs(file.column("AIPS FQ", "CH WIDTH")[:1].ravel().astype(np.float64))
    frequencies = (offsets[:, None] + file.axis("FREQ")).ravel()
    if len(offsets) != n_if or not (frequencies > 0).all():
        raise file.error(f"the frequencies of its {n_if} IFs cannot be read from the FREQ axis and the AIPS FQ table")
    return frequencies, np.repeat(widths, file.data.shape[2])


def _choose(channels: tuple[int, ...] | None, n: int) -> list[int]:
    if channels is None:
        return list(range(n))
    if not channels or any(not 0 <= c < n for c in channels) or len(set(channels)) < len(channels):
        raise ValueError(f"channels must be distinct numbers from 0 to {n - 1}, got {tuple(channels)}")
    return list(channels)


def _times(file: UvfitsFile, good: "NDArray[np.bool_]") -> tuple[float, "NDArray[np.float64]"]:
    """MJD of the first day and hours since its 0h."""
    file.parameter("DATE")  # raises where it is missing
    parts = [date[good] for date in file.parameters["DATE"]]
    mjd = sum(parts[1:], start=parts[0] - _MJD_ZERO)  # large numbers cancel first, the day fraction keeps its digits
    if not np.isfinite(mjd).all() or mjd.min() < 0:
        raise file.error("random parameter DATE is no Julian date in some unflagged rows (NaN, or before 1858)")
    day = float(np.floor(mjd.min()))
    return day, 24 * (mjd - day)


def _light_seconds(file: UvfitsFile, good: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    values = np.stack([file.parameter(name)[good] for name in ("UU", "VV")])
    if not np.isfinite(values).all():
        raise file.error("UU or VV is NaN or infinite in unflagged rows; flag those rows or export the data again")
    if np.abs(values).max() > _LONGEST_SECONDS:
        raise file.error("UU and VV are no light-seconds after scaling: set their PSCAL to 1 / frequency")
    return values


def _integration(file: UvfitsFile, good: "NDArray[np.bool_]") -> "NDArray[np.float64]":
    if "INTTIM" not in file.parameters:
        return np.zeros(int(good.sum()))
    return np.nan_to_num(file.parameter("INTTIM")[good], nan=0.0, posinf=0.0, neginf=0.0)


def _scans(file: UvfitsFile, day: float, time: "NDArray[np.float64]") -> tuple["NDArray[np.int64]", str]:
    """Scan numbers from the AIPS NX table where it covers the data, else from pauses in time."""
    by_gaps = scans_by_gaps(torch.from_numpy(time)).numpy()
    note = f"{by_gaps.max() + 1} scans from pauses in time"
    if not file.tables.get("AIPS NX"):
        return by_gaps, note
    centre = 24 * (file.column("AIPS NX", "TIME").astype(np.float64) + _reference_day(file, day) - day)
    half = file.column("AIPS NX", "TIME INTERVAL").astype(np.float64) * 12
    outside = np.abs(time[:, None] - centre) - half
    if not len(centre) or outside.min(1).max() > 1 / 60:
        return by_gaps, f"{note}: the AIPS NX table does not cover the data"
    scan = np.unique(outside.argmin(1), return_inverse=True)[1]
    return scan, f"{scan.max() + 1} scans from the AIPS NX table"


def _reference_day(file: UvfitsFile, day: float) -> float:
    """MJD that times in tables count from: RDATE of the antenna table, the first day where that is no date."""
    from astropy.time import Time

    date = str(file.tables["AIPS AN"][0].header.get("RDATE", "")).strip()
    try:
        return float(Time(date, scale="utc").mjd)
    except ValueError:
        return day


def _source_coordinate(file: UvfitsFile, keyword: str, axis: str) -> float:
    return float(file.header[keyword]) if keyword in file.header else float(file.axis(axis)[0])


def _tensors(**arrays: "NDArray[Any]") -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
