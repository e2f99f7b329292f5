"""An inverse problem together with its exact answer."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Likelihood, LinearOperator
from sciinstruct.core.checks import check_finite
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.exact import exact_posterior
from sciinstruct.priors.posterior_law import ExactPosterior


class ExactProblem(NamedTuple):
    """An inverse problem and its answer; prior and likelihood share their units.

    `posterior` is a `ClosedPosterior` (with density and standard deviation) up to 32x32 pixels and for blurs, a
    `MatheronPosterior` (weights, means, draws) for larger images, and a `GridPosterior` for non-linear problems.
    """

    problem: InverseProblem
    truth: Tensor  # (1, *event_shape), float64: the image the data were simulated from
    posterior: ExactPosterior


class MatrixOperator(LinearOperator):
    """Product of a matrix with a vector, (B, n) -> (B, m).

    Parameters
    ----------
    matrix : Tensor, shape (m, n)
        Real.

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
        """Data, (B, n) -> (B, m)."""
        return x @ self.matrix.T.to(x.dtype)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Product with the transpose, (B, m) -> (B, n)."""
        return y @ self.matrix.to(y.dtype)


def linear_problem(
    prior: AnalyticPrior, operator: LinearOperator, noise: float, generator: torch.Generator, name: str
) -> ExactProblem:
    """Draw a truth from the prior and data from the truth, and condition.

    Parameters
    ----------
    prior : AnalyticPrior
    operator : LinearOperator
    noise : float
        Standard deviation, in units of the data; of each part if they are complex.
    generator : torch.Generator
        Draws truth, then noise.
    name : str
        For reports.
    """
    truth = prior.sample_exact(1, generator=generator, dtype=torch.float64)
    blank = torch.zeros_like(operator(truth))
    likelihood = Likelihood(operator, noise, blank).simulate(truth, generator)
    return ExactProblem(InverseProblem(prior, likelihood, name=name), truth, exact_posterior(prior, likelihood))


def mode_labels(exact: ExactProblem, x: Tensor) -> Tensor:
    """Which of the posterior's modes each x (B, *event_shape) belongs to, (B,) integers, numbered as its weights.

    For a mixture prior it is the component most responsible for x: given x the data say nothing more about it, so
    prior and posterior agree on it. A `GridPosterior` knows its own modes.
    """
    own = getattr(exact.posterior, "labels", None)
    if own is not None:
        return own(x)
    prior = exact.problem.prior
    assert isinstance(prior, AnalyticPrior)
    return prior.responsibilities(x).argmax(1)


def mode_shares(exact: ExactProblem, x: Tensor) -> Tensor:
    """Share of x (B, *event_shape) in each mode, (K,), float64."""
    counts = torch.bincount(mode_labels(exact, x), minlength=len(exact.posterior.weights))
    return counts.double() / len(x)
