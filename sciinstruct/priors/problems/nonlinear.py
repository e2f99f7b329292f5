"""Non-linear problems of two parameters, their posteriors computed on a grid."""

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Likelihood, Operator
from sciinstruct.core.checks import check_finite
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.gaussian import GaussianPrior
from sciinstruct.priors.problems.base import ExactProblem
from sciinstruct.priors.problems.grid import GridPosterior


class Magnitudes(Operator):
    r"""Phase retrieval, :math:`y_i = |a_i \cdot x|`, (B, n) -> (B, m): real data that lost their signs.

    Parameters
    ----------
    matrix : Tensor, shape (m, n)
        Rows a_i, real.

    Raises
    ------
    ValueError
        If `matrix` has another number of axes or is not finite.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        if matrix.ndim != 2:
            raise ValueError(f"matrix must have shape (m, n), got {tuple(matrix.shape)}")
        check_finite("matrix", matrix)
        self.register_buffer("matrix", matrix.detach().double())
        self.range_shape, self.domain_shape = (len(matrix),), (matrix.shape[1],)

    def apply(self, x: Tensor) -> Tensor:
        """Magnitudes, (B, n) -> (B, m)."""
        return (x @ self.matrix.T.to(x.dtype)).abs()


class BinaryClosurePhases(Operator):
    r"""Closure phases of two point sources, of flux 1 and f, as unit phasors :math:`e^{i (\phi_{12} + \phi_{23} -
    \phi_{13})}` of every triangle, (B, 2) -> (B, M), complex.

    Each baseline u sees :math:`1 + f e^{2 \pi i\, u \cdot x}`, x the companion's place relative to the brighter
    source. Closure phases are blind to the phase errors of single stations, and nearly so to x -> -x for f near 1.

    Parameters
    ----------
    stations : Tensor, shape (T, N, 2)
        Projected positions at T times, in cycles per unit of x: N >= 3.
    ratio : float
        Flux ratio f, between 0 and 1, without the ends: no visibility may vanish.

    Raises
    ------
    ValueError
        On another shape or ratio.
    """

    baselines: Tensor

    def __init__(self, stations: Tensor, ratio: float) -> None:
        super().__init__()
        if stations.ndim != 3 or stations.shape[2] != 2 or stations.shape[1] < 3:
            raise ValueError(f"stations must have shape (times, at least 3, 2), got {tuple(stations.shape)}")
        check_finite("stations", stations)
        if not 0 < ratio < 1:
            raise ValueError(f"ratio must lie between 0 and 1, without the ends, got {ratio}")
        first, second = torch.combinations(torch.arange(1, stations.shape[1]), 2).T
        origin = stations[:, :1].double()
        a, b = stations[:, first].double(), stations[:, second].double()
        self.ratio = float(ratio)
        self.register_buffer("baselines", torch.stack([a - origin, b - a, origin - b]).flatten(1, 2))  # (3, M, 2)
        self.domain_shape, self.range_shape = (2,), (self.baselines.shape[1],)

    def apply(self, x: Tensor) -> Tensor:
        """Phasors of the bispectrum, (B, 2) -> (B, M): all triangles with the first station, which are independent."""
        turns = (x @ self.baselines.flatten(0, 1).T.to(x.dtype)).unflatten(1, (3, -1))
        angle = 2 * torch.pi * turns
        visibility = torch.complex(1 + self.ratio * angle.cos(), self.ratio * angle.sin())
        product = visibility.prod(1)
        return product / product.abs()


def phase_retrieval(seed: int) -> ExactProblem:
    """Two or three magnitudes |a . x| with noise 0.15 of a pair x near (0.6, 0.3): two to four modes, weighed by it.

    The rows have unit length and random directions; x has the law N((0.6, 0.3), I).

    Parameters
    ----------
    seed : int
        Chooses the rows, their number, the truth and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    prior = GaussianPrior(torch.tensor([0.6, 0.3], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    rows = 2 + int(torch.randint(2, (1,), generator=generator))
    start = torch.rand((), generator=generator, dtype=torch.float64)
    turn = torch.pi * (start + torch.arange(rows, dtype=torch.float64) / rows)
    matrix = torch.stack([turn.cos(), turn.sin()], 1)
    return _grid_problem(prior, Magnitudes(matrix), 0.15, generator, f"phase retrieval, seed {seed}")


def closure_phases(seed: int) -> ExactProblem:
    """Where is the companion of a point source? Closure phases of four stations, posterior of several modes.

    The companion has flux ratio 0.6 and the law N(0, I) in units of the field. The stations lie at random on a disc of
    diameter 0.5 cycles per unit and are seen three times, turned by 40 degrees each; noise 0.2 per part of a phasor.

    Parameters
    ----------
    seed : int
        Chooses the stations, the truth and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    prior = GaussianPrior(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    radius, place = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    turn = 2 * torch.pi * place + torch.arange(3)[:, None] * torch.pi / 4.5
    stations = 0.25 * radius.sqrt()[:, None] * torch.stack([turn.cos(), turn.sin()], -1)
    operator = BinaryClosurePhases(stations, 0.6)
    return _grid_problem(prior, operator, 0.2, generator, f"closure phases, seed {seed}")


def _grid_problem(
    prior: AnalyticPrior, operator: Operator, noise: float, generator: torch.Generator, name: str
) -> ExactProblem:
    truth = prior.sample_exact(1, generator=generator, dtype=torch.float64)
    blank = torch.zeros_like(operator(truth))
    problem = InverseProblem(prior, Likelihood(operator, noise, blank).simulate(truth, generator), name=name)
    return ExactProblem(problem, truth, GridPosterior(problem))
