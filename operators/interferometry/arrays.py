"""Station tables: where the telescopes stand, how sensitive they are, how well they are calibrated.

Positions are Earth-centred, Earth-fixed metres; SEFD is the system-equivalent flux density in Jy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive

Position = tuple[float, float, float]

POSITIONS_EHT2017: Mapping[str, Position] = MappingProxyType(
    {
        "AA": (2225060.8136, -5440059.59994, -2481681.15054),  # ALMA
        "AP": (2225039.5297, -5441197.6292, -2479303.3597),  # APEX
        "AZ": (-1828796.2, -5054406.8, 3427865.2),  # SMT, Arizona
        "JC": (-5464584.676, -2493001.17, 2150653.982),  # JCMT, Hawaii
        "LM": (-768715.632, -5988507.072, 2063354.852),  # LMT, Mexico
        "PV": (5088967.74544, -301681.18586, 3825012.20561),  # IRAM 30 m, Pico Veleta
        "SM": (-5464555.493, -2492927.989, 2150797.176),  # SMA, Hawaii
        "SP": (0.01, 0.01, -6359609.7),  # SPT, South Pole
    }
)
"""The stations of 2017 as stored in the released M87 files; the South Pole from the eht-imaging template."""

POSITIONS_LATER: Mapping[str, Position] = MappingProxyType(
    {
        "GL": (1500692.0, -1191735.0, 6066409.0),  # GLT, Greenland
        "NN": (4523998.40, 468045.24, 4460309.76),  # NOEMA
        "KT": (-1995678.840, -5037317.697, 3357328.025),  # Kitt Peak 12 m
    }
)
"""Stations that joined after 2017, from the eht-imaging array files."""

SEFD_EHT2017: Mapping[str, float] = MappingProxyType(
    {"AA": 70, "AP": 4900, "AZ": 14400, "JC": 10000, "LM": 3600, "PV": 3600, "SM": 5600, "SP": 16900}
)
"""Nominal values of the eht-imaging array file EHT2017_m87."""

SEFD_M87_101_LO: Mapping[str, float] = MappingProxyType(
    {"AA": 99, "AP": 7600, "AZ": 11700, "JC": 27800, "LM": 6100, "PV": 8100, "SM": 13400}
)
"""Effective values fitted to the errors of the released file of 11 April 2017, low band: losses are included."""

SEFD_M87_096_LO: Mapping[str, float] = MappingProxyType(
    {"AA": 82, "AP": 7000, "AZ": 15000, "JC": 25800, "LM": 3900, "PV": 9000, "SM": 8500}
)
"""Effective values fitted to the errors of the released file of 6 April 2017, low band: losses are included."""

GAIN_BUDGET_M87_2017: Mapping[str, float] = MappingProxyType(
    {"AA": 0.10, "AP": 0.11, "AZ": 0.07, "LM": 0.22, "PV": 0.10, "SM": 0.15, "JC": 0.14, "SP": 0.07}
)
"""Fractional amplitude error of the a-priori calibration per station, EHT imaging release 2019-D01-02."""


@dataclass(frozen=True, eq=False)
class StationArray:
    """An array of stations.

    Parameters
    ----------
    names : tuple of str
        Station names, each once.
    positions : Tensor, shape (n, 3)
        Earth-centred, Earth-fixed positions in metres.
    sefd : Tensor, shape (n,)
        System-equivalent flux densities in Jy.
    """

    names: tuple[str, ...]
    positions: Tensor
    sefd: Tensor

    def __post_init__(self) -> None:
        n = len(self.names)
        if n < 2 or len(set(self.names)) < n:
            raise ValueError(f"names must be two or more distinct stations, got {self.names}")
        if self.positions.shape != (n, 3) or self.sefd.shape != (n,):
            shapes = tuple(self.positions.shape), tuple(self.sefd.shape)
            raise ValueError(f"positions must be ({n}, 3) and sefd ({n},), got {shapes}")
        check_finite("positions", self.positions)
        check_positive("sefd", self.sefd)

    @classmethod
    def from_tables(cls, positions: Mapping[str, Position], sefd: Mapping[str, float]) -> "StationArray":
        """Build from tables by name; the array has the stations of `sefd`, each of which needs a position."""
        missing = set(sefd) - set(positions)
        if missing:
            raise ValueError(f"positions lack the stations {', '.join(sorted(missing))} of sefd")
        names = tuple(name for name in positions if name in sefd)
        place = torch.tensor([positions[name] for name in names], dtype=torch.float64)
        return cls(names, place, torch.tensor([float(sefd[name]) for name in names], dtype=torch.float64))


def eht2017(sefd: Mapping[str, float] = SEFD_M87_101_LO) -> StationArray:
    """Build the 2017 Event Horizon Telescope with the stations of `sefd`; by default those that observed M87."""
    return StationArray.from_tables(POSITIONS_EHT2017, sefd)


_BENCHMARK9: Mapping[str, tuple[Position, float]] = MappingProxyType(
    {
        "SMA": ((-5464523.4, -2493147.08, 2150611.75), 4900),
        "JCMT": ((-5464584.676, -2493001.17, 2150653.982), 6000),
        "SMT": ((-1828796.2, -5054406.8, 3427865.2), 5000),
        "LMT": ((-768713.9637, -5988541.7982, 2063275.9472), 600),
        "ALMA": ((2225037.1851, -5441199.162, -2479303.4629), 90),
        "APEX": ((2225037.1851, -5441199.162, -2479303.4629), 3500),
        "PV": ((5088967.9, -301681.6, 3825015.8), 1400),
        "PDB": ((4523998.4, 468045.24, 4460309.76), 1500),
        "SPT": ((0.0, 0.0, -6359587.3), 5000),
    }
)


def benchmark9() -> StationArray:
    """Build the nine-station array of the deep-probabilistic-imaging and PnP-DM black-hole benchmarks.

    ALMA and APEX share one position there. SEFDs are those of the eht-imaging planning table EHT2019; the benchmarks'
    own files were made with others, so their errors differ while u and v are the same.
    """
    positions = {name: place for name, (place, _) in _BENCHMARK9.items()}
    return StationArray.from_tables(positions, {name: sefd for name, (_, sefd) in _BENCHMARK9.items()})
