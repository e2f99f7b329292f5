"""Write observations as UVFITS in the layout of the EHT releases, which other packages read."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinstruct.core.files import atomic_path
from sciinstruct.operators.interferometry.geometry import sidereal_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sciinstruct.operators.interferometry.observation import Observation

_JD_ZERO = 2400000.5
_SIDEREAL_DEGREES_PER_DAY = 360.9856
_PARAMETERS = ("UU---SIN", "VV---SIN", "WW---SIN", "BASELINE", "DATE", "DATE", "INTTIM", "TAU1", "TAU2")


def write_uvfits(obs: "Observation", path: str | os.PathLike[str]) -> Path:
    """Write `obs` to a UVFITS file: RR = LL = Stokes I, each with sqrt(2) sigma, RL and LR flagged.

    Numbers are stored in single precision, as the format has them. The scan table (AIPS NX) is written too. `history`
    goes into HISTORY cards.

    Returns
    -------
    Path
        The file, whole or absent.

    Raises
    ------
    ValueError
        If a station name is longer than the format's 8 characters.
    OutputError
        If the file cannot be written.
    """
    from astropy.io import fits

    long = [name for name in obs.stations if len(name) > 8]
    if long:
        raise ValueError(f"station names must have at most 8 characters in a UVFITS file, got {', '.join(long)}")
    hdus = fits.HDUList([_primary(obs), _antennas(obs), _frequencies(obs), _scans(obs)])
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        hdus.writeto(handle)
    return Path(path)


def _primary(obs: "Observation") -> Any:
    from astropy.io import fits

    groups = fits.GroupData(_correlations(obs), bitpix=-32, parnames=list(_PARAMETERS), pardata=_parameters(obs))
    hdu = fits.GroupsHDU(groups)
    header = hdu.header
    _describe_source(header, obs)
    axes = (
        ("COMPLEX", 1.0, 1.0),
        ("STOKES", -1.0, -1.0),
        ("FREQ", obs.frequency, obs.bandwidth),
        ("IF", 1.0, 1.0),
        ("RA", obs.ra, 1.0),
        ("DEC", obs.dec, 1.0),
    )
    for k, (kind, value, step) in enumerate(axes, start=2):
        header[f"CTYPE{k}"] = kind
        header[f"CRVAL{k}"], header[f"CDELT{k}"], header[f"CRPIX{k}"], header[f"CROTA{k}"] = value, step, 1.0, 0.0
    for k, name in enumerate(_PARAMETERS, start=1):
        header[f"PTYPE{k}"] = name
        header[f"PSCAL{k}"] = 1 / obs.frequency if k <= 3 else 1.0
        header[f"PZERO{k}"] = 0.0
    header["HISTORY"] = "AIPS SORT ORDER='TB'"
    for line in obs.history:
        header["HISTORY"] = line.encode("ascii", "replace").decode()
    return hdu


def _describe_source(header: Any, obs: "Observation") -> None:
    header["OBSRA"], header["OBSDEC"] = obs.ra, obs.dec
    header["OBJECT"], header["MJD"], header["DATE-OBS"] = obs.source, obs.mjd, _date(obs.mjd)
    header["BSCALE"], header["BZERO"], header["BUNIT"] = 1.0, 0.0, "JY"
    header["VELREF"], header["EQUINOX"], header["ALTRPIX"], header["ALTRVAL"] = 3, "J2000", 1.0, 0.0
    header["TELESCOP"] = header["INSTRUME"] = header["OBSERVER"] = "EHT"


def _correlations(obs: "Observation") -> "NDArray[np.float32]":
    """Array (rows, dec, ra, IF, channel, stokes, complex); the cross hands have weight 0."""
    data = np.zeros((len(obs), 1, 1, 1, 1, 4, 3), dtype=np.float32)
    values = torch.stack([obs.vis.real, obs.vis.imag, 0.5 / obs.sigma**2], -1).numpy()
    data[:, 0, 0, 0, 0, :2] = values[:, None]
    return data


def _parameters(obs: "Observation") -> list["NDArray[np.float32]"]:
    """Stored numbers of the random parameters, before PSCAL."""
    zero = torch.zeros_like(obs.u)
    many = len(obs.stations) > 255
    baseline = (2048.0 if many else 256.0) * (obs.station1 + 1) + obs.station2 + 1 + 65536 * many
    midnight = torch.full_like(obs.time, obs.mjd + _JD_ZERO)
    columns = (obs.u, obs.v, zero, baseline, midnight, obs.time / 24, obs.integration, zero, zero)
    return [column.numpy().astype(np.float32) for column in columns]


def _antennas(obs: "Observation") -> Any:
    from astropy.io import fits

    n = len(obs.stations)
    zero, zeros3 = np.zeros(n), np.zeros((n, 3))
    columns = [
        fits.Column("ANNAME", "8A", array=np.array([name[:8] for name in obs.stations])),
        fits.Column("STABXYZ", "3D", unit="METERS", array=obs.positions.numpy()),
        fits.Column("ORBPARM", "1E", array=zero),
        fits.Column("NOSTA", "1J", array=np.arange(1, n + 1)),
        fits.Column("MNTSTA", "1J", array=zero),
        fits.Column("STAXOF", "1E", unit="METERS", array=zero),
        fits.Column("POLTYA", "1A", array=np.full(n, "R")),
        fits.Column("POLAA", "1E", unit="DEGREES", array=zero),
        fits.Column("POLCALA", "3E", array=zeros3),
        fits.Column("POLTYB", "1A", array=np.full(n, "L")),
        fits.Column("POLAB", "1E", unit="DEGREES", array=zero + 90),
        fits.Column("POLCALB", "3E", array=zeros3),
        fits.Column("SEFD", "1D", array=zero),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="AIPS AN")
    gst = float(sidereal_time(torch.tensor([obs.mjd], dtype=torch.float64)).rad2deg())
    hdu.header.update(
        {"EXTVER": 1, "ARRAYX": 0.0, "ARRAYY": 0.0, "ARRAYZ": 0.0, "RDATE": _date(obs.mjd), "GSTIA0": gst}
        | {"DEGPDY": _SIDEREAL_DEGREES_PER_DAY, "UT1UTC": 0.0, "DATUTC": 0.0, "TIMESYS": "UTC", "FREQ": obs.frequency}
        | {"POLARX": 0.0, "POLARY": 0.0, "ARRNAM": "EHT", "XYZHAND": "RIGHT", "FRAME": "????", "NUMORB": 0}
        | {"NO_IF": 1, "NOPCAL": 0, "POLTYPE": "VLBI", "FREQID": 1}
    )
    return hdu


def _frequencies(obs: "Observation") -> Any:
    from astropy.io import fits

    columns = [
        fits.Column("FRQSEL", "1J", array=[1]),
        fits.Column("IF FREQ", "1D", unit="HZ", array=[0.0]),
        fits.Column("CH WIDTH", "1E", unit="HZ", array=[obs.bandwidth]),
        fits.Column("TOTAL BANDWIDTH", "1E", unit="HZ", array=[obs.bandwidth]),
        fits.Column("SIDEBAND", "1J", array=[1]),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="AIPS FQ")
    hdu.header.update({"EXTVER": 1, "NO_IF": 1})
    return hdu


def _scans(obs: "Observation") -> Any:
    """Scan table: centre and length in days since 0h, first and last row (from 1)."""
    from astropy.io import fits

    scans = obs.scan.unique().tolist()
    half = obs.integration / 7200
    starts = [float((obs.time - half)[obs.scan == k].min()) / 24 for k in scans]
    ends = [float((obs.time + half)[obs.scan == k].max()) / 24 for k in scans]
    rows = [torch.nonzero(obs.scan == k).flatten() + 1 for k in scans]
    columns = [
        fits.Column("TIME", "1D", unit="DAYS", array=(np.array(starts) + ends) / 2),
        fits.Column("TIME INTERVAL", "1E", unit="DAYS", array=np.array(ends) - starts),
        fits.Column("SOURCE ID", "1J", array=np.ones(len(scans))),
        fits.Column("SUBARRAY", "1J", array=np.ones(len(scans))),
        fits.Column("FREQ ID", "1J", array=np.ones(len(scans))),
        fits.Column("START VIS", "1J", array=[int(r[0]) for r in rows]),
        fits.Column("END VIS", "1J", array=[int(r[-1]) for r in rows]),
    ]
    hdu = fits.BinTableHDU.from_columns(columns, name="AIPS NX")
    hdu.header.update({"EXTVER": 1})
    return hdu


def _date(mjd: float) -> str:
    from astropy.time import Time

    return str(Time(mjd, format="mjd", scale="utc").strftime("%Y-%m-%d"))
