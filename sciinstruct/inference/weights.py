r"""Mode weights of a fitted mixture, with an error bar.

The weight of a component is the exponential of minus its free energy
:math:`F_k = E_{q_k}[\log q - \log p - \log p(y|x)]`, whose plain Monte Carlo error is tens of nats. Where the
components started from Laplace frames, the same integral is known in closed form for a locally Gaussian prior and
linearised data; only the difference is averaged (a control variate), which leaves tenths of a nat.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, randn_like
from sciinstruct.inference.families.mixture import GaussianMixtureFamily
from sciinstruct.inference.frames import LocalGaussians, jacobian, local_gaussians, residual_function
from sciinstruct.inference.levels import draw_levels
from sciinstruct.inference.matching import evaluate
from sciinstruct.inference.scale import Scale


class WeightEstimate(NamedTuple):
    """Component weights with their Monte Carlo error."""

    weights: Tensor  # (K,)
    sd: Tensor  # (K,), standard error of the weights
    cost: Tensor  # (K,), free energy of each component, nats, one constant missing


class Reference(NamedTuple):
    """Closed-form twin of the free energy: a Gaussian prior and linear residuals around each component's mean."""

    prior_mean: Tensor  # (K, D)
    values: Tensor  # (K, D) eigenvalues of the local prior covariance
    vectors: Tensor  # (K, D, D)
    jacobian: Tensor  # (K, n, D) of the whitened residuals
    offset: Tensor  # (K, n) residuals at the means
    cost: Tensor  # (K,) its exact free energy


def make_reference(
    problem: InverseProblem, family: GaussianMixtureFamily, level: float, widest: float, smoothing: float
) -> Reference:
    """Build the twin at the components' present means, seen at noise `level`."""
    means = family.means.detach()
    images = means.reshape(-1, *family.event_shape)
    local: LocalGaussians = local_gaussians(problem.prior.denoise, images, level, widest)
    function = residual_function(problem)
    j = jacobian(function, means).double()
    with torch.no_grad():
        r = function(means).double()
    c = family.covariances().double()
    noise = smoothing**2 * torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    values, vectors = local.values, local.vectors
    shift = (vectors.mT @ (means.double() - local.mean)[..., None])[..., 0]
    rotated = (vectors * (vectors.mT @ c.mT).mT).sum(1)  # diagonal of V^T C V
    ratio = (rotated + smoothing**2) / (values + smoothing**2)
    kl = 0.5 * (ratio + shift.square() / (values + smoothing**2) - 1).sum(-1)
    root = torch.linalg.cholesky(c + noise)  # batched LU (slogdet) hangs in some builds of MKL with several threads
    kl = kl + 0.5 * (values + smoothing**2).log().sum(-1) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    data = 0.5 * (r.square().sum(-1) + (j * (j @ (c + noise))).sum((-1, -2)))
    return Reference(local.mean, values, vectors, j, r, kl + data)


def _difference(
    problem: InverseProblem,
    family: GaussianMixtureFamily,
    ref: Reference,
    lo: float,
    hi: float,
    groups: int,
    g: torch.Generator,
) -> Tensor:
    """One draw (K,) of the free energy minus its twin, averaged over stratified levels."""
    x0 = family.draw(groups, family.n_components, g).x0  # (G, K, *event)
    levels = draw_levels(lo, hi, groups, g, x0)
    noise = randn_like(x0, g)
    sigma = levels.sigma
    x = x0 + sigma.reshape(-1, *[1] * (x0.ndim - 1)) * noise
    ep, eq = evaluate(problem.prior.denoise, x, sigma).flatten(2), family.eps(x, sigma).flatten(2)
    own, _ = family.component_eps(x, sigma)
    own = own.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (G, K, D): component k on its own draw
    centred = torch.einsum("kde,gkd->gke", ref.vectors.to(x), x.flatten(2) - ref.prior_mean.to(x))
    shrunk = centred / (ref.values.to(x) + sigma[:, None, None] ** 2)
    er = sigma[:, None, None] * torch.einsum("kde,gke->gkd", ref.vectors.to(x), shrunk)
    n = noise.flatten(2)
    inner = ((ep - er) * (ep + er - 2 * n) - (eq - own) * (eq + own - 2 * n)).sum(-1)
    smooth = x0 + lo * randn_like(x0, g)
    data = -problem.log_likelihood(smooth.flatten(0, 1)).reshape(x0.shape[:2])
    moved = smooth.flatten(2) - family.means
    linear = ref.offset.to(x) + torch.einsum("knd,gkd->gkn", ref.jacobian.to(x), moved)
    return (levels.span * inner + data - 0.5 * linear.square().sum(-1)).mean(0)


def estimate_weights(
    problem: InverseProblem,
    family: GaussianMixtureFamily,
    ref: Reference,
    lo: float,
    hi: float,
    *,
    rounds: int,
    groups: int,
    generator: torch.Generator,
) -> WeightEstimate:
    """Settle the component weights of `family` (changed in place) by averaged mirror descent; the components stay."""
    history = []
    with torch.no_grad():
        for t in range(rounds):
            own = ref.cost.to(family.logits) + _difference(problem, family, ref, lo, hi, groups, generator)
            history.append(own)
            family.update_weights(own, 1.0 / (t + 2))
    stack = torch.stack(history)
    w = family.weights
    error = stack.std(0) / rounds**0.5
    total = (w * error).square().sum()
    sd = w * (((1 - w) * error) ** 2 + total - (w * error) ** 2).sqrt()
    return WeightEstimate(w, sd, stack.mean(0))


def settle_weights(
    problem: InverseProblem,
    family: GaussianMixtureFamily,
    scale: Scale,
    smallest: float,
    rounds: int,
    groups: int,
    generator: torch.Generator,
    largest: float | None = None,
) -> WeightEstimate:
    """`estimate_weights` with the twin at a tenth of the prior's sd; levels from `smallest` to `largest`."""
    reference = make_reference(problem, family, 0.1 * scale.sd, 3 * scale.sd, smallest)
    top = problem.prior.sigma_range[1] if largest is None else largest
    return estimate_weights(
        problem, family, reference, smallest, top, rounds=rounds, groups=groups, generator=generator
    )
