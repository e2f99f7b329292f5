"""How sharply the data bind: the Gauss-Newton matrix of the residuals, in its own basis."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem
from sciinstruct.inference.annealing import linearise

_POINTS = 8  # images over which non-linear data are averaged
_AFFINE = 1e-5  # what residuals may stray from a straight line, of their largest value


@dataclass(frozen=True)
class Curvature:
    r"""The matrix :math:`G = J^T J` of the whitened residuals' Jacobian, kept as :math:`V e V^T`.

    Parameters
    ----------
    values : Tensor, shape (k,)
        Its eigenvalues that can differ from zero, in 1/units of the prior squared.
    vectors : Tensor, shape (D, k)
        Their eigenvectors; everything orthogonal to them has eigenvalue 0.
    slope : Tensor or None, shape (D,)
        Gradient of :math:`|r|^2/2` at the origin where the residuals are affine, so that it is slope + G x everywhere;
        None where they are not, and G is an average.
    """

    values: Tensor
    vectors: Tensor
    slope: Tensor | None

    def apply(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f(G) x for vectors (B, D), f a function of the eigenvalues."""
        rest = function(self.values.new_zeros(1))
        return rest * x + (x @ self.vectors * (function(self.values) - rest)) @ self.vectors.T


def data_curvature(problem: InverseProblem, images: Tensor) -> Curvature:
    """Curvature of the data at the first few of `images` (n, *event), in the prior's units and their dtype.

    Raises
    ------
    NotImplementedError
        If the likelihood has no whitened residuals.
    """
    points = images[:_POINTS].double()
    first, jacobian = linearise(problem, points[:1])
    with torch.no_grad():
        values = problem.likelihood.residuals(problem.prior.to_physical(points))
    along = first + (points - points[:1]).flatten(1) @ jacobian[0].T
    affine = bool((along - values).abs().max() <= _AFFINE * values.abs().max())
    if affine:
        rows, slope = jacobian[0], jacobian[0].T @ (first[0] - jacobian[0] @ points[0].flatten())
    else:
        rows, slope = linearise(problem, points)[1].flatten(0, 1) / len(points) ** 0.5, None
    _, singular, basis = torch.linalg.svd(rows, full_matrices=False)
    cast = None if slope is None else slope.to(images.dtype)
    return Curvature(singular.square().to(images.dtype), basis.T.to(images.dtype).contiguous(), cast)
