r"""Exact posterior draws of large images by Matheron's rule.

A draw x' of the prior and n' of the noise become a posterior draw :math:`x' + C G^T u` with
:math:`(I + G C G^T) u = b - G x' - n'` (whitened data b = G x + n). The system is solved by Cholesky where the data are
few, by conjugate gradients where they are many.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from sciinstruct.core.errors import SolverError
from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.core.random import randn_like
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.posterior_law import ExactPosterior
from sciinstruct.priors.whitened import CHUNK, Whitened

GRAM_DATA = 4096  # real data up to which the m x m system is factorised


class DataSpaceSolver(Protocol):
    """Solves (I + G C_k G^T) u = r."""

    def solve(self, component: int, r: Tensor) -> Tensor:
        """(B, m) -> (B, m)."""
        ...


class CholeskySolver:
    """Factorised I + G C_k G^T, one (m, m) matrix per distinct covariance."""

    def __init__(self, prior: AnalyticPrior, system: Whitened) -> None:
        n = 1 if prior.shared_covariance else prior.n_components
        eye = torch.eye(system.size, dtype=torch.float64, device=system.data.device)
        self.factors = []
        for k in range(n):
            parts = [system.apply(prior.covariance_product(system.adjoint(rows), k)) for rows in eye.split(CHUNK)]
            gram = torch.cat(parts)
            self.factors.append(torch.linalg.cholesky(eye + 0.5 * (gram + gram.T)))

    def _factor(self, component: int) -> Tensor:
        return self.factors[component if len(self.factors) > 1 else 0]

    def solve(self, component: int, r: Tensor) -> Tensor:
        """(B, m) -> (B, m)."""
        return torch.cholesky_solve(r.T, self._factor(component)).T

    def log_density(self, component: int, r: Tensor) -> Tensor:
        """Log N(r; 0, I + G C_k G^T) of one residual (m,)."""
        factor = self._factor(component)
        white = torch.linalg.solve_triangular(factor, r[:, None], upper=False)
        return -0.5 * white.square().sum() - factor.diagonal().log().sum() - 0.5 * len(r) * math.log(2 * math.pi)


class ConjugateGradients:
    """Batched conjugate gradients on I + G C_k G^T.

    Parameters
    ----------
    tolerance : float
        Residual norm over right-hand side norm at which every row has converged.
    max_iterations : int
        Iterations after which `SolverError` is raised.
    """

    def __init__(
        self, prior: AnalyticPrior, system: Whitened, *, tolerance: float = 1e-10, max_iterations: int = 5000
    ) -> None:
        self.prior, self.system = prior, system
        self.tolerance, self.max_iterations = tolerance, max_iterations
        self.iterations = 0  # of the last solve

    def solve(self, component: int, r: Tensor) -> Tensor:
        """(B, m) -> (B, m); raises SolverError without convergence."""
        u, residual, direction = torch.zeros_like(r), r, r
        square = r.square().sum(1, keepdim=True)
        target = self.tolerance**2 * square
        for iteration in range(1, self.max_iterations + 1):
            image = self._product(component, direction)
            step = square / (direction * image).sum(1, keepdim=True).clamp(min=1e-300)
            u = u + step * direction
            residual = residual - step * image
            new = residual.square().sum(1, keepdim=True)
            if (new <= target).all():
                self.iterations = iteration
                return u
            direction = residual + new / square.clamp(min=1e-300) * direction
            square = new
        worst = float((square / target).max().sqrt()) * self.tolerance
        raise SolverError(
            f"conjugate gradients reached a relative residual of {worst:.1e} after {self.max_iterations} iterations, "
            f"asked {self.tolerance:.1e}; raise max_iterations or tolerance"
        )

    def _product(self, component: int, u: Tensor) -> Tensor:
        return u + self.system.apply(self.prior.covariance_product(self.system.adjoint(u), component))


class MatheronPosterior(ExactPosterior):
    """Exact weights, means and draws of a posterior too large for a dense covariance.

    Parameters
    ----------
    prior : AnalyticPrior
        The prior.
    system : Whitened
        The data.
    solver : CholeskySolver or ConjugateGradients
        Conjugate gradients only for priors of one component: they give no weights.
    """

    def __init__(self, prior: AnalyticPrior, system: Whitened, solver: DataSpaceSolver) -> None:
        self.prior, self.system, self.solver = prior, system, solver
        residuals = system.data - system.apply(prior.means)
        self.log_evidence, self.weights = math.nan, torch.ones_like(prior.log_weights)
        if isinstance(solver, CholeskySolver):
            logs = [solver.log_density(k, r) for k, r in enumerate(residuals)]
            joint = prior.log_weights + torch.stack(logs)
            self.weights = joint.softmax(0)
            self.log_evidence = float(torch.logsumexp(joint, 0)) - system.log_volume
        elif prior.n_components > 1:
            raise ValueError("a mixture needs the CholeskySolver: conjugate gradients give no component weights")
        self.means = torch.cat(
            [self._correct(k, m[None], r[None]) for k, (m, r) in enumerate(zip(prior.means, residuals))]
        )

    def _correct(self, component: int, x: Tensor, residual: Tensor) -> Tensor:
        u = self.solver.solve(component, residual)
        return x + self.prior.covariance_product(self.system.adjoint(u), component)

    def sample(self, n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw `n` independent images, (n, *event_shape), in random order of the components."""
        labels = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        out = torch.empty(n, *self.prior.event_shape, dtype=dtype, device=labels.device)
        for k in labels.unique().tolist():
            mine = labels == k
            x = self.prior.sample_component(k, int(mine.sum()), generator)
            predicted = self.system.apply(x)
            out[mine] = self._correct(k, x, self.system.data - predicted - randn_like(predicted, generator)).to(dtype)
        return out


def matheron_posterior(prior: AnalyticPrior, likelihood: BaseLikelihood) -> MatheronPosterior:
    """Exact posterior by Matheron's rule: Cholesky up to 4096 real data, conjugate gradients above.

    Raises
    ------
    ValueError
        If a mixture meets more data than that: its weights need the determinant of their covariance.
    """
    system = Whitened(prior, likelihood)
    if system.size <= GRAM_DATA:
        return MatheronPosterior(prior, system, CholeskySolver(prior, system))
    if prior.n_components > 1:
        raise ValueError(
            f"exact weights of a mixture need at most {GRAM_DATA} real data or {prior.event_shape} images of at most "
            f"1024 pixels, got {system.size} data; use one component or fewer data"
        )
    return MatheronPosterior(prior, system, ConjugateGradients(prior, system))
