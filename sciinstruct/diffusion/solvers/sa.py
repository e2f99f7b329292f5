"""SA-Solver: a stochastic Adams predictor-corrector in half log-SNR, the default solver."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from sciinstruct.diffusion.grids import log_uniform
from sciinstruct.diffusion.solvers.base import Denoise, DiffusionSolver
from sciinstruct.diffusion.solvers.sa_weights import plan

MAX_ORDER = 4


@dataclass(frozen=True)
class TauBand:
    """Noise strength `value` at levels between `low` and `high`, none elsewhere; see `tau_band`."""

    low: float
    high: float
    value: float

    def __call__(self, sigma: float) -> float:
        """Noise strength at level `sigma`."""
        return self.value if self.low <= sigma <= self.high else 0.0


def tau_band(low: float, high: float, value: float) -> TauBand:
    """Noise strength for `SASolver`: `value` where ``low <= sigma <= high``, 0 elsewhere.

    Fresh noise heals errors the denoiser made above the scale of a feature and is neutral to harmful at and below it,
    so set the band to the levels where the network is least trusted.

    Raises
    ------
    ValueError
        Unless ``0 <= low < high`` and `value` is finite and not negative.
    """
    if not 0 <= low < high:
        raise ValueError(f"expected 0 <= low < high, got {low} and {high}")
    _check_tau(value)
    return TauBand(low, high, value)


@dataclass(frozen=True)
class SASolver(DiffusionSolver):
    r"""Solve the reverse diffusion with noise strength :math:`\tau(\sigma)` by Adams steps.

    In :math:`\lambda = -\log \sigma` the family of equations, which share their marginals if the denoiser is exact, is
    :math:`dx = -(1+\tau^2)(x - D)\,d\lambda + \tau \sigma \sqrt 2\,dw`. It is solved exactly over a step but for D,
    which is the Lagrange interpolant through the last evaluations (predictor) or those and the new one (corrector).

    Parameters
    ----------
    sigmas : sequence of float or Tensor
        Noise levels, strictly falling.
    predictor_order : int
        1 to 4 evaluations in the predictor. With ``corrector_order=0`` and tau = 0, order 1 is DDIM.
    corrector_order : int
        1 to 4 evaluations in the corrector, the new one included; 0 leaves it out.
    tau : float or callable
        Noise strength, a number or a function of sigma such as `tau_band`; 0 is the probability-flow equation (no
        noise), 1 the usual reverse diffusion. Taken at the end of each step.
    evaluate_corrected : bool
        Evaluate again after the corrector (PECE), twice the cost; otherwise the predictor's evaluation is kept (PEC).
    simple_order2 : bool
        Replace the exact integral of the linear term in order-2 formulas by its leading term, as some released samplers
        do; changes order 2 by O(h^3). Only to reproduce them: on a field it is 13 to 90 times worse at
        10 to 40 evaluations.
    denoise_final : bool
        End with ``D(x, sigmas[-1])``.

    Raises
    ------
    ValueError
        If the grid does not fall strictly, an order is out of range, or tau is negative or not finite at a level.

    Notes
    -----
    Below 20 evaluations use order 2: order 3 overshoots, most with noise. With noise, orders above 2 lower the error's
    constant only.

    References
    ----------
    Xue et al. 2023, "SA-Solver", equations 14-18 (here for :math:`x = x_0 + \sigma n`).
    """

    predictor_order: int = 3
    corrector_order: int = 3
    tau: float | Callable[[float], float] = 0.0
    evaluate_corrected: bool = field(default=False, kw_only=True)
    simple_order2: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.predictor_order <= MAX_ORDER:
            raise ValueError(f"predictor_order must be 1 to {MAX_ORDER}, got {self.predictor_order}")
        if not 0 <= self.corrector_order <= MAX_ORDER:
            raise ValueError(f"corrector_order must be 0 (none) to {MAX_ORDER}, got {self.corrector_order}")
        if self.evaluate_corrected and not self.corrector_order:
            raise ValueError("evaluate_corrected needs a corrector: set corrector_order to 1 or more")
        for value in self.taus:
            _check_tau(value)

    @property
    def taus(self) -> tuple[float, ...]:
        """Noise strength of each step."""
        return tuple(float(self.tau(s) if callable(self.tau) else self.tau) for s in self.levels[1:])

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser one run costs."""
        inner = 2 * self.steps - 1 if self.evaluate_corrected else self.steps - (not self.corrector_order)
        return 1 + inner + self.denoise_final

    def path(self, denoise: Denoise, x: Tensor, noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield x at each next level; see `DiffusionSolver.path`."""
        orders = self.predictor_order, self.corrector_order
        levels = self.levels
        past = [denoise(x, levels[0])]  # newest first
        for i, step in enumerate(plan(levels, self.taus, *orders, self.simple_order2), start=1):
            base = step.decay * x
            if step.noise > 0:
                base = base + step.noise * noise()
            x = _combine(base, step.predictor, past)
            last = i == self.steps
            if self.corrector_order:
                past.insert(0, denoise(x, levels[i]))
                x = _combine(base, step.corrector, past)
                if self.evaluate_corrected and not last:
                    past[0] = denoise(x, levels[i])
            elif not last:
                past.insert(0, denoise(x, levels[i]))
            del past[MAX_ORDER:]
            yield x


def default_solver(sigma_range: tuple[float, float], steps: int = 40) -> SASolver:
    """Return the solver used where none is given.

    SA-Solver without noise on a log-uniform grid: orders 3/3 from 20 evaluations on, 2/2 below, final denoise.

    Parameters
    ----------
    sigma_range : tuple of float
        Smallest and largest noise level, as in ``prior.sigma_range``.
    steps : int
        Calls of the denoiser, at least 4.

    Raises
    ------
    ValueError
        If `steps` is too small or the range is not rising and positive.
    """
    if steps < 4:
        raise ValueError(f"steps must be at least 4 calls of the denoiser, got {steps}")
    order = 3 if steps >= 20 else 2
    return SASolver(log_uniform(steps - 1, *sigma_range), order, order)


def _combine(base: Tensor, weights: tuple[float, ...], values: list[Tensor]) -> Tensor:
    for weight, value in zip(weights, values):
        base = base + weight * value
    return base


def _check_tau(value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"tau must be finite and not negative, got {value}")
