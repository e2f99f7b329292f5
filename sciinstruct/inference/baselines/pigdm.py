"""Pseudo-inverse guided diffusion: the data's law given the noisy image, for a denoiser whose error is a Gaussian.

Song, Vahdat, Mardani and Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems".
"""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sciinstruct.core import (
    Callback,
    Denoiser,
    InverseProblem,
    Posterior,
    SolverError,
    make_generator,
    randn_like,
    track,
)
from sciinstruct.core.checks import check_positive
from sciinstruct.diffusion import log_uniform
from sciinstruct.inference.baselines.dps import ancestral_step
from sciinstruct.inference.baselines.linearised import DataPull
from sciinstruct.inference.scale import prior_scale


@dataclass(frozen=True)
class PiGDM:
    r"""Ancestral diffusion sampling with the denoiser guided by the data, all samples in one batch.

    The clean image given the noisy one is taken for :math:`N(D(x; \sigma), r^2 I)`, D the prior's denoiser, with

    .. math:: r^2 = \frac{\sigma^2 s^2}{\sigma^2 + s^2} ,

    s the prior's standard deviation times `spread`. The data y then have a Gaussian law given x, and

    .. math:: D_y = D + \sigma^2 \nabla_x \log N\!\left(y;\, A D,\, R + r^2 A A^T\right)

    takes the place of D, R the noise's covariance. The gradient goes through the denoiser, but not through A, which is
    linearised at D where the instrument is not linear.

    Parameters
    ----------
    spread : float
        s in units of the prior's standard deviation, root mean square over pixels. Small values trust the denoised
        image more, and pull harder while there is much noise.
    steps : int
        Steps between noise levels, uniform in the logarithm from the prior's largest to its smallest.

    Notes
    -----
    Exact, but for the steps, where the denoiser's error has the law assumed: an uncorrelated Gaussian prior of one
    variance, linear data and ``spread=1``. A prior that is correlated or has several modes has other errors: r is then
    too large in some directions and too small in others, and no `spread` gives the posterior.

    :math:`r^2` is kept above :math:`\sigma^2 - \sigma'^2`, :math:`\sigma'` the next level: what a correlated prior
    calls for at large noise would make a step overshoot, and the images diverge. With more steps the bound vanishes.
    Samples keep the noise of the last level, the prior's smallest: structure finer than that is not inferred. The last
    step is not a denoised mean, which would be too smooth.

    The paper has s = 1 for images of about unit variance, which is ``spread=1``. The default has the smallest sliced
    Wasserstein distance to exact posteriors of `sciinstruct.priors.problems` (mixtures in the plane and of 16x16
    fields), relative to that between exact draws, among 0.125 to 2; below it the bound rules and little changes.

    References
    ----------
    Song et al. 2023, equations 6 to 8 and section 3.3.
    """

    spread: float = 0.125
    steps: int = 250

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        check_positive("spread", self.spread)

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
            ``callback(step, {"residual": ..., "level": ...})`` after each step: mean norm of the residuals and noise
            level.
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
        began, source = time.perf_counter(), make_generator(generator)
        scale = prior_scale(problem, 128, source, torch.zeros((), dtype=dtype, device=source.device))
        pull, s = DataPull(problem, scale.draws), self.spread * scale.sd
        levels = log_uniform(self.steps + 1, *problem.prior.sigma_range).tolist()
        x = levels[0] * randn_like(scale.draws[:1].expand(n_samples, *problem.prior.event_shape), source)
        for step in track(range(self.steps), progress=progress, description="pseudo-inverse guided diffusion"):
            sigma, next_sigma = levels[step : step + 2]
            variance = max(1 / (1 / sigma**2 + 1 / s**2), sigma**2 - next_sigma**2)
            clean = guided_denoise(problem.prior, pull, x, sigma, variance)
            x = ancestral_step(x, clean, sigma, next_sigma, source)
            if not torch.isfinite(x).all():
                raise SolverError(f"guided diffusion became NaN or infinite at step {step}; raise spread or steps")
            if callback is not None:
                callback(step, {"residual": pull.misfit(clean), "level": sigma})
        attributes = {"solver": "PiGDM", "settings": asdict(self), "network_calls": 2 * self.steps}
        attributes["seconds"] = time.perf_counter() - began
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes)


def guided_denoise(prior: Denoiser, pull: DataPull, x: Tensor, sigma: float, variance: float) -> Tensor:
    r"""Expectation of the clean image given the data too, :math:`D_y` with :math:`r^2` = `variance`, (B, *event)."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        clean = prior.denoise(leaf, sigma)
    centre = clean.detach()
    (slope,) = torch.autograd.grad(clean, leaf, pull(centre, variance))
    return centre - sigma**2 * slope
