"""Annealed Langevin sampling: the noisy prior's score and the likelihood's, preconditioned by the data's curvature.

Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution"; for inverse problems Jalal
et al. 2021, "Robust compressed sensing MRI with deep generative priors".
"""

import math
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, SolverError, make_generator, randn_like, track
from sciinstruct.core.checks import check_positive
from sciinstruct.diffusion import log_uniform
from sciinstruct.inference.baselines.chains import FEWEST_DRAWS, chain_diagnostics, require_arviz
from sciinstruct.inference.baselines.curvature import Curvature, data_curvature
from sciinstruct.inference.scale import prior_scale

_LONGEST = 5.0  # drift per pixel, in units of the noise level


@dataclass(frozen=True)
class AnnealedLangevin:
    r"""Unadjusted Langevin sampling down a ladder of noise levels, one chain per sample, all in one batch.

    At each level :math:`\sigma` the chain makes `inner` steps

    .. math:: x \leftarrow x + \eta P [\nabla \log p(x; \sigma) + \nabla \log p(y | x)] + \sqrt{2 \eta P} \, n, \qquad
        P = (\sigma^{-2} I + G)^{-1} ,

    :math:`G = J^T J` with J the Jacobian of the whitened residuals. As no noisy prior is sharper than
    :math:`\sigma^{-2} I`, every :math:`\eta < 2` is stable for linear data. For non-linear data G is an average over a
    few of the chains, anew at each level, and until the `final` steps the data are blurred as the prior is: their
    gradient is multiplied by :math:`(I + \sigma^2 G)^{-1}`, and in P that times G stands for G. Without it chains stray
    to where closure phases are flat. Drifts longer than :math:`5 \sigma \sqrt D` for D pixels are cut to that length,
    which only chains far from the data ever reach.

    Parameters
    ----------
    top, bottom : float
        First and last level, in units of the prior's standard deviation, within the prior's range of levels.
    levels : int
        Levels, uniform in the logarithm.
    inner, final : int
        Steps at each level, and further steps at the last.
    step, final_step : float
        :math:`\eta` on the way, and of the `final` steps at the last level; below 2.
    record : int
        The last so many images of each chain give R-hat and sample sizes (with arviz); at most `final`. 0 leaves
        that out, otherwise at least 4.

    Notes
    -----
    Each level's law is :math:`p(x; \sigma) p(y | x)`, for linear data: the likelihood is that of a clean image at every
    level, so the last level, where the prior is blurred by `bottom`, is right and the others are a bridge. On the way
    the data count as if the blurred images were measured; the weights of modes that separate there carry that bias to
    the end.

    Finite steps widen a Gaussian posterior by up to :math:`1/(1 - \eta/2)` in variance, most in directions that the
    data measure well; the final steps, which are small, mend it there. Directions far wider than `bottom` hardly move
    at the last levels and keep what the levels of their own size gave them.

    The defaults were chosen once, at 700 steps, by the sliced Wasserstein distance to exact posteriors of
    `sciinstruct.priors.problems` (seeds 100 to 103), from top 3 and 10, bottom 0.02 and 0.05, and step 0.1 to 1.5: the
    longer the step the nearer; 1 leaves non-linear data room. Twice the inner steps come nearer still.

    References
    ----------
    Song and Ermon 2019, Algorithm 1; Jalal et al. 2021, where all data are blurred by the level.
    """

    top: float = 3.0
    bottom: float = 0.02
    levels: int = 30
    inner: int = 20
    final: int = 100
    step: float = 1.0
    final_step: float = 0.1
    record: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.bottom < self.top < math.inf:
            raise ValueError(f"expected 0 < bottom < top, got {self.bottom} and {self.top}")
        if self.levels < 2 or self.inner < 1 or self.final < 0:
            raise ValueError(f"expected levels >= 2, inner >= 1, final >= 0; got {self}")
        for name in ("step", "final_step"):
            check_positive(name, getattr(self, name))
            if getattr(self, name) >= 2:
                raise ValueError(f"{name} must be below 2, where the chain is unstable, got {getattr(self, name)}")
        if self.record != 0 and not FEWEST_DRAWS <= self.record <= self.final:
            raise ValueError(f"record must be 0, or {FEWEST_DRAWS} to final = {self.final}, got {self.record}")

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
        """Run `n_samples` chains, all in one batch; the last image of each is its sample.

        Parameters
        ----------
        problem : InverseProblem
            Prior and likelihood; the operator may be non-linear, the likelihood must have whitened residuals.
        n_samples : int
            Number of samples; at least 2 if chains are recorded.
        generator : torch.Generator or int, optional
            Source of randomness, on the problem's device.
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step, {"data": ..., "level": ...})``: mean negative log-likelihood and noise level.
        dtype : torch.dtype
            Precision of the images.

        Returns
        -------
        Posterior
            In physical units.

        Raises
        ------
        ValueError
            If `n_samples` is too small.
        NotImplementedError
            If the likelihood has no whitened residuals.
        SolverError
            If an image turns NaN or infinite; the text names the step.
        """
        if n_samples < (2 if self.record else 1):
            raise ValueError(f"n_samples must be positive, and at least 2 to record chains, got {n_samples}")
        if self.record:
            require_arviz()
        began = time.perf_counter()
        source = make_generator(generator)
        scale = prior_scale(problem, 128, source, torch.zeros((), dtype=dtype, device=source.device))
        data = data_curvature(problem, scale.draws)
        levels = self._levels(scale.sd, problem.prior.sigma_range)
        x = levels[0] * randn_like(scale.draws[:1].expand(n_samples, *scale.draws.shape[1:]), source)
        kept = []
        for step, sigma in enumerate(track(levels, progress=progress, description="annealed Langevin")):
            if data.slope is None and step % self.inner == 0:
                data = data_curvature(problem, x)
            last = step >= len(levels) - self.final
            size, blur = (self.final_step, 0.0) if last else (self.step, sigma if data.slope is None else 0.0)
            x, log_likelihood = langevin_step(problem, data, x, sigma, size, source, blur)
            if not torch.isfinite(x).all():
                raise SolverError(f"annealed Langevin became NaN or infinite at step {step}; lower step")
            kept += [x] if step >= len(levels) - self.record else []
            if callback is not None:
                callback(step, {"data": -log_likelihood, "level": sigma})
        attributes = {
            "solver": "annealed Langevin",
            "settings": asdict(self),
            "network_calls": len(levels),
            "seconds": time.perf_counter() - began,
        }
        diagnostics = chain_diagnostics(torch.stack(kept, 1)) if kept else {}
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes, diagnostics)

    def _levels(self, s: float, allowed: tuple[float, float]) -> list[float]:
        """Noise level of every step."""
        top = min(self.top * s, allowed[1])
        bottom = min(max(self.bottom * s, allowed[0]), 0.5 * top)
        ladder: list[float] = log_uniform(self.levels, bottom, top).tolist()
        return [sigma for sigma in ladder for _ in range(self.inner)] + [bottom] * self.final


def langevin_step(
    problem: InverseProblem,
    data: Curvature,
    x: Tensor,
    sigma: float,
    step: float,
    generator: torch.Generator,
    blur: float = 0.0,
) -> tuple[Tensor, float]:
    """One step at level `sigma` from `x` (B, *event), and the mean log-likelihood before it.

    With `blur` the data are those of an image with so much noise: covariance I + blur^2 J J^T of the residuals.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        log_likelihood = problem.log_likelihood(leaf)
    (pull,) = torch.autograd.grad(log_likelihood.sum(), leaf)

    def scale(e: Tensor) -> Tensor:
        """Eigenvalues of P."""
        return 1 / (sigma**-2 + e / (1 + blur**2 * e))

    with torch.no_grad():
        prior = problem.prior.score(x, sigma).flatten(1)
    score = prior + data.apply(lambda e: 1 / (1 + blur**2 * e), pull.flatten(1))
    drift = data.apply(lambda e: step * scale(e), score)
    drift = drift * (_LONGEST * sigma * drift.shape[1] ** 0.5 / drift.norm(dim=1, keepdim=True)).clamp(max=1.0)
    noise = data.apply(lambda e: (2 * step * scale(e)).sqrt(), randn_like(score, generator))
    return x + (drift + noise).reshape(x.shape), float(log_likelihood.detach().mean())
