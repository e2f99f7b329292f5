r"""Mixtures of Gaussians with learned weights, means and covariances, and their exact diffused scores.

Each component is :math:`N(\mu_k, Q_k S_k (\Lambda_k) S_k Q_k^T)` in a fixed frame: an orthonormal basis :math:`Q_k` and
scales :math:`S_k` (from a Laplace start, so that the optimum is near :math:`\Lambda = I`). The full family learns a
square factor of :math:`\Lambda`, the low-rank family :math:`\Lambda = U U^T + \mathrm{diag}(d^2)`, whose inverse at
every noise level is Woodbury's.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from sciinstruct.core import randn_like
from sciinstruct.inference.families.base import ClosedFormFamily, Draw
from sciinstruct.inference.frames import Frames


class GaussianMixtureFamily(ClosedFormFamily):
    """What the two covariance models share: means in their frames, weights, responsibilities.

    Parameters
    ----------
    frames : Frames
        Start: means (K, D), orthonormal bases (K, D, D) and scales (K, D).
    event_shape : tuple of int
        Shape of one image, D numbers.
    """

    logits: Tensor
    start: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, frames: Frames, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.n_components = len(frames.mean)
        self.register_buffer("logits", torch.zeros_like(frames.mean[:, 0]))
        self.register_buffer("start", frames.mean.clone())
        self.register_buffer("basis", frames.basis.clone())
        self.register_buffer("scale", frames.scale.clone())
        self.shift = nn.Parameter(torch.zeros_like(frames.mean))

    @property
    def weights(self) -> Tensor:
        """Component weights (K,)."""
        return self.logits.softmax(0)

    @property
    def means(self) -> Tensor:
        """Component means (K, D)."""
        return self.start + torch.einsum("kde,ke->kd", self.basis, self.scale * self.shift)

    @abstractmethod
    def _colour(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws (count, K, D) of N(0, Lambda)."""

    @abstractmethod
    def _solve(self, residual: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(S Lambda S + sigma^2)^-1 residual and log-determinant; residual (G, K, M, D), sigma (G,) -> same, (G, K)."""

    @abstractmethod
    def _inner_covariances(self) -> Tensor:
        """Lambda of every component, (K, D, D)."""

    @abstractmethod
    def variances(self) -> Tensor:
        """Variances along the frame's axes, (K, D), detached."""

    def covariances(self) -> Tensor:
        """Covariance of every component, (K, D, D), detached."""
        root = (self.basis * self.scale[:, None]).detach()
        return root @ self._inner_covariances().detach() @ root.mT

    def _images(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draws (count, K, D) of every component."""
        return self.means + torch.einsum("kde,nke->nkd", self.basis, self.scale * self._colour(count, generator))

    def draw(self, groups: int, per_group: int, generator: torch.Generator | None) -> Draw:
        """Every component `ceil(per_group / K)` times in every group, weighted by its weight."""
        each = max(1, math.ceil(per_group / self.n_components))
        x = self._images(groups * each, generator).reshape(groups, each * self.n_components, *self.event_shape)
        component = torch.arange(self.n_components, device=x.device).repeat(each)
        return Draw(x, self.weights[component] / each, component)

    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draws, components by systematic resampling of the weights: counts differ from n pi by at most one."""
        with torch.no_grad():
            u = torch.rand((), generator=generator, dtype=self.logits.dtype, device=self.logits.device)
            points = (torch.arange(n, dtype=self.logits.dtype, device=self.logits.device) + u) / n
            index = torch.searchsorted(self.weights.cumsum(0), points).clamp(max=self.n_components - 1)
            images = [
                self._images(int((index == k).sum()), generator)[:, k]
                for k in range(self.n_components)
                if bool((index == k).any())
            ]
            order = torch.randperm(n, generator=generator, device=self.logits.device)
            return torch.cat(images)[order].reshape(n, *self.event_shape)

    def whiten(self, gradient: Tensor, component: Tensor) -> Tensor:
        """Gradients (G, M, *event) in the frame of each draw's component, (G, M, D)."""
        return self.scale[component] * torch.einsum("mde,gmd->gme", self.basis[component], gradient.flatten(2))

    def component_eps(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Each component's own noise prediction (G, K, M, D) and log-density up to a constant (G, K, M)."""
        flat = x.flatten(2)
        residual = torch.einsum("kde,gkmd->gkme", self.basis, flat.unsqueeze(1) - self.means[:, None])
        solved, logdet = self._solve(residual, sigma)
        logp = -0.5 * (residual * solved).sum(-1) - 0.5 * logdet[..., None]
        return sigma[:, None, None, None] * torch.einsum("kde,gkme->gkmd", self.basis, solved), logp

    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Responsibility-weighted noise prediction; `x` (G, M, *event), `sigma` (G,)."""
        each, logp = self.component_eps(x, sigma)
        gamma = (logp + self.logits.log_softmax(0)[:, None]).softmax(1)
        return torch.einsum("gkm,gkmd->gmd", gamma, each).reshape(x.shape)

    def rescale(self, gradient: Tensor) -> Tensor:
        """Divide by the component's weight: stationary points stay, light components learn as fast as heavy ones."""
        return gradient / self.weights.reshape(-1, *[1] * (gradient.ndim - 1))

    def update_weights(self, cost: Tensor, rate: float) -> None:
        """Move the logits against the cost; the optimum makes the cost of all weighty components equal."""
        centred = cost - (self.weights * cost).sum()
        self.logits -= rate * centred.clamp(-10 / rate, 10 / rate).to(self.logits)
        self.logits -= self.logits.logsumexp(0)
        self.logits.clamp_(min=-20.0)


class FullGaussianMixture(GaussianMixtureFamily):
    """Components with a full covariance: for up to a few hundred dimensions."""

    def __init__(self, frames: Frames, event_shape: tuple[int, ...]) -> None:
        super().__init__(frames, event_shape)
        eye = torch.eye(self.dim, dtype=frames.mean.dtype, device=frames.mean.device)
        self.factor = nn.Parameter(eye.repeat(self.n_components, 1, 1))

    def _inner_covariances(self) -> Tensor:
        return self.factor @ self.factor.mT

    def variances(self) -> Tensor:
        """Variances along the frame's axes, (K, D), detached."""
        return (self.scale**2 * self.factor.square().sum(-1)).detach()

    def _colour(self, count: int, generator: torch.Generator | None) -> Tensor:
        f = self.factor
        z = torch.randn(count, *f.shape[:2], generator=generator, dtype=f.dtype, device=f.device)
        return torch.einsum("kde,nke->nkd", f, z)

    def _solve(self, residual: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        root = self.scale[..., None] * self.factor
        eye = torch.eye(self.dim, dtype=root.dtype, device=root.device)
        chol = torch.linalg.cholesky(root @ root.mT + sigma[:, None, None, None] ** 2 * eye)
        solved = torch.cholesky_solve(residual.mT, chol).mT
        return solved, 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class LowRankGaussianMixture(GaussianMixtureFamily):
    """Components with a low-rank-plus-diagonal covariance in their frame: for images.

    Parameters
    ----------
    rank : int
        Columns of U; 0 leaves the diagonal alone.
    """

    def __init__(self, frames: Frames, event_shape: tuple[int, ...], rank: int) -> None:
        super().__init__(frames, event_shape)
        if not 0 <= rank <= self.dim:
            raise ValueError(f"rank must lie in 0..{self.dim}, got {rank}")
        self.log_diag = nn.Parameter(frames.mean.new_zeros(self.n_components, self.dim))
        # a small, fixed, full-rank start: columns on the widest axes, so that gradients are not zero
        widest = frames.scale.argsort(dim=1, descending=True)[:, :rank]
        u = 0.1 * torch.nn.functional.one_hot(widest, self.dim).mT.to(frames.mean)
        self.low_rank = nn.Parameter(u)

    def _inner_covariances(self) -> Tensor:
        return self.low_rank @ self.low_rank.mT + torch.diag_embed((2 * self.log_diag).exp())

    def variances(self) -> Tensor:
        """Variances along the frame's axes, (K, D), detached."""
        return (self.scale**2 * (self.low_rank.square().sum(-1) + (2 * self.log_diag).exp())).detach()

    def _colour(self, count: int, generator: torch.Generator | None) -> Tensor:
        u, d = self.low_rank, self.log_diag.exp()
        a = randn_like(u.new_empty(count, self.n_components, u.shape[2]), generator)
        b = randn_like(d.new_empty(count, *d.shape), generator)
        return torch.einsum("kdr,nkr->nkd", u, a) + d * b

    def _solve(self, residual: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        w = self.scale[..., None] * self.low_rank  # (K, D, R)
        diag = (self.scale * self.log_diag.exp()) ** 2 + sigma[:, None, None] ** 2  # (G, K, D)
        scaled = w / diag[..., None]  # (G, K, D, R)
        eye = torch.eye(w.shape[2], dtype=w.dtype, device=w.device)
        chol = torch.linalg.cholesky(eye + w.mT @ scaled)
        first = residual / diag[:, :, None]
        solved = first - torch.cholesky_solve((residual @ scaled).mT, chol).mT @ scaled.mT
        return solved, diag.log().sum(-1) + 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
