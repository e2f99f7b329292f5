"""The methods that the conditional tasks compare, behind one call: an instance and a seed in, an `Answer` out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.pde_fno import FNO
from benchmarks.pde_tasks import Answer, Instance, of_samples
from sciinstruct.core import Denoiser, InverseProblem, Likelihood, SolverError
from sciinstruct.core import Operator as CoreOperator
from sciinstruct.datasets.pde import coefficient_law
from sciinstruct.inference import ImageAnnealing
from sciinstruct.inference.baselines import DiffusionPDE
from sciinstruct.inference.phys_instruct import LatentMAP, LatentRTO, PushForwardPrior, Student
from sciinstruct.operators.pde import Equation
from sciinstruct.priors import NetworkPrior

Method = Callable[[Instance, int], Answer]
ZETA_OBS = 3.0  # first guess at 100 steps, in units of the noise; more steps take less
ZETA_PDE = (0.0, 0.1, 1.0)
FACTOR = 10**0.5  # between strengths tried


@dataclass(frozen=True)
class StudentPosterior:
    """Perturbed minimisations in the latents of a student."""

    student: Student
    k: int
    samples: int
    rounds: int
    mu: float

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """Samples of the posterior."""
        problem = InverseProblem(PushForwardPrior(self.student.push_forward(self.k)), instance.likelihood)
        equation = self.student.equation if self.mu > 0 else None
        found = LatentRTO(rounds=self.rounds, equation=equation, mu=self.mu).run(problem, self.samples, generator=seed)
        return of_samples(found.samples, found.attributes["network_calls"] * self.samples)


@dataclass(frozen=True)
class StudentMAP:
    """The most probable latents of a student."""

    student: Student
    k: int
    rounds: int
    mu: float

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """One field, no intervals."""
        problem = InverseProblem(PushForwardPrior(self.student.push_forward(self.k)), instance.likelihood)
        equation = self.student.equation if self.mu > 0 else None
        solver = LatentMAP(steps=40, rounds=self.rounds, restarts=2, equation=equation, mu=self.mu)
        found = solver.run(problem, generator=seed)
        return of_samples(found.samples, found.attributes["network_calls"])


@dataclass(frozen=True)
class Annealed:
    """Image annealing under a diffusion prior of the fields: a teacher, or the denoiser of a student's samples."""

    prior: Denoiser
    samples: int
    levels: int

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """Samples of the posterior."""
        found = ImageAnnealing(levels=self.levels, bottom=0.02).run(
            InverseProblem(self.prior, instance.likelihood), self.samples, generator=seed
        )
        return of_samples(found.samples, found.attributes["network_calls"])


@dataclass(frozen=True)
class Guided:
    """DiffusionPDE on the teacher."""

    teacher: NetworkPrior
    solver: DiffusionPDE
    samples: int

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """Its samples, taken for the posterior's."""
        problem = InverseProblem(self.teacher, instance.likelihood)
        found = self.solver.run(problem, self.samples, generator=seed)
        return of_samples(found.samples, found.attributes["network_calls"] * self.samples)


class Simulator(CoreOperator):
    """White noise to solved fields: the law the data were drawn from, exactly, differentiable."""

    def __init__(self, equation: Equation) -> None:
        super().__init__()
        self.equation, self.law = equation, coefficient_law(equation)
        self.domain_shape, self.range_shape = tuple(self.law.noise_shape), equation.event_shape

    def apply(self, x: Tensor) -> Tensor:
        """Fields (B, c, H, W); what blows up is not finite, and no minimum."""
        return self.equation.compute_solution(self.law(x).double())


@dataclass(frozen=True)
class Variational:
    """Perturbed minimisations through the classical solver, under the true law of coefficients: no network."""

    equation: Equation
    samples: int

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """Samples of the posterior."""
        problem = InverseProblem(PushForwardPrior(Simulator(self.equation)), instance.likelihood)
        return of_samples(LatentRTO(100, 10).run(problem, self.samples, generator=seed).samples, 0)


class Tuned(NamedTuple):
    """Strengths chosen on instances that are not part of the results."""

    solver: DiffusionPDE
    errors: dict[str, float]  # mean relative error of every pair of strengths tried


def tune_guided(
    teacher: NetworkPrior, equation: Equation, instances: list[Instance], steps: int, noise: float
) -> Tuned:
    """DiffusionPDE's strengths, the data's first: least error of two samples' mean over channels and instances.

    The data's is followed by factors of the square root of 10 as far as it helps.
    """
    errors: dict[tuple[float, float], float] = {}

    def error(zeta_obs: float, zeta_pde: float) -> float:
        if (zeta_obs, zeta_pde) not in errors:
            method = Guided(teacher, DiffusionPDE(equation, zeta_obs, zeta_pde, steps), 2)
            errors[zeta_obs, zeta_pde] = sum(_relative_error(method, *i) for i in enumerate(instances)) / len(instances)
        return errors[zeta_obs, zeta_pde]

    obs = ZETA_OBS * noise * teacher.card.sigma_data * 100 / steps
    for factor in (FACTOR, 1 / FACTOR):
        while error(obs * factor, 0.0) < error(obs, 0.0):
            obs *= factor
    pde = min((z * 100 / steps for z in ZETA_PDE), key=lambda z: error(obs, z))
    return Tuned(DiffusionPDE(equation, obs, pde, steps), {f"{o:.3g}, {p:.3g}": e for (o, p), e in errors.items()})


def _relative_error(method: Method, seed: int, instance: Instance) -> float:
    """Of the mean, over channels; infinite where the method breaks down."""
    try:
        away = method(instance, seed).mean - instance.truth
    except SolverError:
        return float("inf")
    return float((away.flatten(1).norm(dim=1) / instance.truth.flatten(1).norm(dim=1)).mean())


@dataclass(frozen=True)
class Kriging:
    """The best linear estimate: fields taken for Gaussian with the mean and covariance of the training data.

    No network; where the equation is linear and its coefficient Gaussian this is the exact posterior, up to the noise
    of the estimated covariance.
    """

    mean: Tensor  # (D,)
    covariance: Tensor  # (D, D)

    @classmethod
    def of(cls, fields: Tensor) -> "Kriging":
        """Moments of fields (n, c, H, W), in float64."""
        flat = fields.double().flatten(1)
        return cls(flat.mean(0), flat.T.cov())

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """Conditional mean and 90 % intervals."""
        likelihood: Likelihood = instance.likelihood
        index = instance.mask.flatten().nonzero().squeeze(1)
        across = self.covariance[index]
        noise = likelihood.noise.variance(likelihood.y.double())[0]
        gain = torch.linalg.solve(across[:, index] + noise.diag(), across)
        mean = self.mean + gain.T @ (likelihood.y[0].double() - self.mean[index])
        half = 1.6449 * (self.covariance.diagonal() - (gain * across).sum(0)).clamp_min(0).sqrt()
        shape, dtype = instance.truth.shape, instance.truth.dtype
        low, high = ((mean + sign * half).reshape(shape).to(dtype) for sign in (-1, 1))
        return Answer(mean.reshape(shape).to(dtype), low, high, None, 0, 0)


@dataclass(frozen=True)
class NeuralOperator:
    """A trained FNO."""

    fno: FNO
    teacher: NetworkPrior  # for its units alone

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """One field, no intervals."""
        flat = torch.zeros(instance.mask.numel(), dtype=instance.truth.dtype)
        flat[instance.mask.flatten()] = instance.likelihood.y[0].to(flat)
        x = self.teacher.from_physical(flat.reshape(instance.truth.shape)[None])
        return of_samples(self.teacher.to_physical(self.fno(x, instance.mask[None])), 1)


@dataclass(frozen=True)
class Solve:
    """The classical solver, where the coefficient is measured as a whole: it is given without its noise."""

    equation: Equation

    def __call__(self, instance: Instance, seed: int) -> Answer:
        """The exact field of the true coefficient."""
        truth = instance.truth[None]
        return of_samples(self.equation.solve(self.equation.coefficient(truth)), 0)
