"""The table of visibilities every interferometric step starts from and returns."""

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.operators.interferometry import preparation

MICROARCSECOND = torch.pi / 180 / 3600e6
"""One microarcsecond in radians."""


class ObservationSummary(NamedTuple):
    """What `Observation.summary` counts; ``str()`` of it is a short table.

    Closures are the independent ones of the scan averages. Resolution is 1 / max(uv distance) in microarcseconds,
    frequency in Hz, hours since 0h UTC of the first day.
    """

    source: str
    rows: int
    scans: int
    stations: tuple[str, ...]
    baselines: int
    closure_phases: int
    log_closure_amplitudes: int
    first_hour: float
    last_hour: float
    frequency: float
    longest_baseline: float
    resolution: float
    median_snr: float

    def __str__(self) -> str:
        return "\n".join(f"{name:>16}: {value}" for name, value in self._asdict().items())


@dataclass(frozen=True, eq=False)
class Observation:
    """Visibilities of one source in one frequency band, one row per baseline and time.

    Every method returns a new object and adds a line to `history`; nothing is changed in place.

    Parameters
    ----------
    u, v : Tensor, shape (rows,)
        Baseline ``r_a - r_b`` (first minus second station) seen from the source, in wavelengths; East and North.
    vis : Tensor, shape (rows,), complex128
        Visibility in Jy, ``V(u, v) = sum I exp(+2 pi i (u x + v y))`` with x East and y North of the source position.
    sigma : Tensor, shape (rows,)
        Standard deviation in Jy of the real part, and separately of the imaginary part.
    time : Tensor, shape (rows,)
        Hours (UTC) since 0h of day `mjd`.
    station1, station2 : Tensor, shape (rows,), int64
        Indices into `stations`.
    scan : Tensor, shape (rows,), int64
        Scan number, consecutive from 0.
    integration : Tensor, shape (rows,)
        Integration time in seconds; 0 where a file does not tell.
    stations : tuple of str
        Station names.
    positions : Tensor, shape (len(stations), 3)
        Station positions in metres, Earth-centred and Earth-fixed.
    ra, dec : float
        Source position in degrees (J2000).
    frequency, bandwidth : float
        Centre and width of the band in Hz.
    mjd : float
        Modified Julian date of the first day, at 0h.
    source : str
        Name of the source.
    band : str
        Label of the band.
    history : tuple of str
        What was done to the data, oldest first.

    Raises
    ------
    ValueError
        If there are no rows, lengths differ, a number is not finite, sigma is not positive, or an index is out of
        range.
    """

    u: Tensor
    v: Tensor
    vis: Tensor
    sigma: Tensor
    time: Tensor
    station1: Tensor
    station2: Tensor
    scan: Tensor
    integration: Tensor
    stations: tuple[str, ...]
    positions: Tensor
    ra: float
    dec: float
    frequency: float
    bandwidth: float
    mjd: float
    source: str = "unknown"
    band: str = ""
    history: tuple[str, ...] = field(default=())

    ROWS: ClassVar[dict[str, torch.dtype]] = {
        "u": torch.float64,
        "v": torch.float64,
        "vis": torch.complex128,
        "sigma": torch.float64,
        "time": torch.float64,
        "station1": torch.int64,
        "station2": torch.int64,
        "scan": torch.int64,
        "integration": torch.float64,
    }

    def __post_init__(self) -> None:
        for name, dtype in self.ROWS.items():
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype != dtype or value.ndim != 1:
                raise ValueError(f"{name} must be a 1-D tensor of {dtype}, got {_describe(value)}")
            if len(value) != len(self.u):
                raise ValueError(f"{name} must have as many rows as u ({len(self.u)}), got {len(value)}")
            if dtype.is_floating_point or dtype.is_complex:
                check_finite(name, value)
        if not len(self.u):
            raise ValueError("an observation needs at least one row, got none")
        check_positive("sigma", self.sigma)
        if self.positions.shape != (len(self.stations), 3):
            raise ValueError(f"positions must have shape ({len(self.stations)}, 3), got {tuple(self.positions.shape)}")
        self._check_indices()

    def _check_indices(self) -> None:
        for name in ("station1", "station2"):
            value = getattr(self, name)
            if value.min() < 0 or value.max() >= len(self.stations):
                raise ValueError(f"{name} must index the {len(self.stations)} stations, got up to {int(value.max())}")
        if (self.station1 == self.station2).any():
            raise ValueError("a baseline joins two different stations: drop autocorrelations first")

    def __len__(self) -> int:
        return len(self.u)

    def __repr__(self) -> str:
        return f"Observation({self.source}, {len(self)} rows, {self.n_scans} scans, {self.band})"

    # -- reading and writing ------------------------------------------------------------------------------------

    @classmethod
    def from_uvfits(
        cls, path: str | os.PathLike[str], single_pol: str = "keep", channels: tuple[int, ...] | None = None
    ) -> "Observation":
        """Read Stokes I from a UVFITS file; see `sciinstruct.operators.interferometry.uvfits.read_uvfits`."""
        from sciinstruct.operators.interferometry.uvfits import read_uvfits

        return read_uvfits(path, single_pol=single_pol, channels=channels)

    def to_uvfits(self, path: str | os.PathLike[str]) -> Path:
        """Write a UVFITS file; see `sciinstruct.operators.interferometry.uvfits_writer.write_uvfits`."""
        from sciinstruct.operators.interferometry.uvfits_writer import write_uvfits

        return write_uvfits(self, path)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write every field at full precision to an ``.npz`` file; see `load`."""
        from sciinstruct.operators.interferometry.storage import save_observation

        return save_observation(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Observation":
        """Read back what `save` wrote; raises FileFormatError on any other file."""
        from sciinstruct.operators.interferometry.storage import load_observation

        return load_observation(path)

    # -- derived quantities -------------------------------------------------------------------------------------

    @property
    def uv_distance(self) -> Tensor:
        """Baseline length in wavelengths, shape (rows,)."""
        return torch.hypot(self.u, self.v)

    @property
    def snr(self) -> Tensor:
        """Amplitude over sigma, shape (rows,)."""
        return self.vis.abs() / self.sigma

    @property
    def n_scans(self) -> int:
        """Number of scans that have data."""
        return len(self.scan.unique())

    @property
    def resolution(self) -> float:
        """Nominal resolution 1 / max(uv distance), in microarcseconds."""
        return 1 / float(self.uv_distance.max()) / MICROARCSECOND

    def baseline_rows(self, a: str, b: str) -> Tensor:
        """Mask (rows,) of the baseline between stations `a` and `b`, in either order."""
        i, j = self._index(a), self._index(b)
        return ((self.station1 == i) & (self.station2 == j)) | ((self.station1 == j) & (self.station2 == i))

    def summary(self) -> ObservationSummary:
        """Count rows, scans, baselines and independent closures, and give the resolution."""
        from sciinstruct.operators.interferometry.closures import count_closures

        phases, amplitudes = count_closures(self.scan_average())
        pairs = torch.stack([self.station1, self.station2]).sort(0).values
        return ObservationSummary(
            source=self.source,
            rows=len(self),
            scans=self.n_scans,
            stations=tuple(self.stations[i] for i in pairs.unique().tolist()),
            baselines=pairs.unique(dim=1).shape[1],
            closure_phases=phases,
            log_closure_amplitudes=amplitudes,
            first_hour=float(self.time.min()),
            last_hour=float(self.time.max()),
            frequency=self.frequency,
            longest_baseline=float(self.uv_distance.max()),
            resolution=self.resolution,
            median_snr=float(self.snr.median()),
        )

    # -- new observations ---------------------------------------------------------------------------------------

    def evolve(self, note: str, **changes: object) -> "Observation":
        """Copy with `changes`, and `note` added to the history."""
        return replace(self, history=(*self.history, note), **changes)  # type: ignore[arg-type]

    def select(self, rows: Tensor, note: str) -> "Observation":
        """Keep the rows of a mask or index tensor; raises ValueError if none is left."""
        kept = {name: getattr(self, name)[rows] for name in self.ROWS}
        if not len(kept["u"]):
            raise ValueError(f"{note}: this would remove all {len(self)} rows")
        return self.evolve(note, **kept)

    def conjugate(self) -> "Observation":
        """Conjugate the visibilities: for files made with the opposite sign in the exponent (image turned by 180°)."""
        return self.evolve("visibilities conjugated", vis=self.vis.conj().resolve_conj())

    def scan_average(self, weighted: bool = False) -> "Observation":
        """Average coherently per scan and baseline; see `preparation.scan_average`."""
        return preparation.scan_average(self, weighted)

    def rescale_zero_baselines(self, flux: float = 0.6, uv_max: float = 1e8) -> "Observation":
        """Scale the shortest baselines to the compact flux; see `preparation.rescale_zero_baselines`."""
        return preparation.rescale_zero_baselines(self, flux, uv_max)

    def add_fractional_noise(self, fraction: float) -> "Observation":
        """Add `fraction` of the amplitude to sigma in quadrature; see `preparation.add_fractional_noise`."""
        return preparation.add_fractional_noise(self, fraction)

    def flag(self, uv_min: float = 0.0, stations: tuple[str, ...] = (), snr_min: float = 0.0) -> "Observation":
        """Remove short baselines, stations or faint rows; see `preparation.flag`."""
        return preparation.flag(self, uv_min, stations, snr_min)

    def _index(self, station: str) -> int:
        if station not in self.stations:
            raise ValueError(f"station {station!r} is not in this observation, which has {', '.join(self.stations)}")
        return self.stations.index(station)


def _describe(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


FIELD_NAMES = tuple(f.name for f in fields(Observation))
