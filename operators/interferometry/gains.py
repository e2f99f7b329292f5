"""Explicit station gains: fit them to model visibilities, divide them out, or profile them inside a likelihood.

Per scan, V_ab = g_a conj(g_b) M_ab + noise with ln|g_a| ~ N(0, s_a^2) and a free phase. Scans are independent.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.simulation import Gains
from sciinstruct.operators.interferometry.tables import Tables
from sciinstruct.operators.interferometry.terms import DataTerm

_ITERATIONS = 50
_TOLERANCE = 1e-9
_LEAST_DAMPING = 1e-8  # holds directions that the data do not see: the common phase, absent stations


class GainFit(NamedTuple):
    """Result of `fit_gains`.

    gains : Gains, one epoch per scan, the phase of each scan's first station zero
    chi2 : float, mean of the 2 rows squared residuals of the data
    n_parameters : int, amplitudes and phases that the data can determine
    """

    gains: Gains
    chi2: float
    n_parameters: int


class GainSolver:
    """Most probable gains of many model images at once.

    Levenberg-Marquardt on ln|g| and phase, started from the phases of the leading eigenvector of V conj(M) / sigma^2
    (angular synchronisation, Singer 2011), so that unknown phases do not end in a side minimum.

    Parameters
    ----------
    obs : Observation
        Data with one gain per station and scan: average scans first.
    log_std : float or dict of str to float
        Standard deviation of ln|g|, for all stations or for each; ``math.inf`` leaves amplitudes free.

    Raises
    ------
    ValueError
        If a station with data has no entry, or a standard deviation is not positive.
    """

    def __init__(self, obs: Observation, log_std: float | Mapping[str, float]) -> None:
        scan = obs.scan.unique(return_inverse=True)[1]
        self.obs, self.scan = obs, scan
        self.n_scans, self.n_stations = int(scan.max()) + 1, len(obs.stations)
        self.a, self.b = scan * self.n_stations + obs.station1, scan * self.n_stations + obs.station2
        self.present = torch.zeros(self.n_scans * self.n_stations, dtype=torch.bool)
        self.present[self.a] = self.present[self.b] = True
        self.present = self.present.reshape(self.n_scans, self.n_stations)
        self.precision = _precision(obs, log_std)

    def solve(self, model: Tensor) -> Tensor:
        """Fit the gains of each model, (B, rows) complex -> (B, scans, stations) complex128."""
        with torch.no_grad():
            model = model.to("cpu", torch.complex128)
            phase = self._start(model)
            log = torch.zeros_like(phase)
            damping = phase.new_full(phase.shape[:2], 1e-3)
            cost = self._cost(model, log, phase)
            for _ in range(_ITERATIONS):
                steps = self._steps(model, log, phase, damping)
                new = self._cost(model, log + steps[0], phase + steps[1])
                better = new <= cost
                log, phase = (torch.where(better[..., None], x + d, x) for x, d in zip((log, phase), steps))
                cost = torch.where(better, new, cost)
                damping = torch.where(better, damping / 5, damping * 10).clamp(_LEAST_DAMPING, 1e8)
                if better.all() and max(d.abs().max() for d in steps) < _TOLERANCE:
                    break
            first = self.present.int().argmax(1)
            phase = phase - phase[:, torch.arange(self.n_scans), first, None]
            return torch.polar(log.exp(), phase) * self.present + (~self.present)

    def on_rows(self, gains: Tensor) -> Tensor:
        """Factor g_a conj(g_b) of each row, (B, scans, stations) -> (B, rows)."""
        flat = gains.flatten(1)
        return flat[:, self.a] * flat[:, self.b].conj()

    def n_parameters(self) -> int:
        """Count amplitudes and phases that the data (or the prior, for amplitudes) determine, over all scans."""
        total = 0
        for k in range(self.n_scans):
            rows = self.scan == k
            first, second = (
                torch.nn.functional.one_hot(x[rows], self.n_stations).double()
                for x in (self.obs.station1, self.obs.station2)
            )
            known = self.precision.clamp(max=1).diag()[self.present[k]]
            total += int(torch.linalg.matrix_rank(first - second))
            total += int(torch.linalg.matrix_rank(torch.cat([first + second, known])))
        return total

    def _start(self, model: Tensor) -> Tensor:
        """Phases (B, scans, stations) from the leading eigenvector, then three rounds of exact updates."""
        n = self.n_stations
        pull = self.obs.vis * model.conj() / self.obs.sigma**2
        matrix = self._matrix(pull, self.obs.station1, self.obs.station2)
        matrix = matrix + matrix.mH
        phasor = torch.polar(*_unit(torch.linalg.eigh(matrix).eigenvectors[..., -1]))
        for _ in range(3):  # also settles groups of stations that no baseline joins to the eigenvector's
            for k in range(n):
                phasor[..., k] = torch.polar(*_unit((matrix[..., k, :] * phasor).sum(-1)))
        return phasor.angle()

    def _cost(self, model: Tensor, log: Tensor, phase: Tensor) -> Tensor:
        """Half the squared residuals of data and prior, (B, scans)."""
        factor = self.on_rows(torch.polar(log.exp(), phase))
        error = ((self.obs.vis - factor * model) / self.obs.sigma).abs().square()
        data = error.new_zeros(len(error), self.n_scans).index_add_(1, self.scan, error)
        return 0.5 * (data + (self.precision * log**2).sum(-1))

    def _steps(self, model: Tensor, log: Tensor, phase: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Damped Gauss-Newton steps: amplitudes and phases do not couple in the normal matrix."""
        a, b = self.obs.station1, self.obs.station2
        fitted = self.on_rows(torch.polar(log.exp(), phase)) * model / self.obs.sigma
        pull = fitted.conj() * (self.obs.vis / self.obs.sigma - fitted)
        weight = fitted.abs().square()
        own = self._matrix(weight, a, a) + self._matrix(weight, b, b)
        cross = self._matrix(weight, a, b)
        cross = cross + cross.mT
        amplitude = own + cross + self.precision.diag()
        log_step = _damped_solve(amplitude, self._vector(pull.real, pull.real) - self.precision * log, damping)
        return log_step, _damped_solve(own - cross, self._vector(pull.imag, -pull.imag), damping)

    def _vector(self, at_first: Tensor, at_second: Tensor) -> Tensor:
        out = at_first.new_zeros(len(at_first), self.n_scans * self.n_stations)
        out.index_add_(1, self.a, at_first).index_add_(1, self.b, at_second)
        return out.reshape(-1, self.n_scans, self.n_stations)

    def _matrix(self, values: Tensor, row: Tensor, column: Tensor) -> Tensor:
        n = self.n_stations
        out = values.new_zeros(len(values), self.n_scans * n * n)
        out.index_add_(1, (self.scan * n + row) * n + column, values)
        return out.reshape(-1, self.n_scans, n, n)


def fit_gains(obs: Observation, model: Tensor, log_std: float | Mapping[str, float] = 0.1) -> GainFit:
    """Fit the most probable gain of every station and scan to model visibilities.

    Parameters
    ----------
    obs : Observation
        Scan averages.
    model : Tensor, shape (rows,)
        Model visibilities in Jy.
    log_std : float or dict of str to float
        Prior standard deviation of ln|g|, for all stations or for each (`arrays.GAIN_BUDGET_M87_2017`); ``math.inf``
        leaves amplitudes free. Phases are free.

    Raises
    ------
    ValueError
        If `model` has another shape or is not finite, or the prior is incomplete or not positive.
    """
    if model.shape != obs.vis.shape:
        raise ValueError(f"model must have one visibility per row, shape {tuple(obs.vis.shape)}, got {model.shape}")
    check_finite("model", model)
    solver = GainSolver(obs, log_std)
    gains = solver.solve(model[None])
    error = (obs.vis - solver.on_rows(gains)[0] * model.to(torch.complex128)) / obs.sigma
    chi2 = float(error.abs().square().mean() / 2)
    return GainFit(Gains(gains[0], solver.scan, obs.stations), chi2, solver.n_parameters())


def apply_gains(obs: Observation, gains: Gains) -> Observation:
    """Divide gains out: V / (g_a conj(g_b)), and sigma by its modulus."""
    if gains.stations != obs.stations or gains.epoch.shape != obs.scan.shape:
        raise ValueError(
            f"gains are of {gains.stations}, {len(gains.epoch)} rows; the data of {obs.stations}, {len(obs)}"
        )
    factor = gains.on_rows(obs.station1, obs.station2)
    return obs.evolve("station gains divided out", vis=obs.vis / factor, sigma=obs.sigma / factor.abs())


def self_calibrate(obs: Observation, model: Tensor, log_std: float | Mapping[str, float] = 0.1) -> Observation:
    """Fit gains to model visibilities and divide them out; arguments as in `fit_gains`."""
    return apply_gains(obs, fit_gains(obs, model, log_std).gains)


class GainVisibilityTerm(DataTerm):
    """Complex visibilities with station gains fitted anew to every image: the profile likelihood over gains.

    The gains found are held fixed in the derivative, which is then exact because the likelihood is stationary in them.
    Residuals are those of the data, then ln|g| over its prior width for each station, scan and finite width.

    Parameters
    ----------
    obs : Observation
        Scan averages.
    log_std : float or dict of str to float
        Prior of ln|g| as in `fit_gains`.
    """

    name = "visibility_gains"

    def __init__(self, obs: Observation, log_std: float | Mapping[str, float] = 0.1) -> None:
        self._solver, self._log_std = GainSolver(obs, log_std), log_std
        self._priors = self._solver.present & (self._solver.precision > 0)
        self.n = 2 * len(obs) + int(self._priors.sum())
        self.budget = f"complex Gaussian, {self._solver.n_parameters()} gain parameters fitted"
        self._tables = Tables(vis=obs.vis, sigma=obs.sigma, root=self._solver.precision.sqrt())

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """Residuals at the most probable gains, (B, n)."""
        gains = self._solver.solve(vis.detach()).to(vis.device, vis.dtype)
        factor = self._solver.on_rows(gains)
        error = (self._tables.like("vis", vis) - factor * vis) / self._tables.like("sigma", vis)
        prior = (gains.abs().log() * self._tables.like("root", vis))[:, self._priors]
        return torch.cat([error.real, error.imag, prior], 1)

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "GainVisibilityTerm":
        """Take the simulated visibilities."""
        return GainVisibilityTerm(obs, self._log_std)


def _precision(obs: Observation, log_std: float | Mapping[str, float]) -> Tensor:
    """1 / s^2 per station, 0 where ln|g| is free."""
    if not isinstance(log_std, Mapping):
        log_std = dict.fromkeys(obs.stations, log_std)
    used = {obs.stations[i] for i in torch.cat([obs.station1, obs.station2]).unique().tolist()}
    if used - set(log_std):
        raise ValueError(f"log_std must name every station with data, {', '.join(sorted(used - set(log_std)))} missing")
    width = torch.tensor([log_std.get(name, math.inf) for name in obs.stations], dtype=torch.float64)
    if not (width > 0).all():
        raise ValueError(f"log_std must be positive (math.inf: free), got {dict(log_std)}")
    return width**-2


def _unit(z: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(z.real), z.angle()


def _damped_solve(matrix: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    scale = matrix.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(scale > 0, scale * damping[..., None], 1.0)
    # the damped normal matrix is positive definite; batched LU hangs in some builds of MKL with several threads
    chol = torch.linalg.cholesky(matrix + scale.diag_embed())
    return torch.cholesky_solve(gradient[..., None], chol)[..., 0]
