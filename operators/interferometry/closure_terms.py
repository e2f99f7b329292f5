"""Data terms that no station gain can move: closure phases, log closure amplitudes, gain-projected amplitudes."""

import math

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.interferometry import closure_basis
from sciinstruct.operators.interferometry.closures import ClosureSet, closure_set, pad_scans, scan_baselines
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.preparation import debiased_amplitude
from sciinstruct.operators.interferometry.tables import Tables
from sciinstruct.operators.interferometry.terms import DataTerm, Design, amplitude_floor, squared_amplitude

FAINT = 3.0
"""Signal-to-noise below which phases and log-amplitudes are not Gaussian."""


def _check_covariance(covariance: str) -> None:
    if covariance not in ("full", "diag"):
        raise ValueError(f"covariance must be 'full' or 'diag', got {covariance!r}")


def phase_error(vis: Tensor, unit: Tensor, floor: Tensor) -> Tensor:
    """Angle of model visibilities (B, M) to data phasors (M,), radians; zero, without gradient, below the floor."""
    z = vis * unit.conj()
    faint = z.real.square() + z.imag.square() < floor.square()
    return torch.atan2(torch.where(faint, 0.0, z.imag), torch.where(faint, 1.0, z.real))


def wrap(angle: Tensor) -> Tensor:
    """Bring an angle into [-pi, pi]; the gradient passes unchanged."""
    return angle - 2 * math.pi * torch.round(angle / (2 * math.pi))


class _ScanTerm(DataTerm):
    """Shared by terms whose residuals are one matrix product per scan: gather, multiply, keep what exists."""

    _tables: Tables

    def _gather(self, x: Tensor) -> Tensor:
        """Per-baseline values (B, M) -> (S, P, B)."""
        rows = self._tables.like("rows", x)
        return x.T.index_select(0, rows.flatten()).unflatten(0, tuple(rows.shape))

    def _flatten(self, x: Tensor) -> Tensor:
        """Padded values (S, K, B) -> (B, n)."""
        return x.flatten(0, 1).index_select(0, self._tables.like("kept", x)).T

    def _combine(self, matrix: Tensor, by_baseline: Tensor) -> Tensor:
        """Matrices (S, K, P) of the scans times derivatives per baseline (B, M, D) -> (B, n, D)."""
        rows = self._tables.like("rows", by_baseline)
        padded = by_baseline.index_select(1, rows.flatten()).unflatten(1, tuple(rows.shape))
        return (matrix @ padded).flatten(1, 2).index_select(1, self._tables.like("kept", by_baseline))


def _kept(valid: Tensor) -> Tensor:
    return valid.flatten().nonzero().squeeze(1)


def _budget(obs: Observation, text: str, uv_min: float) -> str:
    """Describe the noise, and say how many baselines are too faint for its law."""
    used = obs.uv_distance >= uv_min
    faint = int((obs.snr[used] < FAINT).sum())
    warning = f"; {faint} of {int(used.sum())} baselines below signal-to-noise {FAINT:g}, where it is not Gaussian"
    return f"{text}, uv >= {uv_min:g} wavelengths" + (warning if faint else "")


class ClosurePhaseTerm(_ScanTerm):
    r"""Closure phases of a rank-complete set of triangles.

    Parameters
    ----------
    obs : Observation
        The data, one row per scan and baseline.
    covariance : {'full', 'diag'}
        'full': errors are wrapped to [-pi, pi] triangle by triangle, then whitened with the Cholesky factor of their
        covariance. 'diag': von Mises, :math:`\sum (1 - \cos r) / \sigma^2`, correlations ignored; its residuals are
        :math:`2 \sin(r/2) / \sigma`.
    uv_min : float
        Baselines shorter than this (wavelengths) are left out: trivial triangles through zero baselines carry
        calibration errors, not structure.

    Raises
    ------
    ValueError
        If no triangle exists, a scan has a baseline twice, or a visibility is exactly 0.
    """

    name = "closure_phase"

    def __init__(self, obs: Observation, covariance: str = "full", uv_min: float = 1e8) -> None:
        _check_covariance(covariance)
        self.covariance, self.uv_min = covariance, uv_min
        if (obs.vis == 0).any():
            raise ValueError("a visibility of exactly 0 has no phase: drop such rows with obs.flag(snr_min=...)")
        variance = (obs.sigma / obs.vis.abs()).square()
        self.closures = closure_set(obs, "phase", variance, uv_min)
        self.n = self.closures.n
        self.budget = _budget(obs, f"{covariance} covariance", uv_min)
        self._tables = Tables(
            unit=torch.polar(torch.ones_like(obs.sigma), obs.vis.angle()),
            rows=self.closures.rows,
            kept=_kept(self.closures.valid),
            matrix=self.closures.matrix,
            whitening=self.closures.whitening(variance, covariance == "full"),
        )

    def errors(self, vis: Tensor, image: Tensor) -> Tensor:
        """Wrapped closure phase errors, model minus data, radians, (S, K, B), zero in the padding."""
        error = phase_error(vis, self._tables.like("unit", vis), amplitude_floor(image))
        return wrap(self._tables.like("matrix", error) @ self._gather(error))

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """Whitened errors, (B, n)."""
        error = self.errors(vis, image)
        if self.covariance == "diag":
            error = 2 * torch.sin(error / 2)
        return self._flatten(self._tables.like("whitening", error) @ error)

    def jacobian(self, vis: Tensor, image: Tensor, design: Design) -> Tensor:
        """Derivatives of the residuals in the pixels, (B, n, D): those of the phases, combined scan by scan."""
        floor = amplitude_floor(image).square()
        square = vis.real.square() + vis.imag.square()
        weight = torch.where(square < floor, 0.0, 1 / torch.maximum(square, floor))[..., None]
        by_baseline = design.imag * (weight * vis.real[..., None]) - design.real * (weight * vis.imag[..., None])
        whitening = self._tables.like("whitening", by_baseline)
        rows = self._combine(whitening @ self._tables.like("matrix", by_baseline), by_baseline)
        if self.covariance == "diag":  # whitening is diagonal: the chain rule of 2 sin(r/2) commutes with it
            rows = rows * self._flatten(torch.cos(self.errors(vis, image) / 2))[..., None]
        return rows

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "ClosurePhaseTerm":
        """Take the simulated visibilities."""
        return ClosurePhaseTerm(obs, self.covariance, self.uv_min)


class _LogAmplitudeTerm(_ScanTerm):
    """Residuals are a fixed matrix per scan times the errors of the log-amplitudes."""

    def _set_tables(self, obs: Observation, log_amplitude: Tensor, matrices: ClosureSet) -> None:
        self.n = matrices.n
        self._tables = Tables(
            rows=matrices.rows, kept=_kept(matrices.valid), matrix=matrices.matrix, data=log_amplitude
        )

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """Whitened errors, model minus data, (B, n)."""
        model = 0.5 * squared_amplitude(vis, amplitude_floor(image)).log()
        error = model - self._tables.like("data", model)
        return self._flatten(self._tables.like("matrix", error) @ self._gather(error))

    def jacobian(self, vis: Tensor, image: Tensor, design: Design) -> Tensor:
        """Derivatives of the residuals in the pixels, (B, n, D): those of the log-amplitudes, combined scan by scan."""
        floor = amplitude_floor(image).square()
        square = vis.real.square() + vis.imag.square()
        weight = torch.where(square < floor, 0.0, 1 / torch.maximum(square, floor))[..., None]
        by_baseline = design.real * (weight * vis.real[..., None]) + design.imag * (weight * vis.imag[..., None])
        return self._combine(self._tables.like("matrix", by_baseline), by_baseline)


class LogClosureAmplitudeTerm(_LogAmplitudeTerm):
    """Log closure amplitudes of a rank-complete set of quadrangles.

    Parameters
    ----------
    obs : Observation
        The data, one row per scan and baseline, zero baselines rescaled to the compact flux or flagged.
    covariance : {'full', 'diag'}
        Whiten with the full covariance of each scan, or divide by standard deviations alone. The diagonal chi-square
        depends on the quadrangles chosen, and is a few per cent high where all baselines are equally noisy, because
        the choice then follows the noise.
    uv_min : float
        Baselines shorter than this (wavelengths) are left out.
    debias : bool
        Take amplitudes as sqrt(|V|^2 - sigma^2).

    Raises
    ------
    ValueError
        If no quadrangle exists, or a scan has a baseline twice.
    """

    name = "log_closure_amplitude"

    def __init__(self, obs: Observation, covariance: str = "full", uv_min: float = 0.0, debias: bool = True) -> None:
        _check_covariance(covariance)
        self.covariance, self.uv_min, self.debias = covariance, uv_min, debias
        amplitude = debiased_amplitude(obs) if debias else obs.vis.abs()
        variance = (obs.sigma / amplitude).square()
        self.closures = closure_set(obs, "amplitude", variance, uv_min)
        white = self.closures.whitening(variance, covariance == "full") @ self.closures.matrix
        self.budget = _budget(obs, f"{covariance} covariance", uv_min)
        self._set_tables(
            obs, amplitude.log(), ClosureSet(self.closures.scans, self.closures.rows, white, self.closures.valid)
        )

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "LogClosureAmplitudeTerm":
        """Take the simulated visibilities."""
        return LogClosureAmplitudeTerm(obs, self.covariance, self.uv_min, self.debias)


class ProjectedAmplitudeTerm(_LogAmplitudeTerm):
    r"""Log-amplitudes with the station gains integrated out, scan by scan.

    With errors r of the log-amplitudes, gains m of Gaussian prior N(0, S) and responses B,
    :math:`\chi^2 = r^T (\mathrm{diag}(s^2) + B S B^T)^{-1} r`. For S to infinity, the default, this is
    :math:`|z|^2 - |U^T z|^2`, z = r/s and U an orthonormal basis of diag(1/s) B: exactly the chi-square of all log
    closure amplitudes under their full covariance, without choosing quadrangles. For S to 0 the amplitudes are
    calibrated.

    Parameters
    ----------
    obs : Observation
        The data, one row per scan and baseline.
    gain_sigma : dict of str to float, optional
        Standard deviation of ln|g| per station, the same in every scan, independent between scans. None: unknown gains.
    uv_min : float
        Baselines shorter than this (wavelengths) are left out.
    debias : bool
        Take amplitudes as sqrt(|V|^2 - sigma^2).

    Raises
    ------
    ValueError
        If a station lacks a positive entry in `gain_sigma`, or no combination is free of gains.
    """

    name = "projected_amplitude"

    def __init__(
        self,
        obs: Observation,
        gain_sigma: dict[str, float] | None = None,
        uv_min: float = 0.0,
        debias: bool = True,
    ) -> None:
        self.gain_sigma, self.uv_min, self.debias = gain_sigma, uv_min, debias
        amplitude = debiased_amplitude(obs) if debias else obs.vis.abs()
        s = (obs.sigma / amplitude).numpy()
        groups = scan_baselines(obs, uv_min)
        spread = None if gain_sigma is None else _station_spread(obs, gain_sigma)
        matrices = [_projection(g.pairs, s[g.rows], spread) for g in groups]
        if not any(len(m) for m in matrices):
            raise ValueError(
                "no scan has an amplitude combination free of gains: give gain_sigma or use the term 'amp'"
            )
        prior = "free gains" if gain_sigma is None else "gain prior per station and scan"
        self.budget = _budget(obs, prior, uv_min)
        self._set_tables(obs, amplitude.log(), pad_scans(groups, [torch.from_numpy(m) for m in matrices]))

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "ProjectedAmplitudeTerm":
        """Take the simulated visibilities."""
        return ProjectedAmplitudeTerm(obs, self.gain_sigma, self.uv_min, self.debias)


def _station_spread(obs: Observation, gain_sigma: dict[str, float]) -> dict[int, float]:
    """Standard deviation of ln|g| by station index; raises ValueError if a station with data has no positive entry."""
    used = torch.cat([obs.station1, obs.station2]).unique().tolist()
    missing = [obs.stations[i] for i in used if obs.stations[i] not in gain_sigma]
    if missing:
        raise ValueError(f"gain_sigma must name every station with data, {', '.join(missing)} missing")
    for name, value in gain_sigma.items():
        check_positive(f"gain_sigma[{name!r}]", value)
    return {i: float(gain_sigma[obs.stations[i]]) for i in used}


def _projection(
    pairs: closure_basis.Pairs, s: closure_basis.Array, spread: dict[int, float] | None
) -> closure_basis.Array:
    """Whitening matrix (n, baselines) of one scan's log-amplitude errors with the gains integrated out."""
    response = closure_basis.incidence(pairs, "amplitude")
    if spread is None:
        left, sizes, _ = np.linalg.svd(response / s[:, None])
        rank = int((sizes > sizes[0] * 1e-10).sum())
        return left[:, rank:].T / s
    stations = sorted({i for pair in pairs for i in pair})
    scaled = response * np.array([spread[i] for i in stations])
    return np.linalg.inv(np.linalg.cholesky(np.diag(s**2) + scaled @ scaled.T))
