"""Simulated observations: when and where an array looks, what it would measure, with station gains and noise."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.core.random import randn_like
from sciinstruct.operators.interferometry.arrays import StationArray, benchmark9
from sciinstruct.operators.interferometry.geometry import (
    SPEED_OF_LIGHT,
    elevation,
    project_baselines,
    sidereal_rotation,
    sidereal_time,
)
from sciinstruct.operators.interferometry.observation import Observation

CORRELATOR_EFFICIENCY = 0.88
"""Loss of two-bit sampling."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """When an array looks.

    Parameters
    ----------
    time : Tensor, shape (n,)
        Middle of each integration, hours since 0h of day `mjd`.
    gmst : Tensor, shape (n,)
        Greenwich mean sidereal time in radians.
    scan : Tensor, shape (n,), int64
        Scan number of each integration.
    integration : float
        Length of an integration in seconds.
    mjd : float
        Day the hours count from.
    """

    time: Tensor
    gmst: Tensor
    scan: Tensor
    integration: float
    mjd: float

    def __post_init__(self) -> None:
        if not len(self.time) or not len(self.time) == len(self.gmst) == len(self.scan):
            lengths = len(self.time), len(self.gmst), len(self.scan)
            raise ValueError(f"time, gmst and scan must have one length of at least 1, got {lengths}")
        if not self.integration > 0:
            raise ValueError(f"integration must be positive (s), got {self.integration}")

    @classmethod
    def regular(
        cls, mjd: float, start: float, n_scans: int, scan_length: float, gap: float, integration: float = 10.0
    ) -> "Schedule":
        """Build equal scans from `start` (hours UTC), each filled by integrations.

        `scan_length` and the `gap` between scans are in seconds; scans more than 60 s apart can be told apart by their
        times alone.
        """
        per_scan = int(scan_length / integration + 1e-9)
        if n_scans < 1 or per_scan < 1 or gap < 0:
            raise ValueError(
                f"need n_scans >= 1, scan_length >= integration and gap >= 0, got {n_scans}, {scan_length}, {gap}"
            )
        scan = torch.arange(n_scans).repeat_interleave(per_scan)
        sample = torch.arange(per_scan, dtype=torch.float64).repeat(n_scans)
        time = start + (scan * (scan_length + gap) + (sample + 0.5) * integration) / 3600
        return cls(time, sidereal_time(mjd + time / 24), scan, integration, mjd)

    @classmethod
    def sidereal(cls, hours: Tensor, integration: float, mjd: float = 51544.0) -> "Schedule":
        """One integration, its own scan, at each Greenwich sidereal time in `hours`, which also label the rows."""
        hours = hours.to(torch.float64)
        return cls(hours, hours * math.pi / 12, torch.arange(len(hours)), integration, mjd)


def plan_observation(
    array: StationArray,
    schedule: Schedule,
    ra: float,
    dec: float,
    frequency: float,
    bandwidth: float,
    elevation_limits: tuple[float, float] = (10.0, 85.0),
    source: str = "simulated",
) -> Observation:
    """Lay out the rows an array would record: u, v, times and thermal errors, with visibilities still zero.

    sigma = sqrt(SEFD_a SEFD_b / (2 bandwidth t)) / 0.88 / sqrt(2): Stokes I from two parallel hands.

    Parameters
    ----------
    array : StationArray
        Stations and their sensitivity.
    schedule : Schedule
        Times.
    ra, dec : float
        Source position in degrees (J2000, simple geometry as in the released EHT files).
    frequency, bandwidth : float
        In Hz.
    elevation_limits : (float, float)
        Degrees; a station takes part while the source is between them.
    source : str
        Name for the record.

    Raises
    ------
    ValueError
        If the source is never up at two stations at once.
    """
    rotation = sidereal_rotation(schedule.gmst)
    height = elevation(array.positions, rotation, ra, dec)
    up = (height >= elevation_limits[0]) & (height <= elevation_limits[1])
    first, second = torch.triu_indices(len(array.names), len(array.names), offset=1)
    when, pair = torch.nonzero(up[:, first] & up[:, second], as_tuple=True)
    if not len(when):
        raise ValueError(f"the source at dec {dec} deg is never within {elevation_limits} deg at two stations at once")
    a, b = first[pair], second[pair]
    baselines = (array.positions[a] - array.positions[b]) * (frequency / SPEED_OF_LIGHT)
    u, v, _ = project_baselines(baselines, rotation[when], ra, dec).unbind(1)
    samples = 2 * bandwidth * schedule.integration
    sigma = (array.sefd[a] * array.sefd[b] / samples).sqrt() / CORRELATOR_EFFICIENCY / math.sqrt(2)
    return Observation(
        u=u.contiguous(),
        v=v.contiguous(),
        vis=torch.zeros(len(u), dtype=torch.complex128),
        sigma=sigma,
        time=schedule.time[when],
        station1=a,
        station2=b,
        scan=schedule.scan[when].unique(return_inverse=True)[1],
        integration=torch.full_like(sigma, schedule.integration),
        stations=array.names,
        positions=array.positions,
        ra=ra,
        dec=dec,
        frequency=frequency,
        bandwidth=bandwidth,
        mjd=schedule.mjd,
        source=source,
        band=f"{frequency / 1e9:.3f} GHz",
        history=(f"planned: {len(u)} rows of {len(array.names)} stations, visibilities zero",),
    )


def plan_benchmark9(fraction: float = 1.0) -> Observation:
    """Lay out the observation shared by the DPI, PnP-DM and score-prior black-hole benchmarks: 938 rows.

    Nine stations at the position of Sgr A*, 230 GHz, one 10 s integration every 10 minutes of sidereal time, elevation
    15-85 degrees. Rows are labelled by sidereal time, so `recompute_uvw`, which takes them for UTC, does not apply.

    Parameters
    ----------
    fraction : float
        Part of the list of times that is used, from its start: the benchmarks' "observation ratio".
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    hours = torch.arange(144, dtype=torch.float64) / 6
    schedule = Schedule.sidereal(hours[: max(1, round(144 * fraction))], integration=10.0)
    place = {"ra": 266.4168370833333, "dec": -28.99218944444445}
    return plan_observation(
        benchmark9(), schedule, **place, frequency=230e9, bandwidth=4e9, elevation_limits=(15.0, 85.0), source="SgrA"
    )


@dataclass(frozen=True)
class GainModel:
    """How station gains g = exp(lnA + i theta) vary.

    ln A is a station offset N(0, `offset_std`^2), constant over the observation, plus N(0, `scan_std`^2) per scan.
    Phases are uniform and independent per epoch, or a random walk.

    Parameters
    ----------
    offset_std, scan_std : float
        Standard deviations of ln|g|.
    station_std : dict of str to float
        Stations whose two standard deviations differ (the LMT: 0.2-0.5).
    phase_walk : float, optional
        Standard deviation in radians of the phase's step from one epoch to the next, after a uniform start; None draws
        every epoch independently (no phase calibration).
    phase_per_sample : bool
        An epoch of the phases is one time stamp instead of one scan; for data before averaging.
    """

    offset_std: float = 0.1
    scan_std: float = 0.1
    station_std: Mapping[str, float] = field(default_factory=lambda: {"LM": 0.3})
    phase_walk: float | None = None
    phase_per_sample: bool = False

    def __post_init__(self) -> None:
        widths = {"offset_std": self.offset_std, "scan_std": self.scan_std, "phase_walk": self.phase_walk or 0.0}
        widths |= {f"station_std[{name!r}]": value for name, value in self.station_std.items()}
        for name, value in widths.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")

    def draw(self, obs: Observation, generator: torch.Generator | None = None) -> "Gains":
        """Draw the gains of every station of `obs`."""
        stamps = obs.time.unique(return_inverse=True)[1]
        scan = obs.scan.unique(return_inverse=True)[1]
        row_epoch = stamps if self.phase_per_sample else scan
        n_epoch, n_scan, n = int(row_epoch.max()) + 1, int(scan.max()) + 1, len(obs.stations)
        scan_of_epoch = torch.zeros(n_epoch, dtype=torch.int64).index_put_((row_epoch,), scan)
        own = [self.station_std.get(name) for name in obs.stations]
        offset_std = obs.u.new_tensor([self.offset_std if s is None else s for s in own])
        scan_std = obs.u.new_tensor([self.scan_std if s is None else s for s in own])
        log_amplitude = offset_std * randn_like(obs.u.new_empty(1, n), generator)
        log_amplitude = log_amplitude + scan_std * randn_like(obs.u.new_empty(n_scan, n), generator)
        phase = self._phases(n_epoch, n, generator)
        return Gains(torch.polar(log_amplitude[scan_of_epoch].exp(), phase), row_epoch, obs.stations)

    def _phases(self, n_epoch: int, n: int, generator: torch.Generator | None) -> Tensor:
        shape = (n_epoch if self.phase_walk is None else 1, n)
        start = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
        if self.phase_walk is None:
            return start
        steps = self.phase_walk * torch.randn((n_epoch - 1, n), generator=generator, dtype=torch.float64)
        return torch.cat([start, steps]).cumsum(0)


class Gains(NamedTuple):
    """Complex station gains.

    gains : Tensor, shape (epochs, stations), complex128
    epoch : Tensor, shape (rows,), int64, the epoch of each row of the observation
    stations : tuple of str
    """

    gains: Tensor
    epoch: Tensor
    stations: tuple[str, ...]

    def on_rows(self, station1: Tensor, station2: Tensor) -> Tensor:
        """Factor g_a conj(g_b) on each row, shape (rows,)."""
        return self.gains[self.epoch, station1] * self.gains[self.epoch, station2].conj()


class SimulatedObservation(NamedTuple):
    """A simulated observation, its gains (None: perfect calibration), and the visibilities before gains and noise."""

    observation: Observation
    gains: Gains | None
    model: Tensor


def simulate_observation(
    model: Callable[[Tensor, Tensor], Tensor],
    like: Observation,
    gains: GainModel | None = None,
    generator: torch.Generator | None = None,
) -> SimulatedObservation:
    """Measure a sky model with the coverage and errors of `like`: V = g_a conj(g_b) V_model(u, v) + noise.

    Parameters
    ----------
    model : callable
        Takes u, v in wavelengths, shape (rows,), and returns complex visibilities in Jy, shape (rows,).
    like : Observation
        A plan (`plan_observation`) or a real observation; its visibilities are replaced.
    gains : GainModel, optional
        Station gains; None for perfect calibration.
    generator : torch.Generator, optional
        Source of all random numbers.

    Returns
    -------
    SimulatedObservation
        The noise has standard deviation `like.sigma` in the real and in the imaginary part.

    Raises
    ------
    ValueError
        If `model` returns another shape or numbers that are not finite.
    """
    clean = model(like.u, like.v).to(torch.complex128)
    if clean.shape != like.u.shape:
        raise ValueError(f"model must return one visibility per row, shape {tuple(like.u.shape)}, got {clean.shape}")
    check_finite("model visibilities", clean)
    drawn = gains.draw(like, generator) if gains is not None else None
    factor = drawn.on_rows(like.station1, like.station2) if drawn is not None else torch.ones_like(clean)
    noise = torch.complex(randn_like(like.sigma, generator), randn_like(like.sigma, generator)) * like.sigma
    note = "simulated visibilities with thermal noise" + (f" and gains ({gains})" if gains is not None else "")
    return SimulatedObservation(like.evolve(note, vis=factor * clean + noise), drawn, clean)
