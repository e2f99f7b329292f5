"""Two-dimensional mixtures of which one number is measured."""

import torch

from sciinstruct.priors.mixture import GaussianMixture
from sciinstruct.priors.problems.base import ExactProblem, MatrixOperator, linear_problem

_ROWS = (((0.3, 1.0),), ((0.0, 1.0),), ((0.6, 0.8),), ((-0.5, 1.0),))


def reference_mixture() -> GaussianMixture:
    """Three Gaussians in the plane: .4 N((-2,-1), diag(.15,.25)), .35 N((2,-1), diag(.25,.15)), .25 N((0,2), .2 I)."""
    means = torch.tensor([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    variances = torch.tensor([[0.15, 0.25], [0.25, 0.15], [0.2, 0.2]], dtype=torch.float64)
    return GaussianMixture(means, torch.diag_embed(variances), torch.tensor([0.4, 0.35, 0.25]))


def mixture_2d(seed: int) -> ExactProblem:
    """One number measured of two: y = a . x + 0.5 n under `reference_mixture`; the posterior has one to three modes.

    Parameters
    ----------
    seed : int
        Chooses the row a among four, the truth and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    row = int(torch.randint(len(_ROWS), (1,), generator=generator))
    operator = MatrixOperator(torch.tensor(_ROWS[row], dtype=torch.float64))
    return linear_problem(reference_mixture(), operator, 0.5, generator, f"2-D mixture, seed {seed}")
