"""The data's pull on a denoised image under a Gaussian guess of its error, shared by guided and proximal samplers."""

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem
from sciinstruct.inference.annealing import dual_solve, linearise
from sciinstruct.inference.baselines.curvature import data_curvature
from sciinstruct.inference.error_law import ErrorLaw

_NUMBERS = 2**21  # of the Jacobians that are held together


class DataPull:
    r"""Whitened residuals r and Jacobians J of a problem, solved against isotropic Gaussians.

    With the clean image taken for N(c, v I) and the residuals for linear around c, the data's law is Gaussian with
    residuals r(c) of covariance :math:`I + v J J^T`. Residuals that are affine in the image are decomposed once; others
    are linearised anew at every image.

    Parameters
    ----------
    problem : InverseProblem
        Its likelihood must have whitened residuals.
    draws : Tensor, shape (n, *event)
        Images of the prior, at least two: where the residuals are probed, and with which dtype and device.

    Raises
    ------
    NotImplementedError
        If the likelihood has no whitened residuals.
    """

    def __init__(self, problem: InverseProblem, draws: Tensor) -> None:
        self._problem, self._curvature = problem, data_curvature(problem, draws)
        with torch.no_grad():
            self._size = problem.likelihood.residuals(problem.prior.to_physical(draws[:1])).numel() * draws[0].numel()

    def __call__(self, clean: Tensor, variance: float) -> Tensor:
        r"""Return the pull :math:`J^T (I + v J J^T)^{-1} r` at each image of `clean` (B, *event), same shape.

        It is the gradient in c of minus the logarithm of the data's law above; and c minus v times it minimises
        :math:`|r(x)|^2 + |x - c|^2 / v` over x, both for residuals linear around c.

        Parameters
        ----------
        clean : Tensor, shape (B, *event)
            Centres c, in the prior's units.
        variance : float
            v, in the prior's units squared.
        """
        slope = self._curvature.slope
        if slope is None:
            parts = clean.split(max(1, _NUMBERS // self._size))
            return torch.cat([self._linearised(some, variance) for some in parts]).reshape(clean.shape)
        at_centre = slope.to(clean.dtype) + self._curvature.apply(lambda e: e, clean.flatten(1))
        return self._curvature.apply(lambda e: 1 / (1 + variance * e), at_centre).reshape(clean.shape)

    def misfit(self, clean: Tensor) -> float:
        """Mean norm of the residuals at `clean` (B, *event)."""
        with torch.no_grad():
            residual = self._problem.likelihood.residuals(self._problem.prior.to_physical(clean))
        return float(residual.norm(dim=1).mean())

    def _linearised(self, clean: Tensor, variance: float) -> Tensor:
        residual, jacobian = linearise(self._problem, clean)
        return dual_solve(jacobian, ErrorLaw(torch.full_like(clean[0], variance**0.5), None), residual)
