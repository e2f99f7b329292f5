r"""Starts for posterior matching: where the components begin and along which axes they are measured.

A diffusion prior is locally Gaussian, and its denoiser tells which Gaussian. If the prior near :math:`x` were
:math:`N(m, C)`, its denoiser would be :math:`D(x) = m + J (x - m)` with :math:`J = C (C + \sigma^2)^{-1}`; hence
:math:`C = \sigma^2 J (I - J)^{-1}` and :math:`m = (I - J)^{-1}(D - J x)`. Together with the linearised data residuals
this gives a Laplace approximation of the posterior around each start: the frame in which the variational law is trained.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, randn_like


class Frames(NamedTuple):
    """Means, orthonormal axes and scales of K Gaussian components in D dimensions."""

    mean: Tensor  # (K, D)
    basis: Tensor  # (K, D, D), columns are axes
    scale: Tensor  # (K, D), standard deviations along the axes


class LocalGaussians(NamedTuple):
    """Local Gaussian models N(mean_k, covariance_k) of a prior."""

    mean: Tensor  # (K, D)
    covariance: Tensor  # (K, D, D)


def isotropic_frames(mean: Tensor, scale: float) -> Frames:
    """Frames along the coordinate axes with one scale; `mean` (K, *event)."""
    flat = mean.flatten(1)
    eye = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    return Frames(flat, eye.repeat(len(flat), 1, 1), torch.full_like(flat, scale))


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor, chunk: int = 512) -> Tensor:
    """Jacobians (B, n, D) of `function`: (B, *event) -> (B, n), whose rows must not depend on each other.

    `chunk` vector products are done at a time, each as a row of one large batch: plain passes, which every network supports.
    """
    rows = []
    n = function(x[:1].detach()).flatten(1).shape[1]
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    for image in x.detach():
        parts = []
        for vectors in eye.split(chunk):
            copies = image.expand(len(vectors), *image.shape).clone().requires_grad_()
            parts.append(torch.autograd.grad(function(copies).flatten(1), copies, vectors)[0].flatten(1))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def local_gaussians(denoise: Callable, x: Tensor, sigma: float, widest: float) -> LocalGaussians:
    """Local Gaussian model of a prior around each row of `x` (K, *event) seen at noise level `sigma`.

    Parameters
    ----------
    denoise : callable
        ``denoise(x, sigma)``.
    widest : float
        Upper limit of a standard deviation, in units of x: where the denoiser does not shrink, the prior says nothing.
    """
    k, dim = len(x), x[0].numel()
    j = jacobian(lambda v: denoise(v, sigma).flatten(1), x)
    value, vector = torch.linalg.eigh((0.5 * (j + j.mT)).double())
    top = widest**2 / (widest**2 + sigma**2)
    gain = value.clamp(1e-6, top)
    covariance = (vector * (sigma**2 * gain / (1 - gain))[:, None]) @ vector.mT
    flat = x.flatten(1).double()
    with torch.no_grad():
        move = denoise(x, sigma).double().flatten(1) - flat  # D - x = (I - J)(m - x)
    along = (vector.mT @ move[..., None])[..., 0] / (1 - gain)
    # a mean further off than the cloud of x given sigma can tell is extrapolation: limit it per axis
    limit = 3 * (sigma**2 / (1 - gain)).sqrt()
    mean = flat + (vector @ along.clamp(-limit, limit)[..., None])[..., 0]
    return LocalGaussians(mean.reshape(k, dim), covariance)


def residual_function(problem: InverseProblem) -> Callable[[Tensor], Tensor]:
    """Whitened residuals (B, n) as a function of flattened images (B, D) in the prior's units."""
    shape = tuple(problem.prior.event_shape)
    return lambda flat: problem.likelihood.residuals(problem.prior.to_physical(flat.reshape(-1, *shape)))


def laplace(
    problem: InverseProblem, prior: LocalGaussians, x: Tensor, target: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One Gauss-Newton step and its covariance for a locally Gaussian prior; returns means (K, D), covariances (K, D, D).

    `target` (K, n) is subtracted from the residuals: random noise makes the result a randomise-then-optimise sample.
    """
    function = residual_function(problem)
    j = jacobian(function, x.flatten(1)).double()
    with torch.no_grad():
        r = function(x.flatten(1)).double()
    if target is not None:
        r = r - target.double()
    # data-space form: G = C J^T (I + J C J^T)^-1, as there are fewer data than pixels
    cj = prior.covariance @ j.mT
    eye = torch.eye(j.shape[1], dtype=j.dtype, device=j.device)
    chol = torch.linalg.cholesky(eye + j @ cj)
    flat = x.flatten(1).double()
    linear = r + (j @ (prior.mean - flat)[..., None])[..., 0]  # residual at the prior mean, linearised at x
    mean = prior.mean - (cj @ torch.cholesky_solve(linear[..., None], chol))[..., 0]
    covariance = prior.covariance - cj @ torch.cholesky_solve(cj.mT, chol)
    return mean, covariance


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
    damping: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[Frames, LocalGaussians]:
    """Walk `starts` (K, *event) towards the posterior and return the Laplace frame of each, and its local prior.

    At each level of `levels` (falling) the prior is replaced by its local Gaussian model and `damping` Gauss-Newton steps are
    taken, with randomised data until the last level, so that different starts stay different where the data leave room.
    """
    shape, dtype = tuple(problem.prior.event_shape), starts.dtype
    x = starts.clone()
    with torch.no_grad():
        noise = randn_like(problem.likelihood.residuals(problem.prior.to_physical(x)), generator)
    model = covariance = None
    for level in levels:
        model = local_gaussians(problem.prior.denoise, x, level, widest)
        for _ in range(damping):
            mean, covariance = laplace(problem, model, x, noise if level != levels[-1] else None)
            x = mean.to(dtype).reshape(-1, *shape)
    assert model is not None and covariance is not None
    return frames_from_covariance(x.flatten(1), covariance, smallest, dtype), model
