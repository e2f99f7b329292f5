"""Steps between a file and a likelihood: averaging, zero baselines, noise budget, flags, amplitude de-bias."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sciinstruct.operators.interferometry.observation import Observation

SCAN_GAP_HOURS = 0.0165
"""A pause longer than this (59.4 s) starts a new scan."""


def scans_by_gaps(time: Tensor, gap: float = SCAN_GAP_HOURS) -> Tensor:
    """Number scans from the times alone: a pause longer than `gap` starts a new one.

    Parameters
    ----------
    time : Tensor, shape (rows,)
        Hours, in any order.
    gap : float
        Longest pause inside a scan, in hours.

    Returns
    -------
    Tensor, shape (rows,), int64
        Scan numbers from 0 in order of time.
    """
    stamps, inverse = time.unique(return_inverse=True)
    starts = torch.diff(stamps) > gap
    return torch.cat([starts.new_zeros(1), starts]).cumsum(0)[inverse]


def orient(obs: "Observation") -> "Observation":
    """Turn baselines so that `station1` < `station2`; u and v change sign with the conjugate visibility."""
    swap = obs.station1 > obs.station2
    if not swap.any():
        return obs
    return obs.evolve(
        f"{int(swap.sum())} baselines turned round",
        u=torch.where(swap, -obs.u, obs.u),
        v=torch.where(swap, -obs.v, obs.v),
        vis=torch.where(swap, obs.vis.conj(), obs.vis),
        station1=torch.minimum(obs.station1, obs.station2),
        station2=torch.maximum(obs.station1, obs.station2),
    )


def scan_average(obs: "Observation", weighted: bool = False) -> "Observation":
    """Average coherently over each scan, baseline by baseline.

    Parameters
    ----------
    obs : Observation
        Phases must be stable over a scan, as in network-calibrated data.
    weighted : bool
        False: plain means of V, u, v and sigma = sqrt(sum sigma_i^2) / n, the convention of the EHT imaging scripts.
        True: inverse-variance weights and sigma = (sum sigma_i^-2)^-1/2.

    Returns
    -------
    Observation
        One row per scan and baseline, ordered by scan; integration times are summed, times are plain means.
    """
    obs = orient(obs)
    n = len(obs.stations)
    key = (obs.scan * n + obs.station1) * n + obs.station2
    groups, inverse = key.unique(return_inverse=True)

    def total(x: Tensor) -> Tensor:
        return x.new_zeros(len(groups)).index_add_(0, inverse, x)

    count = total(torch.ones_like(obs.u))
    weight = obs.sigma**-2 if weighted else torch.ones_like(obs.sigma)
    norm = total(weight)
    return obs.evolve(
        f"scan average ({'inverse-variance' if weighted else 'plain'} mean): {len(obs)} -> {len(groups)} rows",
        u=total(weight * obs.u) / norm,
        v=total(weight * obs.v) / norm,
        vis=total(weight * obs.vis) / norm,
        sigma=total((weight * obs.sigma) ** 2).sqrt() / norm,
        time=total(obs.time) / count,
        integration=total(obs.integration),
        scan=groups // n**2,
        station1=groups // n % n,
        station2=groups % n,
    )


def rescale_zero_baselines(obs: "Observation", flux: float = 0.6, uv_max: float = 1e8) -> "Observation":
    """Scale baselines that see arcsecond structure to the flux of the compact source.

    V and sigma of all rows below `uv_max` are multiplied by ``flux / median|V|`` of the short baseline with the largest
    total SNR (ALMA-APEX in the 2017 files). Without this the closure amplitudes through a zero baseline contradict any
    compact image. The rule is that of the M87 imaging scripts (EHT release 2019-D01-02).

    Parameters
    ----------
    obs : Observation
        Without rows below `uv_max` it comes back unchanged, with a line in its history.
    flux : float
        Flux of the compact source in Jy; 0.6 for M87 in 2017.
    uv_max : float
        Longest zero baseline, in wavelengths.
    """
    if not flux > 0:
        raise ValueError(f"flux must be positive (Jy), got {flux}")
    short = obs.uv_distance < uv_max
    if not short.any():
        return obs.evolve(f"no baselines below {uv_max:.3g} wavelengths to rescale")
    n = len(obs.stations)
    pair = torch.minimum(obs.station1, obs.station2) * n + torch.maximum(obs.station1, obs.station2)
    weight = torch.zeros(n * n, dtype=torch.float64).index_add_(0, pair[short], obs.snr[short])
    reference = int(weight.argmax())
    level = float(obs.vis.abs()[short & (pair == reference)].quantile(0.5))
    scale = torch.ones_like(obs.sigma).masked_fill(short, flux / level)
    names = f"{obs.stations[reference // n]}-{obs.stations[reference % n]}"
    return obs.evolve(
        f"{int(short.sum())} rows below {uv_max:.3g} wavelengths scaled by {flux / level:.6f}: "
        f"median |V| of {names} from {level:.5f} to {flux:g} Jy",
        vis=obs.vis * scale,
        sigma=obs.sigma * scale,
    )


def add_fractional_noise(obs: "Observation", fraction: float) -> "Observation":
    """Add a systematic error: sigma^2 -> sigma^2 + (fraction |V|)^2.

    Parameters
    ----------
    obs : Observation
        Scan averages, with zero baselines rescaled.
    fraction : float
        Size of the error relative to the amplitude: 0.02 is the non-closing budget of the M87 2017 data.
    """
    if not fraction >= 0:
        raise ValueError(f"fraction must be at least 0, got {fraction}")
    sigma = torch.hypot(obs.sigma, fraction * obs.vis.abs())
    return obs.evolve(f"systematic noise of {fraction:g} of the amplitude added", sigma=sigma)


def add_amplitude_budget(obs: "Observation", budget: Mapping[str, float]) -> "Observation":
    """Inflate sigma by station gain errors: sigma^2 + (f_a^2 + f_b^2) |V|^2.

    For likelihoods of calibrated amplitudes without explicit gains; closures need none of it.

    Parameters
    ----------
    obs : Observation
        The data.
    budget : dict of str to float
        Fractional gain error of every station with data, as `arrays.GAIN_BUDGET_M87_2017`.
    """
    used = {obs.stations[i] for i in torch.cat([obs.station1, obs.station2]).unique().tolist()}
    if used - set(budget):
        raise ValueError(f"budget must name every station with data, {', '.join(sorted(used - set(budget)))} missing")
    f = torch.tensor([budget.get(name, 0.0) for name in obs.stations], dtype=torch.float64)
    fraction = torch.hypot(f[obs.station1], f[obs.station2])
    sigma = torch.hypot(obs.sigma, fraction * obs.vis.abs())
    return obs.evolve("station gain errors added to sigma", sigma=sigma)


def flag(
    obs: "Observation", uv_min: float = 0.0, stations: tuple[str, ...] = (), snr_min: float = 0.0
) -> "Observation":
    """Remove rows: baselines shorter than `uv_min` (wavelengths), of `stations`, or with |V|/sigma below `snr_min`.

    Raises
    ------
    ValueError
        If a station is unknown or no row is left.
    """
    if isinstance(stations, str):
        raise ValueError(f"stations must be a tuple of names, got the string {stations!r}: write ({stations!r},)")
    bad = (obs.uv_distance < uv_min) | (obs.snr < snr_min)
    for index in map(obs._index, stations):
        bad |= (obs.station1 == index) | (obs.station2 == index)
    rules = [f"uv < {uv_min:.3g}"] * (uv_min > 0) + [f"stations {', '.join(stations)}"] * bool(stations)
    rules += [f"SNR < {snr_min:g}"] * (snr_min > 0)
    return obs.select(~bad, f"flagged {int(bad.sum())} rows ({'; '.join(rules) or 'no rule'})")


def debiased_amplitude(obs: "Observation") -> Tensor:
    """Amplitudes in Jy without the noise bias, shape (rows,): A^2 = |V|^2 - sigma^2, or sigma^2 where negative."""
    squared = obs.vis.abs() ** 2 - obs.sigma**2
    return torch.where(squared < 0, obs.sigma**2, squared).sqrt()
