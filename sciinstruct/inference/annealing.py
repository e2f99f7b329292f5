"""Decoupled annealing with Gauss-Newton draws: one data-consistent image per start, from noise down to the image.

At each noise level the law of the clean image given the noisy one is taken to be N(D(x), r^2 I); a draw from its
product with the likelihood is made by randomise-then-optimise, and noised again to the next level. Fast and good on
non-linear data, but not exact: the isotropic law at each level is a guess. Posterior matching starts from it; alone it
is a comparator.
"""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, make_generator, randn_like, track
from sciinstruct.diffusion import log_uniform
from sciinstruct.inference.scale import prior_scale


@dataclass(frozen=True)
class AnnealedGaussNewton:
    """Decoupled annealing posterior sampling whose inner chain is replaced by randomise-then-optimise.

    Parameters
    ----------
    levels : int
        Noise levels, uniform in the logarithm from `top` prior standard deviations down to `bottom`.
    iterations : int
        Gauss-Newton steps per level.
    top, bottom : float
        First and last level, in units of the prior's standard deviation.
    batch : int
        Images walked at a time.
    stray : float
        Images whose misfit exceeds the median's by so many nats got stuck, and are walked again.

    References
    ----------
    Zhang et al. 2024, "Improving diffusion inverse problem solving with decoupled noise annealing"; Bardsley et al.
    2014, "Randomize-then-optimize".
    """

    levels: int = 20
    iterations: int = 2
    top: float = 12.0
    bottom: float = 0.05
    batch: int = 32
    stray: float = 40.0

    def __post_init__(self) -> None:
        if min(self.levels, self.iterations, self.batch) < 1 or not 0 < self.bottom < self.top:
            raise ValueError(f"levels, iterations and batch must be positive and 0 < bottom < top, got {self}")

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
        """Draw `n_samples` images; see `sciinstruct.Solver`. Needs a likelihood with whitened residuals."""
        g, began = make_generator(generator), time.perf_counter()
        x = self.walk(problem, n_samples, g, dtype=dtype, progress=progress, callback=callback)
        attributes = {"solver": "AnnealedGaussNewton", "settings": asdict(self), "preserves_bayes": False}
        attributes["seconds"] = time.perf_counter() - began
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes)

    def walk(
        self,
        problem: InverseProblem,
        n: int,
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Tensor:
        """Images (n, *event) in the prior's units, one per independent start."""
        sd = prior_scale(problem, 64, generator, torch.zeros((), dtype=dtype, device=generator.device)).sd
        low, high = problem.prior.sigma_range
        top, bottom = min(self.top * sd, high), max(self.bottom * sd, low)
        sigmas = [float(s) for s in log_uniform(self.levels, bottom, top)]
        sizes = [min(self.batch, n - i) for i in range(0, n, self.batch)]
        done: list[Tensor] = []
        for index, size in enumerate(track(sizes, progress=progress, description="annealing")):
            shape = (size, *problem.prior.event_shape)
            done.append(self._batch(problem, shape, sigmas, sd, generator, dtype))
            if callback is not None:
                callback(index, {"done": float(sum(len(d) for d in done))})
        return self._replace_strays(problem, torch.cat(done), sigmas, sd, generator)

    def _batch(
        self,
        problem: InverseProblem,
        shape: tuple[int, ...],
        sigmas: list[float],
        sd: float,
        generator: torch.Generator,
        dtype: torch.dtype,
    ) -> Tensor:
        x0 = sigmas[0] * torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
        for sigma, before in zip(sigmas, [0.0, *sigmas[1:]]):
            x = x0 + before * randn_like(x0, generator) if before else x0
            x0 = self._draw(problem, x, sigma, sd, generator)
        return x0

    def _replace_strays(
        self, problem: InverseProblem, x: Tensor, sigmas: list[float], sd: float, generator: torch.Generator
    ) -> Tensor:
        """Walk again, up to three times, for images whose misfit exceeds the median by more than `stray` nats."""
        for _ in range(3):
            with torch.no_grad():
                misfit = -problem.log_likelihood(x)
            stray = misfit > misfit.median() + self.stray
            if not bool(stray.any()):
                break
            shape = (int(stray.sum()), *x.shape[1:])
            x = torch.cat([x[~stray], self._batch(problem, shape, sigmas, sd, generator, x.dtype)])
        return x[torch.randperm(len(x), generator=generator, device=x.device)]

    def _draw(self, problem: InverseProblem, x: Tensor, sigma: float, sd: float, g: torch.Generator) -> Tensor:
        """A draw of the clean image given the noisy one and the data."""
        with torch.no_grad():
            mean = problem.prior.denoise(x, sigma)
        r = sigma * sd / (sigma**2 + sd**2) ** 0.5
        centre = mean + r * randn_like(mean, g)
        z = centre.clone()
        target: Tensor | None = None
        for _ in range(self.iterations):
            residual, jacobian = linearise(problem, z)
            target = randn_like(residual, g) if target is None else target
            z = _step(problem, z, centre, r, residual, jacobian, target)
        return z


def linearise(problem: InverseProblem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened residuals (B, n) and Jacobians (B, n, D) in the prior's units, at `x` (B, *event)."""
    leaf = x.detach().requires_grad_()
    image = problem.prior.to_physical(leaf)
    slope = torch.autograd.grad(image.sum(), leaf)[0].flatten(1)  # the map to physical units acts pixel by pixel
    parts = [problem.likelihood.linearise(some) for some in image.detach().split(4)]  # in cache, not in one go
    residual, jacobian = (torch.cat(values) for values in zip(*parts))
    return residual, jacobian * slope[:, None]


def _step(
    problem: InverseProblem, z: Tensor, centre: Tensor, r: float, residual: Tensor, jacobian: Tensor, target: Tensor
) -> Tensor:
    """Gauss-Newton step for |residual - target|^2 + |z - centre|^2 / r^2, shortened until the cost falls."""
    offset = (centre - z).flatten(1)
    linear = residual - target + (jacobian @ offset[..., None])[..., 0]
    # factored in float64 and lifted by rounding's size: far from the data the Jacobians of closures are huge.
    # Cholesky, as batched LU hangs in some builds of MKL with several threads.
    slopes = jacobian.nan_to_num()
    matrix = r**2 * (slopes @ slopes.mT).double()
    lift = 1 + 1e-6 * matrix.diagonal(dim1=-2, dim2=-1).amax(-1)
    chol = torch.linalg.cholesky(matrix + torch.diag_embed(lift[:, None].expand(linear.shape)))
    inner = torch.cholesky_solve(linear.double().nan_to_num()[..., None], chol)
    move = offset - r**2 * (slopes.mT @ inner.to(z.dtype))[..., 0]
    fractions = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.0], dtype=z.dtype, device=z.device)
    tried = z.flatten(1) + fractions[:, None, None] * move  # (n, B, D)
    with torch.no_grad():
        images = problem.prior.to_physical(tried.reshape(-1, *z.shape[1:]))
        misfit = (problem.likelihood.residuals(images).reshape(*tried.shape[:2], -1) - target).square().sum(-1)
    cost = misfit + (tried - centre.flatten(1)).square().sum(-1) / r**2
    best = cost.nan_to_num(nan=float("inf")).argmin(0)
    return tried[best, torch.arange(len(z), device=z.device)].reshape(z.shape)
