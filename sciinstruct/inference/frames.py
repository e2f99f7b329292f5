r"""Starts for posterior matching: where the components begin and along which axes they are measured.

A diffusion prior is locally Gaussian, and its denoiser tells which Gaussian. If the prior near :math:`x` were
:math:`N(m, C)`, its denoiser would be :math:`D(x) = m + J (x - m)` with :math:`J = C (C + \sigma^2)^{-1}`; hence
:math:`C = \sigma^2 J (I - J)^{-1}` and :math:`m = (I - J)^{-1}(D - J x)`. Together with the linearised data residuals
this gives a Laplace approximation of the posterior around each start: the frame in which the variational law is
trained.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, randn_like


class Frames(NamedTuple):
    """Means, orthonormal axes and scales of K Gaussian components in D dimensions."""

    mean: Tensor  # (K, D)
    basis: Tensor  # (K, D, D), columns are axes
    scale: Tensor  # (K, D), standard deviations along the axes


class LocalGaussians(NamedTuple):
    """Local Gaussian models of a prior, N(mean_k, V_k diag(values_k) V_k^T)."""

    mean: Tensor  # (K, D)
    values: Tensor  # (K, D), eigenvalues of the covariance
    vectors: Tensor  # (K, D, D), its eigenvectors

    @property
    def covariance(self) -> Tensor:
        """Covariances (K, D, D)."""
        return (self.vectors * self.values[:, None]) @ self.vectors.mT

    def energy(self, x: Tensor) -> Tensor:
        """Half the squared Mahalanobis distance (n, K) of flattened images `x` (n, K, D)."""
        along = torch.einsum("kde,nkd->nke", self.vectors, x.double() - self.mean)
        return 0.5 * (along.square() / self.values).sum(-1)


def isotropic_frames(mean: Tensor, scale: float) -> Frames:
    """Frames along the coordinate axes with one scale; `mean` (K, *event)."""
    flat = mean.flatten(1)
    eye = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    return Frames(flat, eye.repeat(len(flat), 1, 1), torch.full_like(flat, scale))


def jacobian(
    function: Callable[[Tensor], Tensor], x: Tensor, vectors: Tensor | None = None, chunk: int = 256
) -> Tensor:
    """Jacobians of `function`: (B, *event) -> (B, n), whose rows must not depend on each other.

    Parameters
    ----------
    vectors : Tensor, shape (m, n), optional
        Return (B, m, D), the products of these with the Jacobians; by default the Jacobians (B, n, D) themselves.
    chunk : int
        Products done at a time, each as a row of one large batch: plain passes, which every network supports.
    """
    if vectors is None:
        n = function(x[:1].detach()).flatten(1).shape[1]
        vectors = torch.eye(n, dtype=x.dtype, device=x.device)
    rows = []
    for image in x.detach():
        parts = []
        for some in vectors.split(chunk):
            copies = image.expand(len(some), *image.shape).clone().requires_grad_()
            parts.append(torch.autograd.grad(function(copies).flatten(1), copies, some)[0].flatten(1))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def local_gaussians(
    denoise: Callable[[Tensor, float], Tensor],
    x: Tensor,
    sigma: float,
    widest: float,
    *,
    probes: int = 1024,
    generator: torch.Generator | None = None,
) -> LocalGaussians:
    """Local Gaussian model of a prior around each row of `x` (K, *event) seen at noise level `sigma`.

    Parameters
    ----------
    denoise : callable
        ``denoise(x, sigma)``.
    widest : float
        Upper limit of a standard deviation, in units of x: where the denoiser does not shrink, the prior says nothing.
    probes : int
        Directions in which the denoiser's Jacobian is measured; beyond them its mean eigenvalue is used (Nystrom).
    """
    value, vector = _jacobian_eigen(lambda v: denoise(v, sigma).flatten(1), x, probes, generator)
    top = widest**2 / (widest**2 + sigma**2)
    gain = value.clamp(1e-6, top)
    flat = x.flatten(1).double()
    with torch.no_grad():
        move = denoise(x, sigma).double().flatten(1) - flat  # D - x = (I - J)(m - x)
    along = (vector.mT @ move[..., None])[..., 0] / (1 - gain)
    # a mean further off than the cloud of x given sigma can tell is extrapolation: limit it per axis
    limit = 3 * (sigma**2 / (1 - gain)).sqrt()
    mean = flat + (vector @ along.clamp(-limit, limit)[..., None])[..., 0]
    return LocalGaussians(mean, sigma**2 * gain / (1 - gain), vector)


def _jacobian_eigen(
    function: Callable[[Tensor], Tensor], x: Tensor, probes: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K, D) and eigenvectors (K, D, D) of symmetric Jacobians, exact or Nystrom's (Tropp 2017)."""
    dim = x[0].numel()
    if dim <= probes:
        j = jacobian(function, x).double()
        value, vector = torch.linalg.eigh(0.5 * (j + j.mT))
        return value, vector
    like: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": x.device}
    omega = torch.linalg.qr(torch.randn(dim, probes, **like))[0]
    y = jacobian(function, x, omega.T.to(x.dtype)).double().mT  # (K, D, r)
    core = omega.T @ y
    trace = core.diagonal(dim1=-2, dim2=-1).sum(-1) * dim / probes
    shift = 1e-3 * core.diagonal(dim1=-2, dim2=-1).abs().amax(-1)[:, None, None]
    eye = torch.eye(probes, dtype=torch.float64, device=x.device)
    size, axes = torch.linalg.eigh(0.5 * (core + core.mT) + shift * eye)
    root = axes / size.clamp(min=shift[..., 0]).sqrt()[:, None]
    left, singular, _ = torch.linalg.svd((y + shift * omega) @ root, full_matrices=False)
    value = (singular.square() - shift[..., 0]).clamp(min=0)
    rest = ((trace - value.sum(-1)) / (dim - probes)).clamp(min=0)[:, None].expand(-1, dim - probes)
    value = torch.maximum(value, rest[:, :1])
    full = torch.linalg.qr(torch.cat([left, torch.randn(len(x), dim, dim - probes, **like)], -1))[0]
    return torch.cat([value, rest], -1), full


def residual_function(problem: InverseProblem) -> Callable[[Tensor], Tensor]:
    """Whitened residuals (B, n) as a function of flattened images (B, D) in the prior's units."""
    shape = tuple(problem.prior.event_shape)
    return lambda flat: problem.likelihood.residuals(problem.prior.to_physical(flat.reshape(-1, *shape)))


def laplace(
    problem: InverseProblem, model: LocalGaussians, x: Tensor, target: Tensor, inflation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Gauss-Newton proposal for a locally Gaussian prior: means (K, D) and covariances (K, D, D).

    Parameters
    ----------
    x : Tensor, shape (K, *event)
        Where the residuals are linearised.
    target : Tensor, shape (K, n)
        Subtracted from the residuals: zero for the mode, noise for a randomise-then-optimise draw.
    inflation : float
        Factor on the standard deviation of all data, above 1 for the first steps from afar.
    """
    function = residual_function(problem)
    j = jacobian(function, x.flatten(1)).double() / inflation
    with torch.no_grad():
        r = (function(x.flatten(1)).double() - target) / inflation
    prior = model.covariance
    # data-space form, G = C J^T (I + J C J^T)^-1, as there are fewer data than pixels
    cj = prior @ j.mT
    eye = torch.eye(j.shape[1], dtype=j.dtype, device=j.device)
    chol = torch.linalg.cholesky(eye + j @ cj)
    flat = x.flatten(1).double()
    linear = r + (j @ (model.mean - flat)[..., None])[..., 0]  # residual at the prior mean, linearised at x
    mean = model.mean - (cj @ torch.cholesky_solve(linear[..., None], chol))[..., 0]
    return mean, prior - cj @ torch.cholesky_solve(cj.mT, chol)


def _search(
    problem: InverseProblem, model: LocalGaussians, x: Tensor, mean: Tensor, target: Tensor, inflation: float
) -> Tensor:
    """Best point (K, *event) between `x` and the proposal `mean`, of steps 1, 1/2, 1/4, ... and none."""
    flat = x.flatten(1).double()
    steps = torch.tensor([1.0, 0.5, 0.25, 0.1, 0.03, 0.0], dtype=flat.dtype, device=flat.device)
    tried = flat + steps[:, None, None] * (mean - flat)  # (n, K, D)
    with torch.no_grad():
        r = residual_function(problem)(tried.reshape(-1, flat.shape[1]).to(x.dtype)).double()
        misfit = 0.5 * ((r.reshape(*tried.shape[:2], -1) - target) / inflation).square().sum(-1)
        cost = (misfit + model.energy(tried)).nan_to_num(nan=float("inf"))
    best = cost.argmin(0)
    return tried[best, torch.arange(len(x), device=x.device)].to(x.dtype).reshape(x.shape)


def frames_from_covariance(mean: Tensor, covariance: Tensor, smallest: float, dtype: torch.dtype) -> Frames:
    """Eigen-axes and scales of covariances (K, D, D); scales are kept above `smallest`."""
    value, vector = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    scale = value.clamp(min=smallest**2).sqrt()
    return Frames(mean.to(dtype), vector.to(dtype), scale.to(dtype))


def laplace_frames(
    problem: InverseProblem,
    starts: Tensor,
    levels: tuple[float, ...],
    *,
    smallest: float,
    widest: float,
    iterations: int = 10,
    generator: torch.Generator | None = None,
) -> Frames:
    """Walk `starts` (K, *event) towards the posterior and return the Laplace frame of each.

    At each level of `levels` (falling) the prior is replaced by its local Gaussian model and `iterations` Gauss-Newton
    steps with a line search are taken, with randomised data until the last level, so that different starts stay
    different where the data leave room. The first level starts with inflated data errors.
    """
    dtype, x = starts.dtype, starts.clone()
    with torch.no_grad():
        noise = randn_like(problem.likelihood.residuals(problem.prior.to_physical(x)), generator).double()
    for level in levels:
        model = local_gaussians(problem.prior.denoise, x, level, widest, generator=generator)
        target = noise if level != levels[-1] else torch.zeros_like(noise)
        for step in range(iterations):
            inflation = max(1.0, 16.0 * 0.5**step) if level == levels[0] else 1.0
            mean, covariance = laplace(problem, model, x, target, inflation)
            x = _search(problem, model, x, mean, target, inflation)
    return frames_from_covariance(x.flatten(1), covariance, smallest, dtype)
