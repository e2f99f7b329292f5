"""Closure phases and log closure amplitudes of an observation, as padded batches over scans."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.operators.interferometry import closure_basis
from sciinstruct.operators.interferometry.observation import Observation

_ROWS = {"phase": closure_basis.phase_rows, "amplitude": closure_basis.amplitude_rows}


@dataclass(frozen=True, eq=False)
class ClosureSet:
    """Independent closures of every scan; S scans, at most P baselines and K closures each.

    Parameters
    ----------
    scans : Tensor, shape (S,), int64
        Scan numbers.
    rows : Tensor, shape (S, P), int64
        Rows of the observation that belong to each scan; padding repeats row 0.
    matrix : Tensor, shape (S, K, P)
        Coefficients of the closures in the baselines' phases or log-amplitudes; zero in the padding.
    valid : Tensor, shape (S, K), bool
        Which closures exist.
    """

    scans: Tensor
    rows: Tensor
    matrix: Tensor
    valid: Tensor

    @property
    def n(self) -> int:
        """Number of closures."""
        return int(self.valid.sum())

    def combine(self, x: Tensor) -> Tensor:
        """Apply the closures to per-baseline values, (..., rows) -> (..., S, K)."""
        return torch.einsum("skp,...sp->...sk", self.matrix.to(x), x[..., self.rows])

    def covariance(self, variance: Tensor) -> Tensor:
        """Covariance of every scan's closures, (S, K, K), from independent baselines; ones on the padded diagonal."""
        scaled = self.matrix * variance[self.rows][:, None, :]
        return scaled @ self.matrix.mT + torch.diag_embed((~self.valid).to(variance))

    def whitening(self, variance: Tensor, full: bool = True) -> Tensor:
        """Matrices (S, K, K) that turn closure errors into unit normal ones; rows of zeros in the padding.

        Parameters
        ----------
        variance : Tensor, shape (rows,)
            Variance of each baseline's phase or log-amplitude.
        full : bool
            Inverse Cholesky factor of the covariance; else one over the standard deviations alone.
        """
        covariance = self.covariance(variance)
        if not full:
            inverse = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1).rsqrt())
        else:
            eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype).expand_as(covariance)
            inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), eye, upper=False)
        return inverse * self.valid[..., None]


class ScanBaselines(NamedTuple):
    """Rows of one scan and their stations."""

    scan: int
    rows: list[int]
    pairs: closure_basis.Pairs


def scan_baselines(obs: Observation, uv_min: float = 0.0) -> list[ScanBaselines]:
    """Baselines of every scan, without those shorter than `uv_min` wavelengths.

    Raises
    ------
    ValueError
        If a scan has a baseline twice (the data must be averaged first).
    """
    kept = (obs.uv_distance >= uv_min).nonzero().squeeze(1)
    found: dict[int, ScanBaselines] = {}
    columns = (kept, obs.scan[kept], obs.station1[kept], obs.station2[kept])
    for row, scan, a, b in zip(*(c.tolist() for c in columns)):
        group = found.setdefault(scan, ScanBaselines(scan, [], []))
        if (a, b) in group.pairs or (b, a) in group.pairs:
            raise ValueError(
                f"scan {scan} has baseline {obs.stations[a]}-{obs.stations[b]} more than once: "
                "call scan_average() first"
            )
        group.rows.append(row)
        group.pairs.append((a, b))
    return [found[scan] for scan in sorted(found)]


def pad_scans(groups: list[ScanBaselines], matrices: list[Tensor]) -> ClosureSet:
    """Stack one (closures, baselines) matrix per scan into a padded batch; scans without closures are left out."""
    pairs = [(g, m) for g, m in zip(groups, matrices) if len(m)]
    k = max((len(m) for _, m in pairs), default=0)
    p = max((len(g.rows) for g, _ in pairs), default=0)
    rows = torch.zeros(len(pairs), p, dtype=torch.int64)
    matrix = torch.zeros(len(pairs), k, p, dtype=torch.float64)
    valid = torch.zeros(len(pairs), k, dtype=torch.bool)
    for s, (group, m) in enumerate(pairs):
        rows[s, : len(group.rows)] = torch.tensor(group.rows)
        matrix[s, : len(m), : m.shape[1]] = m
        valid[s, : len(m)] = True
    return ClosureSet(torch.tensor([g.scan for g, _ in pairs], dtype=torch.int64), rows, matrix, valid)


def closure_set(obs: Observation, kind: str, variance: Tensor, uv_min: float = 0.0) -> ClosureSet:
    """Rank-complete closures of every scan, least noisy first.

    Parameters
    ----------
    obs : Observation
        One row per scan and baseline.
    kind : {'phase', 'amplitude'}
        Closure phases (triangles) or log closure amplitudes (quadrangles).
    variance : Tensor, shape (rows,)
        Variance of each baseline's phase or log-amplitude, which ranks the candidates.
    uv_min : float
        Baselines shorter than this (wavelengths) are left out.

    Raises
    ------
    ValueError
        If a scan has a baseline twice, or no scan has a closure.
    """
    groups = scan_baselines(obs, uv_min)
    found = [torch.from_numpy(_ROWS[kind](g.pairs, variance[g.rows].numpy())) for g in groups]
    if not any(len(m) for m in found):
        raise ValueError(
            f"no scan has a closure {kind}: {3 if kind == 'phase' else 4} stations that all see the source are needed; "
            "use the terms 'vis' or 'amp' instead"
        )
    return pad_scans(groups, found)


def count_closures(obs: Observation, uv_min: float = 0.0) -> tuple[int, int]:
    """Number of independent closure phases and log closure amplitudes."""
    groups = scan_baselines(obs, uv_min)
    phases, amplitudes = (sum(closure_basis.rank_of_closures(g.pairs, k) for g in groups) for k in _ROWS)
    return phases, amplitudes


class TrianglePhases(NamedTuple):
    """Closure phases of one triangle against time: scan (n,), hours (n,), phase and sigma (n,) in radians."""

    scan: Tensor
    time: Tensor
    phase: Tensor
    sigma: Tensor


def triangle_phases(obs: Observation, stations: tuple[str, str, str]) -> TrianglePhases:
    """Closure phase phi_ab + phi_bc + phi_ca of three stations in every scan that has all their baselines.

    Raises
    ------
    ValueError
        If a station is unknown.
    """
    wanted = [obs._index(name) for name in stations]
    steps = list(zip(wanted, (*wanted[1:], wanted[0])))
    scans, times, phases, sigmas = [], [], [], []
    for group in scan_baselines(obs):
        edges = dict(zip(group.pairs, group.rows)) | {(b, a): ~r for (a, b), r in zip(group.pairs, group.rows)}
        if not all(step in edges for step in steps):
            continue
        rows = torch.tensor([edges[step] if edges[step] >= 0 else ~edges[step] for step in steps])
        turned = torch.tensor([edges[step] < 0 for step in steps])
        vis = torch.where(turned, obs.vis[rows].conj(), obs.vis[rows])
        scans.append(group.scan)
        times.append(obs.time[rows].mean())
        phases.append(vis.prod().angle())
        sigmas.append((obs.sigma[rows] / vis.abs()).norm())
    stack = lambda values: torch.stack(values) if values else torch.zeros(0, dtype=torch.float64)  # noqa: E731
    return TrianglePhases(torch.tensor(scans, dtype=torch.int64), stack(times), stack(phases), stack(sigmas))
