"""Samplers of deepinv (0.5.0) behind our solvers' verb, on our problems and with our exact denoisers.

deepinv wants images in [0, 1], as (B, C, H, W), and real data. The prior's units are mapped onto [0, 1] so that the
range of 512 of its draws fits, two parameters become an image of two pixels, complex data their two parts, and a linear
operator is divided by its norm, noise and data with it. Install deepinv and a torchvision that matches torch.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import deepinv
import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, LinearOperator, Posterior, Solver, make_generator
from sciinstruct.priors.exact import DENSE_PIXELS


class _Denoiser(deepinv.models.Denoiser):
    """The problem's denoiser in units where images fill [0, 1]."""

    def __init__(self, scene: "_Scene") -> None:
        super().__init__()
        self.scene = scene

    def forward(self, x: Tensor, sigma: Tensor | float, **_: Any) -> Tensor:
        """Expectation of the clean image."""
        level = torch.as_tensor(sigma, dtype=x.dtype).flatten() * self.scene.width
        level = level[0] if len(level) == 1 else level
        return self.scene.to_unit(self.scene.prior.denoise(self.scene.from_unit(x), level))


class _Scene:
    """One inverse problem in deepinv's units."""

    def __init__(self, problem: InverseProblem, generator: torch.Generator) -> None:
        self.prior, self.likelihood = problem.prior, problem.likelihood
        self.operator = problem.likelihood.operator
        draws = problem.prior.sample(512, generator=generator, dtype=torch.float64)
        centre = float(draws.mean())
        self.width = 2 * float((draws - centre).abs().max())
        self.low = centre - self.width / 2
        self.event = tuple(problem.prior.event_shape)
        self.image = self.event if len(self.event) == 3 else (1, 1, self.event[0])
        self.linear = isinstance(self.operator, LinearOperator)
        self.unit = self.width * self._norm(generator) if self.linear else 1.0  # what data are divided by
        self.offset = self._real(self.operator(torch.full((1, *self.event), self.low, dtype=torch.float64)))
        data = self._real(self.likelihood.y)
        self.data = (data - self.offset) / self.unit if self.linear else data
        self.noise = float(self.likelihood.noise.sigma) / self.unit
        self.denoiser = _Denoiser(self)

    def _norm(self, generator: torch.Generator) -> float:
        x = torch.randn(1, *self.event, generator=generator, dtype=torch.float64)
        for _ in range(50):
            x = self.operator.adjoint(self.operator(x / x.norm()))
        return float(x.norm().sqrt())

    def _real(self, y: Tensor) -> Tensor:
        return (torch.view_as_real(y) if y.is_complex() else y).flatten(1)

    def from_unit(self, z: Tensor) -> Tensor:
        """Images of deepinv in the prior's units and shape."""
        return self.low + self.width * z.reshape(-1, *self.event)

    def to_unit(self, x: Tensor) -> Tensor:
        """Inverse of `from_unit`."""
        return ((x - self.low) / self.width).reshape(-1, *self.image)

    def forward(self, z: Tensor) -> Tensor:
        """Data of images in [0, 1], (B, m) real; linear if the operator is."""
        if not self.linear:
            return self._real(self.operator(self.from_unit(z)))
        return self._real(self.operator(self.width * z.reshape(-1, *self.event))) / self.unit

    def adjoint(self, y: Tensor) -> Tensor:
        """Transpose of `forward`."""
        complex_data = self.likelihood.y.is_complex()
        shape = tuple(self.operator.range_shape)
        value = y.reshape(-1, *shape, 2) if complex_data else y.reshape(-1, *shape)
        value = torch.view_as_complex(value.contiguous()) if complex_data else value
        return (self.operator.adjoint(value) * self.width / self.unit).reshape(-1, *self.image)

    def physics(self) -> deepinv.physics.Physics:
        """The operator with its noise level."""
        noise = deepinv.physics.GaussianNoise(self.noise)
        if not self.linear:
            return deepinv.physics.Physics(A=self.forward, noise_model=noise, img_size=self.image)
        return deepinv.physics.LinearPhysics(
            A=self.forward, A_adjoint=self.adjoint, noise_model=noise, img_size=self.image
        )

    def decomposed(self, dtype: torch.dtype) -> deepinv.physics.DecomposablePhysics:
        """The operator by its dense singular value decomposition."""
        d = math.prod(self.image)
        matrix = self.forward(torch.eye(d, dtype=torch.float64).reshape(d, *self.image)).T
        squares, v = torch.linalg.eigh(matrix.T @ matrix)
        s = squares.clamp(min=0).sqrt()
        u = torch.where(s > 1e-9, matrix @ v / s.clamp(min=1e-9), 0.0)
        s = torch.where(s > 1e-9, s, 0.0)
        s, u, v = s.to(dtype), u.to(dtype), v.to(dtype)
        return deepinv.physics.DecomposablePhysics(
            U=lambda c: c @ u.T,
            U_adjoint=lambda y: y @ u,
            V=lambda c: (c @ v.T).reshape(-1, *self.image),
            V_adjoint=lambda z: z.flatten(1) @ v,
            mask=s[None],
            noise_model=deepinv.physics.GaussianNoise(self.noise),
            img_size=self.image,
        )


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Some of the samplers draw from the global generator: seed it for them, and put it back."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        yield


class _Peer:
    """The verb: to deepinv's units, a batch of draws, and back."""

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
        """Draw `n_samples` in one batch."""
        source = make_generator(generator)
        scene = _Scene(problem, source)
        y = scene.data.to(dtype).expand(n_samples, -1).clone()
        with _seeded(source):
            z = self._draw(scene, y, source)
        x = scene.from_unit(z.detach().double())
        attributes = {"solver": f"deepinv {type(self).__name__}", "settings": asdict(self)}  # type: ignore[call-overload]
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes)

    def _draw(self, scene: _Scene, y: Tensor, source: torch.Generator) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class DPS(_Peer):
    """``deepinv.sampling.DPS`` at its defaults but for the weight, which multiplies sqrt(m)/sd for m data.

    That product is the gradient of a Gaussian log-likelihood where residuals are as large as the noise.
    """

    weight: float = 1.0
    steps: int = 1000

    def _draw(self, scene: _Scene, y: Tensor, source: torch.Generator) -> Tensor:
        weight = self.weight * y.shape[1] ** 0.5 / scene.noise
        model = deepinv.sampling.DPS(scene.denoiser, weight=weight, num_steps=self.steps, rng=source)
        return model(y, scene.physics(), x_init=(len(y), *scene.image))


@dataclass(frozen=True)
class Guided(_Peer):
    """``deepinv.sampling.PosteriorDiffusion`` with a data fidelity, 'PiGDM' or 'MomentMatching', at its defaults.

    Moment matching is exact for a Gaussian prior in the limit of many steps.
    """

    fidelity: str
    steps: int = 250

    def _draw(self, scene: _Scene, y: Tensor, source: torch.Generator) -> Tensor:
        kind = {
            "PiGDM": deepinv.sampling.PiGDMDataFidelity,
            "MomentMatching": deepinv.sampling.MomentMatchingDataFidelity,
        }[self.fidelity]
        model = deepinv.sampling.PosteriorDiffusion(
            data_fidelity=kind(),
            denoiser=scene.denoiser,
            sde=deepinv.sampling.VariancePreservingDiffusion(alpha=1.0),
            solver=deepinv.sampling.DDPMSolver(torch.linspace(1, 0, self.steps, dtype=torch.float64), rng=source),
        )
        return model(y, scene.physics(), x_init=(len(y), *scene.image))


@dataclass(frozen=True)
class DiffPIR(_Peer):
    """``deepinv.sampling.DiffPIR`` at its defaults."""

    steps: int = 100
    zeta: float = 0.1
    weight: float = 7.0

    def _draw(self, scene: _Scene, y: Tensor, source: torch.Generator) -> Tensor:
        model = deepinv.sampling.DiffPIR(
            scene.denoiser,
            deepinv.optim.data_fidelity.L2(),
            sigma=scene.noise,
            max_iter=self.steps,
            zeta=self.zeta,
            lambda_=self.weight,
        )
        return model(y, scene.physics())


@dataclass(frozen=True)
class DDRM(_Peer):
    """``deepinv.sampling.DDRM`` at its defaults, with a dense singular value decomposition."""

    steps: int = 100

    def _draw(self, scene: _Scene, y: Tensor, source: torch.Generator) -> Tensor:
        sigmas = torch.linspace(1, 0, self.steps, dtype=torch.float64).numpy()
        return deepinv.sampling.DDRM(scene.denoiser, sigmas=sigmas)(y, scene.decomposed(y.dtype))


@dataclass(frozen=True)
class PnPULA(_Peer):
    """deepinv's unadjusted Langevin chain, one per sample, at a quarter of the largest stable step; its last state."""

    steps: int = 1000
    level: float = 0.02  # of the denoiser, in units of the images' range

    def _draw(self, scene: _Scene, y: Tensor, source: torch.Generator) -> Tensor:
        step = 0.5 / (1 / scene.noise**2 + 1 / self.level**2)
        sampler = deepinv.sampling.ULA(
            deepinv.optim.ScorePrior(scene.denoiser),
            deepinv.optim.data_fidelity.L2(sigma=scene.noise),
            step_size=step,
            sigma=self.level,
            max_iter=self.steps,
            thinning=1,
            clip=None,
            save_chain=1,
        )
        sampler.sample(y, scene.physics())
        return sampler.history[-1]["x"]


def samplers(problem: InverseProblem) -> dict[str, Solver]:
    """Printed name -> sampler, for one problem: non-linear ones leave DPS, large ones no decomposition."""
    found: dict[str, Solver] = {"deepinv DPS": DPS()}
    if not isinstance(problem.likelihood.operator, LinearOperator):
        return found
    found |= {
        "deepinv PiGDM": Guided("PiGDM"),
        "deepinv moment matching": Guided("MomentMatching"),
        "deepinv DiffPIR": DiffPIR(),
        "deepinv PnP-ULA": PnPULA(),
    }
    if math.prod(problem.prior.event_shape) <= DENSE_PIXELS:
        found["deepinv DDRM"] = DDRM()
    return found
