"""Posterior of a blurred ring's geometry, given the visibilities of a radio interferometer."""

import math

import torch
from torch import Tensor

from sciinstruct.core.bessel import bessel_j01
from sciinstruct.implicit.targets.base import Target
from sciinstruct.operators.interferometry.arrays import GAIN_BUDGET_M87_2017
from sciinstruct.operators.interferometry.closure_terms import ClosurePhaseTerm
from sciinstruct.operators.interferometry.likelihood import ZERO_BASELINE
from sciinstruct.operators.interferometry.observation import MICROARCSECOND, Observation
from sciinstruct.operators.interferometry.preparation import add_amplitude_budget
from sciinstruct.operators.interferometry.terms import AmplitudeTerm

_MEDIAN = {"flux": (0.6, 0.3), "diameter": (42.0, 0.25), "width": (12.0, 0.4)}  # and scatter of the logarithm
_DISC = -1.5  # median of the logit of the disc's share, scatter 1
_STEEPEST = 0.5  # asymmetry at which the ring's dark side is black


class RingTarget(Target):
    r"""Flux, diameter, width, disc share and asymmetry of a ring, from amplitudes and, if wanted, closure phases.

    A thin ring of diameter d with brightness :math:`1 + 2 (b_N \cos\theta + b_E \sin\theta)`, theta East of North, a
    uniform disc of the same diameter with a share f of the flux, both blurred by a Gaussian of FWHM w:

    .. math::
        V = F e^{-(\pi w \rho)^2 / 4 \ln 2} \left[(1 - f)\left(J_0(z) + 2i J_1(z) \frac{b_N v + b_E u}{\rho}\right)
            + 2 f \frac{J_1(z)}{z}\right],\qquad z = \pi d \rho .

    The unconstrained coordinates have the prior N(0, 1): F, d, w are log-normal around 0.6 Jy, 42 and 12 uas (scatter
    0.3, 0.25, 0.4), the logit of f is N(-1.5, 1), and b lies within the circle of radius 1/2, where brightness is
    positive.

    Parameters
    ----------
    observation : Observation
        Raw data; averaged over scans here, baselines below 0.1 gigawavelengths left out.
    closure_phases : bool
        Without them only amplitudes are used, which do not tell b from -b: two modes of exactly equal weight, each
        the `mirrored` other.
    gain_errors : dict of str to float, optional
        Fractional gain error of every station, added to the amplitudes' errors; those of M87 in 2017 by default.
    systematic : float
        Further error as a fraction of the amplitude, for what so plain a model cannot show.
    name : str

    Raises
    ------
    ValueError
        If `gain_errors` lacks a station, or there are no such baselines or closures.

    References
    ----------
    EHT Collaboration 2019, ApJL 875, L6 (geometric models); Johnson et al. 2020, Sci. Adv. 6, eaaz1310 (m-rings).
    """

    names = ("flux", "diameter", "width", "disc", "north", "east")

    def __init__(
        self,
        observation: Observation,
        *,
        closure_phases: bool = False,
        gain_errors: dict[str, float] | None = None,
        systematic: float = 0.1,
        name: str = "ring",
    ) -> None:
        super().__init__(len(self.names), name)
        data = observation.scan_average().flag(uv_min=ZERO_BASELINE).add_fractional_noise(systematic)
        budget = GAIN_BUDGET_M87_2017 if gain_errors is None else gain_errors
        self.amplitudes = AmplitudeTerm(add_amplitude_budget(data, budget))
        self.phases = ClosurePhaseTerm(data) if closure_phases else None
        rho = data.uv_distance
        self.register_buffer("rho", rho * MICROARCSECOND)
        self.register_buffer("north_turn", data.v / rho)
        self.register_buffer("east_turn", data.u / rho)

    def visibilities(self, parameters: Tensor) -> Tensor:
        """Complex visibilities (B, M) in Jy of parameters (B, 6) as `constrain` gives them."""
        flux, diameter, width, disc, north, east = parameters.T[..., None]
        rho, n, e = (getattr(self, k).to(parameters) for k in ("rho", "north_turn", "east_turn"))
        z = math.pi * diameter * rho
        j0, j1 = bessel_j01(z)
        blur = flux * (-(math.pi**2) * (width * rho).square() / (4 * math.log(2))).exp()
        real = blur * ((1 - disc) * j0 + 2 * disc * j1 / z)
        return torch.complex(real, blur * (1 - disc) * 2 * j1 * (north * n + east * e))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log posterior density of the unconstrained coordinates, up to a constant."""
        parameters = self.constrain(x)
        vis, flux = self.visibilities(parameters), parameters[:, :1]
        misfit = self.amplitudes.neg_log_prob(vis, flux)
        if self.phases is not None:
            misfit = misfit + self.phases.neg_log_prob(vis, flux)
        return -0.5 * x.square().sum(1) - misfit

    def chi2(self, parameters: Tensor) -> dict[str, Tensor]:
        """Mean squared residual of each data term, (B,)."""
        vis, flux = self.visibilities(parameters), parameters[:, :1]
        terms = [self.amplitudes] if self.phases is None else [self.amplitudes, self.phases]
        return {term.name: term.residuals(vis, flux).square().mean(1) for term in terms}

    def constrain(self, u: Tensor) -> Tensor:
        """Flux (Jy), diameter, width (uas), disc share, asymmetry North and East."""
        sizes = [median * (scatter * u[:, i]).exp() for i, (median, scatter) in enumerate(_MEDIAN.values())]
        b = u[:, 4:] * (_STEEPEST / (1 + u[:, 4:].square().sum(1, keepdim=True)).sqrt())
        return torch.cat([torch.stack([*sizes, (_DISC + u[:, 3]).sigmoid()], 1), b], 1)

    def unconstrain(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        """Inverse of `constrain`."""
        x = super().unconstrain(x)
        sizes = [(x[:, i] / median).log() / scatter for i, (median, scatter) in enumerate(_MEDIAN.values())]
        b = x[:, 4:] / _STEEPEST
        b = b / (1 - b.square().sum(1, keepdim=True)).sqrt()
        return torch.cat([torch.stack([*sizes, x[:, 3].logit() - _DISC], 1), b], 1)

    @staticmethod
    def mirrored(u: Tensor) -> Tensor:
        """The ring turned by 180 degrees, in unconstrained coordinates: amplitudes are the same."""
        return torch.cat([u[:, :4], -u[:, 4:]], 1)
