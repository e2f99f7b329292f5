"""Explicit station gains: fit them to a model, report what is left, take them out of the data."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.operators.interferometry.closure_terms import station_spread
from sciinstruct.operators.interferometry.closures import count_closures, scan_baselines
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.simulation import Gains

_ITERATIONS = 30
_LARGEST_STEP = 0.5  # of ln|g| and of the phase, radians
_GAUGE = 1e-9  # holds what the data do not fix: a common phase, absent stations


class GainFit(NamedTuple):
    """Gains of every station and scan, and how well the corrupted model fits.

    Attributes
    ----------
    gains : Gains
        One epoch per scan; the phase of the strongest station is zero, absent stations have gain 1.
    chi2 : float
        Sum of squared residuals of the visibilities (and of ln|g| under its prior) over `degrees`: 1 is expected.
    degrees : int
        Degrees of freedom; with free gains, the number of independent closures.
    """

    gains: Gains
    chi2: float
    degrees: int


def fit_gains(obs: Observation, model: Tensor, gain_sigma: dict[str, float] | None = None) -> GainFit:
    r"""Find the gains that maximise the likelihood of :math:`V_{ab} = g_a \bar g_b M_{ab}`, scan by scan.

    Parameters
    ----------
    obs : Observation
        One row per scan and baseline.
    model : Tensor, complex, shape (rows,)
        Model visibilities in Jy, none of them zero.
    gain_sigma : dict of str to float, optional
        Standard deviation of ln|g| per station, a Gaussian prior; None leaves amplitudes free. Phases are free.

    Returns
    -------
    GainFit

    Raises
    ------
    ValueError
        If `model` has another shape or is not finite, a scan has a baseline twice, or a station lacks its prior.

    Notes
    -----
    Phases start at those of the leading eigenvector of the matrix of :math:`V_{ab} \bar M_{ab}/\sigma_{ab}^2`, then
    Gauss-Newton steps in ln|g| and phase, all scans at once.
    """
    if tuple(model.shape) != tuple(obs.vis.shape):
        raise ValueError(
            f"model must have one visibility per row, shape {tuple(obs.vis.shape)}, got {tuple(model.shape)}"
        )
    check_finite("model", model)
    problem = _GainProblem(obs, model.to(torch.complex128), gain_sigma)
    log_gain = problem.start()
    for _ in range(_ITERATIONS):
        log_gain = log_gain + problem.step(log_gain)
    misfit = problem.misfit(log_gain)
    gains = Gains(torch.exp(problem.fix_phase(log_gain)), problem.epoch, obs.stations)
    return GainFit(gains, misfit / max(problem.degrees, 1), problem.degrees)


def remove_gains(obs: Observation, gains: Gains) -> Observation:
    """Divide visibilities and errors by the gains: self-calibrated data."""
    factor = gains.on_rows(obs.station1, obs.station2)
    return obs.evolve("station gains removed", vis=obs.vis / factor, sigma=obs.sigma / factor.abs())


class _GainProblem:
    """Least squares in x = ln g of all stations, scans as a padded batch (S scans, P baselines, G stations)."""

    def __init__(self, obs: Observation, model: Tensor, gain_sigma: dict[str, float] | None) -> None:
        groups = scan_baselines(obs)
        n, p = len(obs.stations), max(len(g.rows) for g in groups)
        rows = torch.zeros(len(groups), p, dtype=torch.int64)
        valid = torch.zeros(len(groups), p, dtype=torch.bool)
        self.epoch = torch.zeros(len(obs), dtype=torch.int64)
        for s, group in enumerate(groups):
            rows[s, : len(group.rows)] = torch.tensor(group.rows)
            valid[s, : len(group.rows)] = True
            self.epoch[group.rows] = s
        weight = valid / obs.sigma[rows]
        self.data, self.model = obs.vis[rows] * weight, model[rows] * weight
        self.a, self.b = obs.station1[rows], obs.station2[rows]
        one = torch.eye(n, dtype=torch.complex128)
        self.first, self.second = one[self.a], one[self.b]
        seen = (valid[..., None] * (self.first + self.second).real).sum(1) > 0
        self.precision = torch.zeros(len(groups), n, dtype=torch.float64)
        if gain_sigma is not None:
            for station, spread in station_spread(obs, gain_sigma).items():
                self.precision[:, station] = spread**-2 * seen[:, station]
        phases, amplitudes = count_closures(obs)
        # free gains leave the closures; a prior is one more datum per gain, so that every amplitude counts
        self.degrees = phases + (amplitudes if gain_sigma is None else len(obs))

    def start(self) -> Tensor:
        """Unit amplitudes and the phases of the leading eigenvector."""
        n = self.precision.shape[1]
        product = (self.data * self.model.conj())[..., None, None]
        matrix = (product * self.first[..., :, None] * self.second[..., None, :]).sum(1)
        vector = torch.linalg.eigh(matrix + matrix.mH).eigenvectors[..., n - 1]
        return torch.complex(torch.zeros_like(self.precision), torch.where(vector.abs() > 1e-9, vector.angle(), 0.0))

    def _corrupted(self, log_gain: Tensor) -> Tensor:
        return self.model * torch.exp(log_gain.gather(1, self.a) + log_gain.conj().gather(1, self.b))

    def step(self, log_gain: Tensor) -> Tensor:
        """One Gauss-Newton step, (S, G) complex, held below the largest step."""
        predicted = self._corrupted(log_gain)
        slopes = [
            predicted[..., None] * (self.first + self.second),
            1j * predicted[..., None] * (self.first - self.second),
        ]
        jacobian = torch.view_as_real(torch.cat(slopes, -1)).transpose(-1, -2).flatten(1, 2)
        error = torch.view_as_real(self.data - predicted).flatten(1)
        prior = torch.cat([self.precision, torch.zeros_like(self.precision)], 1)
        pull = torch.cat([self.precision * log_gain.real, torch.zeros_like(self.precision)], 1)
        normal = jacobian.mT @ jacobian
        ridge = _GAUGE * normal.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).expand_as(prior)
        gradient = (jacobian.mT @ error[..., None])[..., 0] - pull
        real, imag = torch.linalg.solve(normal + torch.diag_embed(prior + ridge), gradient).chunk(2, 1)
        return torch.complex(*(part.clamp(-_LARGEST_STEP, _LARGEST_STEP) for part in (real, imag)))

    def misfit(self, log_gain: Tensor) -> float:
        """Sum of squared residuals, priors included."""
        data = (self.data - self._corrupted(log_gain)).abs().square().sum()
        return float(data + (self.precision * log_gain.real.square()).sum())

    def fix_phase(self, log_gain: Tensor) -> Tensor:
        """Set the phase of each scan's strongest station to zero, and keep phases within [-pi, pi]."""
        strength = (self.model.abs()[..., None] * (self.first + self.second).real).sum(1)
        reference = log_gain.imag.gather(1, strength.argmax(1, keepdim=True))
        phase = torch.where(strength > 0, log_gain.imag - reference, 0.0)
        return torch.complex(log_gain.real, torch.remainder(phase + math.pi, 2 * math.pi) - math.pi)
