"""Diffusion posterior sampling: ancestral diffusion sampling, each step guided by the residual of the denoised image.

Chung, Kim, McCann, Klasky and Ye 2023, "Diffusion posterior sampling for general noisy inverse problems".
"""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, SolverError, make_generator, randn_like, track
from sciinstruct.core.checks import check_positive
from sciinstruct.diffusion import vp_time
from sciinstruct.inference.scale import prior_scale


@dataclass(frozen=True)
class DPS:
    r"""Diffusion posterior sampling, all samples in one batch.

    From noise at the prior's largest level down, each step draws :math:`x_{i+1}` as ancestral sampling of the prior
    does from :math:`x_i`, then subtracts

    .. math:: \zeta \, (s^2 + \sigma_i^2) \, \nabla_{x_i} \| r(D(x_i; \sigma_i)) \| ,

    r the whitened residuals of the data, D the prior's denoiser (the gradient goes through it), s the prior's standard
    deviation.

    Parameters
    ----------
    zeta : float
        Strength of the guidance. With Gaussian noise of standard deviation :math:`\sigma_y` and s = 1 it is the
        paper's step times :math:`\sigma_y`, because the paper's residuals are not whitened. It goes with `steps`: half
        as many steps need twice the strength.
    steps : int
        Noise levels, uniform in the time of the linear VP schedule.

    Notes
    -----
    :math:`s^2 + \sigma^2` is what the paper's constant step in variance-preserving coordinates becomes in ours. The
    guidance takes the likelihood of the denoised image for that of the noisy one, and normalises its gradient: no
    strength gives the posterior in general. The default has the smallest sliced Wasserstein distance to exact
    posteriors on `sciinstruct.priors.problems` among 0.003 to 0.3.

    References
    ----------
    Chung et al. 2023, Algorithm 1 and section 3.4.
    """

    zeta: float = 0.1
    steps: int = 250

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, got {self.steps}")
        check_positive("zeta", self.zeta)

    def run(
        self,
        problem: InverseProblem,
        n_samples: int = 256,
        *,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Posterior:
        """Draw `n_samples` images, all in one batch.

        Parameters
        ----------
        problem : InverseProblem
            Prior and likelihood; the operator may be non-linear, the likelihood must have whitened residuals.
        n_samples : int
            Number of samples.
        generator : torch.Generator or int, optional
            Source of randomness, on the problem's device.
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step, {"residual": ..., "level": ...})``: mean norm of the residuals and noise level.
        dtype : torch.dtype
            Precision of the images.

        Returns
        -------
        Posterior
            In physical units; ``attributes["network_calls"]`` counts calls of the denoiser per sample, and one more for
            each gradient through it.

        Raises
        ------
        ValueError
            If `n_samples` is not positive.
        NotImplementedError
            If the likelihood has no whitened residuals.
        SolverError
            If an image turns NaN or infinite; the text names the step.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be positive, got {n_samples}")
        began = time.perf_counter()
        source = make_generator(generator)
        like = torch.zeros((), dtype=dtype, device=source.device)
        s = prior_scale(problem, 128, source, like).sd
        low, high = problem.prior.sigma_range
        levels = [*(s * vp_time(self.steps, low / s, high / s)).tolist(), 0.0]
        x = levels[0] * randn_like(like.expand(n_samples, *problem.prior.event_shape), source)
        steps = range(self.steps)
        for step in track(steps, progress=progress, description="diffusion posterior sampling"):
            sigma, next_sigma = levels[step : step + 2]
            clean, slope, norm = guidance(problem, x, sigma)
            x = ancestral_step(x, clean, sigma, next_sigma, source) - self.zeta * (s**2 + sigma**2) * slope
            if not torch.isfinite(x).all():
                raise SolverError(f"diffusion posterior sampling became NaN or infinite at step {step}; lower zeta")
            if callback is not None:
                callback(step, {"residual": norm, "level": sigma})
        attributes = {"solver": "DPS", "settings": asdict(self), "network_calls": 2 * self.steps}
        attributes["seconds"] = time.perf_counter() - began
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes)


def guidance(problem: InverseProblem, x: Tensor, sigma: float) -> tuple[Tensor, Tensor, float]:
    """Denoised images, gradient in `x` of the norm of their whitened residuals, and the mean of that norm."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        clean = problem.prior.denoise(leaf, sigma)
        norm = problem.likelihood.residuals(problem.prior.to_physical(clean)).norm(dim=1)
    (slope,) = torch.autograd.grad(norm.sum(), leaf)
    return clean.detach(), slope, float(norm.detach().mean())


def ancestral_step(x: Tensor, clean: Tensor, sigma: float, next_sigma: float, generator: torch.Generator) -> Tensor:
    """Draw from the law of the image at `next_sigma` given `x` at `sigma`, the clean image taken for known."""
    kept = (next_sigma / sigma) ** 2
    return clean + kept * (x - clean) + next_sigma * (1 - kept) ** 0.5 * randn_like(x, generator)
