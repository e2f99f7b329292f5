"""Posteriors of two parameters by quadrature: exact answers for non-linear operators."""

import math

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem
from sciinstruct.core.checks import check_event, check_positive
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.posterior_law import ExactPosterior

_NEGLIGIBLE = 25.0  # nats below the peak: 1e-11 of the density
_CHUNK = 2**18


class GridPosterior(ExactPosterior):
    """Posterior of two parameters on a grid of cells, normalised by the midpoint rule.

    A coarse grid over the prior finds the box that holds all mass; `cells` squared cells divide that box. Modes are
    the local maxima that rise above a twentieth of the highest; an x belongs to the nearest.

    Parameters
    ----------
    problem : InverseProblem
        Analytic prior of event shape (2,), any likelihood whose values are finite on the prior's box.
    cells : int
        Cells along each axis.

    Attributes
    ----------
    weights : Tensor, shape (K,)
        Posterior probability of every mode.
    means : Tensor, shape (K, 2)
        Mean of every mode.
    log_evidence : float
        log p(y), nats.
    std : Tensor, shape (2,)
        Standard deviations.
    cell : Tensor, shape (2,)
        Sides of a cell.

    Raises
    ------
    TypeError
        If the prior has no density.
    ValueError
        If the prior is not of two parameters.

    Notes
    -----
    Draws are uniform within a cell chosen by its probability: with cells of side h, variances are right to h^2/12.
    The error of evidence, mean and std falls as h^2 or faster, that of the modes' weights as h: cells straddle the
    lines between them.
    """

    def __init__(self, problem: InverseProblem, cells: int = 800) -> None:
        prior = problem.prior
        if not isinstance(prior, AnalyticPrior):
            raise TypeError(f"prior must be an AnalyticPrior, which has a density, got {type(prior).__name__}")
        if tuple(prior.event_shape) != (2,):
            raise ValueError(f"prior must be of two parameters, event shape (2,), got {tuple(prior.event_shape)}")
        check_positive("cells", float(cells))
        self.problem, self.cells = problem, int(cells)
        reach = 8 * prior.std
        coarse = _Cells(prior.mean - reach, prior.mean + reach, 400)
        joint = self._joint(coarse.centres)
        held = coarse.centres[joint > joint.max() - _NEGLIGIBLE]
        self._grid = _Cells(held.amin(0) - coarse.side, held.amax(0) + coarse.side, self.cells)
        self.cell = self._grid.side
        joint = self._joint(self._grid.centres)
        self.log_evidence = float(joint.logsumexp(0) + self.cell.log().sum())
        self.masses = joint.softmax(0)
        self.peaks = self._find_peaks(joint)
        self._summarise()

    def _joint(self, x: Tensor) -> Tensor:
        """Log of prior times likelihood, (B,)."""
        parts = [self.problem.prior.log_prob(part) + self.problem.log_likelihood(part) for part in x.split(_CHUNK)]  # type: ignore[operator]
        return torch.cat(parts)

    def _find_peaks(self, joint: Tensor) -> Tensor:
        """Local maxima, highest first, (K, 2)."""
        image = joint.reshape(1, 1, self.cells, self.cells)
        highest = torch.nn.functional.max_pool2d(image, 3, 1, 1)
        found = ((image == highest) & (image > image.max() - math.log(20))).flatten().nonzero().squeeze(1)
        return self._grid.centres[found[joint[found].argsort(descending=True)]]

    def _summarise(self) -> None:
        counted = self.masses > 1e-16
        centres, masses = self._grid.centres[counted], self.masses[counted]
        shares = torch.nn.functional.one_hot(self.labels(centres), len(self.peaks)) * masses[:, None]
        self.weights = shares.sum(0) / masses.sum()
        self.means = shares.T @ centres / shares.sum(0)[:, None]
        spread = (centres - self.mean).square() + self.cell.square() / 12
        self.std = (masses @ spread).sqrt()

    def labels(self, x: Tensor) -> Tensor:
        """Mode of each x (B, 2), numbered as `weights`, (B,) integers."""
        check_event("x", x, (2,))
        distance = torch.stack([(x - peak.to(x.dtype)).square().sum(1) for peak in self.peaks], 1)
        return distance.argmin(1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log p(x | y) of x (B, 2), (B,), in nats: not interpolated, only the evidence comes from the grid."""
        check_event("x", x, (2,))
        return (self._joint(x.double()) - self.log_evidence).to(x.dtype)

    def sample(self, n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw `n` independent pairs, (n, 2)."""
        total = self.masses.cumsum(0)  # torch.multinomial takes at most 2^24 classes
        at = torch.rand(n, generator=generator, dtype=torch.float64) * total[-1]
        cell = torch.searchsorted(total, at, right=True).clamp(max=len(total) - 1)
        jitter = torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5
        return (self._grid.centres[cell] + jitter * self.cell).to(dtype)


class _Cells:
    """A box divided into n x n cells."""

    def __init__(self, low: Tensor, high: Tensor, n: int) -> None:
        self.side = (high - low) / n
        steps = torch.arange(n, dtype=torch.float64) + 0.5
        self.centres = torch.cartesian_prod(*(a + steps * h for a, h in zip(low, self.side)))  # (n * n, 2)
