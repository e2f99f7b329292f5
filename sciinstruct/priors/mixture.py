"""Gaussian mixtures on vectors or small images, dense covariances or multiples of the identity."""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.priors.analytic import AnalyticPrior


class GaussianMixture(AnalyticPrior):
    r"""Mixture of Gaussians with full covariances.

    Parameters
    ----------
    means : Tensor, shape (K, *event_shape)
        Component means; events are vectors ``(d,)`` or images ``(C, H, W)``.
    covariances : Tensor, shape (K, d, d) or (1, d, d)
        Symmetric, positive semi-definite; d is the number of entries of one event. One is shared by all components.
    weights : Tensor, shape (K,), optional
        Positive; divided by their sum. Equal by default.
    sigma_range : tuple of float, optional
        Noise levels the diffusion solvers span; by default from a tenth of the smallest standard deviation up.

    Raises
    ------
    ValueError
        On shapes that disagree, weights that are not positive, or covariances that are not symmetric and PSD.

    Notes
    -----
    Covariances are diagonalised once; a call costs two matrix products of size (B, d) x (d, K d), or (d, d) if shared.
    """

    basis: Tensor
    eigenvalues: Tensor
    offsets: Tensor

    def __init__(
        self,
        means: Tensor,
        covariances: Tensor,
        weights: Tensor | None = None,
        *,
        sigma_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(means, weights)
        flat = self.means.flatten(1)
        k, d = flat.shape
        eigenvalues, vectors = _diagonalise(covariances, k, d)
        self.register_buffer("eigenvalues", eigenvalues)  # (K or 1, d)
        self.register_buffer("basis", vectors.transpose(0, 1).reshape(d, -1).contiguous())  # columns: all U_k
        self.register_buffer("offsets", torch.einsum("kd,kde->ke", flat, vectors.expand(k, d, d)))  # U_k^T mu_k
        self.sigma_range = sigma_range or self._default_range()

    def eigenvalue_range(self) -> tuple[float, float]:
        """Smallest and largest covariance eigenvalue over all components."""
        return float(self.eigenvalues.min()), float(self.eigenvalues.max())

    @property
    def shared_covariance(self) -> bool:
        """Whether all components have one covariance."""
        return len(self.eigenvalues) == 1

    def _analyse(self, x: Tensor) -> Tensor:
        rotated = (x.flatten(1) @ self.basis.to(x.dtype)).reshape(len(x), *self.eigenvalues.shape)
        return rotated - self.offsets.to(x.dtype)

    def _component_log_prob(self, coefficients: Tensor, variance: Tensor) -> Tensor:
        total = self.eigenvalues + variance[:, None, None]
        return -0.5 * (coefficients.square() / total + (2 * math.pi * total).log()).sum(-1)

    def _shrink(self, coefficients: Tensor, variance: Tensor, gamma: Tensor) -> Tensor:
        e = self.eigenvalues.to(coefficients.dtype)
        kept = gamma[..., None] * (self.offsets.to(e) + e / (e + variance[:, None, None]) * coefficients)
        kept = kept.sum(1) if self.shared_covariance else kept.flatten(1)
        return (kept @ self.basis.to(e).T).reshape(-1, *self.event_shape)

    def _vectors(self) -> Tensor:
        """Eigenvectors of every component, (K, d, d)."""
        d = len(self.basis)
        return self.basis.reshape(d, -1, d).transpose(0, 1).expand(self.n_components, d, d)

    def _colour(self, white: Tensor, labels: Tensor) -> Tensor:
        scaled = white.flatten(1) * self.eigenvalues.expand_as(self.offsets)[labels].sqrt()
        out = torch.empty_like(scaled)
        for k, vectors in enumerate(self._vectors()):
            out[labels == k] = scaled[labels == k] @ vectors.T
        return out.reshape(white.shape)

    def covariance_product(self, x: Tensor, component: int) -> Tensor:
        """Covariance of one component times each event of the batch `x`."""
        e = self.eigenvalues.expand_as(self.offsets)[component].to(x.dtype)
        u = self._vectors()[component].to(x.dtype)
        return ((x.flatten(1) @ u * e) @ u.T).reshape(x.shape)

    def component_variances(self) -> Tensor:
        """Variance of every entry within each component, (K, *event_shape)."""
        e = self.eigenvalues.expand_as(self.offsets)
        return torch.einsum("kde,ke->kd", self._vectors().square(), e).reshape(self.means.shape)


class IsotropicMixture(AnalyticPrior):
    """Mixture of Gaussians whose covariances are multiples of the identity: the fast path for many components.

    With tiny variances this is the empirical law of a set of images (the memorisation reference).

    Parameters
    ----------
    means : Tensor, shape (K, *event_shape)
        Component means.
    variances : Tensor or float, shape () or (K,)
        Variance per coordinate of each component.
    weights : Tensor, shape (K,), optional
        Positive; divided by their sum. Equal by default.
    sigma_range : tuple of float, optional
        Noise levels the diffusion solvers span.

    Raises
    ------
    ValueError
        On shapes that disagree, negative variances, or weights that are not positive.
    """

    variances: Tensor

    def __init__(
        self,
        means: Tensor,
        variances: Tensor | float,
        weights: Tensor | None = None,
        *,
        sigma_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(means, weights)
        variances = torch.as_tensor(variances, device=means.device).detach().double()
        if variances.shape not in ((), (len(means),)) or not (variances >= 0).all():
            raise ValueError(f"variances must be one or {len(means)} non-negative numbers, got {variances.tolist()}")
        self.register_buffer("variances", variances.expand(len(means)).clone())
        self.sigma_range = sigma_range or self._default_range()

    def eigenvalue_range(self) -> tuple[float, float]:
        """Smallest and largest variance."""
        return float(self.variances.min()), float(self.variances.max())

    def _analyse(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _component_log_prob(self, coefficients: Tensor, variance: Tensor) -> Tensor:
        flat = self.means.flatten(1)
        total = self.variances + variance[:, None]
        square = coefficients.square().sum(1, keepdim=True) - 2 * coefficients @ flat.T + flat.square().sum(1)
        return -0.5 * (square / total + flat.shape[1] * (2 * math.pi * total).log())

    def _shrink(self, coefficients: Tensor, variance: Tensor, gamma: Tensor) -> Tensor:
        e = self.variances.to(coefficients.dtype)
        share = gamma / (e + variance[:, None])
        flat = self.means.flatten(1).to(coefficients.dtype)
        kept = (share * e).sum(1, keepdim=True) * coefficients + (variance[:, None] * share) @ flat
        return kept.reshape(-1, *self.event_shape)

    def _colour(self, white: Tensor, labels: Tensor) -> Tensor:
        return (self.variances[labels].sqrt()[:, None] * white.flatten(1)).reshape(white.shape)

    def covariance_product(self, x: Tensor, component: int) -> Tensor:
        """Variance of one component times each event of the batch `x`."""
        return self.variances[component].to(x.dtype) * x

    def component_variances(self) -> Tensor:
        """Variance of every entry within each component, (K, *event_shape)."""
        return (self.variances[:, None] * torch.ones_like(self.means.flatten(1))).reshape(self.means.shape)


def _diagonalise(covariances: Tensor, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K or 1, d), rounding below zero removed, and eigenvectors (K or 1, d, d)."""
    if tuple(covariances.shape) not in ((k, d, d), (1, d, d)):
        raise ValueError(f"covariances must have shape {(k, d, d)} or {(1, d, d)}, got {tuple(covariances.shape)}")
    check_finite("covariances", covariances)
    matrix = covariances.detach().double()
    size = matrix.abs().amax()
    if (matrix - matrix.mT).abs().amax() > 1e-6 * size:
        raise ValueError("covariances must be symmetric; use 0.5 * (C + C.mT)")
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    if eigenvalues.min() < -1e-6 * size:
        raise ValueError(f"covariances must be positive semi-definite, an eigenvalue is {float(eigenvalues.min()):.3g}")
    return eigenvalues.clamp(min=0), vectors
