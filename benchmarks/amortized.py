"""Calibration of amortised posterior matching where the exact posterior is known.

Run ``python -m benchmarks.amortized`` from the root of a checkout (a few minutes on one core); it prints the tables
of docs/benchmarks/amortized.md. The seeds differ from those with which defaults were chosen.
"""

import time
from dataclasses import replace

import torch
from torch import Tensor

from sciinstruct.calibration.ranks import coverage_from_ranks, randomised_ranks
from sciinstruct.core import GaussianNoise, Likelihood, LinearOperator
from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.reconstructor import Reconstructor
from sciinstruct.inference.simulator import OperatorSimulator
from sciinstruct.priors import GaussianMixture, GaussianPrior
from sciinstruct.priors.exact import exact_posterior

TRAIN_SEED, TEST_SEED = 2026, 7
TESTS, DRAWS = 400, 200
NOISE = 0.5
CRITICAL = 1.358 / TESTS**0.5  # 5 % point of the Kolmogorov-Smirnov distance

LINEAR = AmortizedPPM(
    steps=1000,
    batch=256,
    auxiliary_steps=3,
    auxiliary_batch=512,
    warmup=100,
    learning_rate=0.0015,
    auxiliary_rate=0.006,
    anneal_share=0.0,  # one mode: nothing to find, and a law shrunk by annealing has to widen again
    heads=1,
    width=32,
)
PLANE = AmortizedPPM()


class Matrix(LinearOperator):
    """A dense matrix (m, d) applied to vectors."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.range_shape, self.domain_shape = (matrix.shape[0],), (matrix.shape[1],)

    def apply(self, x: Tensor) -> Tensor:
        """A x."""
        return x @ self.matrix.to(x.dtype).T

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""
        return y @ self.matrix.to(y.dtype)


def two_dimensional() -> tuple[GaussianMixture, OperatorSimulator]:
    """Three clusters in the plane, seen through y = 0.3 x1 + x2 + 0.5 n: mostly two modes are left."""
    means = torch.tensor([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]])
    covariances = torch.stack([torch.diag(torch.tensor(v)) for v in ((0.15, 0.25), (0.25, 0.15), (0.2, 0.2))])
    prior = GaussianMixture(means, covariances, torch.tensor([0.4, 0.35, 0.25]))
    return prior, OperatorSimulator(Matrix(torch.tensor([[0.3, 1.0]])), GaussianNoise(NOISE))


def linear_gaussian(variance: float) -> tuple[GaussianPrior, OperatorSimulator]:
    """Standard normal prior, y = x + noise of the given variance: p(x | y) = N(y / (1 + s2), s2 / (1 + s2))."""
    prior = GaussianPrior(torch.zeros(1), torch.eye(1))
    return prior, OperatorSimulator(Matrix(torch.eye(1)), GaussianNoise(variance**0.5))


def train_linear(variance: float, seed: int, sees: bool) -> Reconstructor:
    """Train on `linear_gaussian`, down to a quarter of the posterior's sd, or a tenth to show a collapse."""
    lowest = (0.25 if sees else 0.1) * (variance / (1 + variance)) ** 0.5
    settings = replace(
        LINEAR, sigma_min=lowest, auxiliary_sees_y=sees, steps=LINEAR.steps if sees else 2 * LINEAR.steps // 5
    )
    return settings.train(*linear_gaussian(variance), generator=seed)


def moments(reconstructor: Reconstructor, variance: float, seed: int, draws: int = 4000) -> tuple[float, float]:
    """Slope of the mean and average variance of `linear_gaussian`'s samples, y in +-1.5 sd, each over the exact one."""
    y = torch.linspace(-1.5, 1.5, 13)[:, None] * (1 + variance) ** 0.5
    samples = reconstructor.sample(y, draws, generator=seed)[..., 0]
    slope = (samples.mean(1) * y[:, 0]).sum() / y.square().sum()
    return float(slope) * (1 + variance), float(samples.var(1).mean()) * (1 + variance) / variance


def pairs(prior: GaussianMixture, law: OperatorSimulator, seed: int) -> tuple[Tensor, Tensor]:
    """Truths (TESTS, d) and their measurements."""
    g = torch.Generator().manual_seed(seed)
    x = prior.sample_exact(TESTS, generator=g)
    return x, law.simulate(x, g)


def exact_samples(prior: GaussianMixture, law: OperatorSimulator, y: Tensor, seed: int) -> Tensor:
    """Draws of every exact posterior, (len(y), DRAWS, d)."""
    g = torch.Generator().manual_seed(seed)
    laws = [exact_posterior(prior, Likelihood(law.operator, law.noise, one)) for one in y]
    return torch.stack([p.sample(DRAWS, generator=g, dtype=y.dtype) for p in laws])


def scores(
    prior: GaussianMixture, law: OperatorSimulator, x: Tensor, y: Tensor, samples: Tensor, exact: Tensor
) -> dict[str, float]:
    """Coverage, largest Kolmogorov-Smirnov distance of the ranks, spread, fit and mode weights."""
    ranks = randomised_ranks(samples, x, torch.Generator().manual_seed(1))
    n = len(x)
    grid = (torch.arange(n, dtype=torch.float64) + 1) / n
    ordered = ranks.sort(0).values
    ks = torch.maximum((grid[:, None] - ordered).amax(), (ordered - grid[:, None] + 1 / n).amax())
    half, ninety = coverage_from_ranks(ranks, (0.5, 0.9)).tolist()
    residual = (y[:, None] - law.operator(samples.flatten(0, 1)).reshape(n, DRAWS, -1)) / NOISE
    weights = [prior.responsibilities(s.flatten(0, 1)).reshape(n, DRAWS, -1).mean(1) for s in (samples, exact)]
    return {
        "50 %": half,
        "90 %": ninety,
        "SBC-KS": float(ks),
        "sd ratio": float((samples.std(1) / exact.std(1)).mean()),
        "chi2": float(residual.square().mean()),
        "weight error": float((weights[0] - weights[1]).abs().mean()),
    }


def calibration(trained: Reconstructor, seed: int) -> dict[str, dict[str, float]]:
    """Scores of a reconstructor for `two_dimensional`, and of an exact sampler on the same pairs."""
    prior, law = two_dimensional()
    x, y = pairs(prior, law, seed)
    exact, again = (exact_samples(prior, law, y, seed + k) for k in (1, 2))
    rows = {"amortised": trained.sample(y, DRAWS, generator=seed + 3), "exact sampler": again}
    return {name: scores(prior, law, x, y, samples, exact) for name, samples in rows.items()}


def linear_gaussian_table() -> None:
    """Print what T7 asks: slope and variance over the exact ones, with an auxiliary that sees y and a blind one."""
    print("| noise variance | auxiliary | slope / exact | variance / exact | training, CPU s |\n|---|---|---|---|---|")
    for variance in (1.0, 0.25, 0.04):
        for sees in (True, False):
            began = time.process_time()
            trained = train_linear(variance, TRAIN_SEED + 1, sees)
            seconds = time.process_time() - began
            slope, ratio = moments(trained, variance, TEST_SEED)
            print(
                f"| {variance} | {'sees y' if sees else 'blind'} | {slope:.3f} | {ratio:.3f} | {seconds:.0f} |",
                flush=True,
            )


def two_dimensional_table() -> None:
    """Print calibration on the plane beside an exact sampler's."""
    began = time.process_time()
    trained = PLANE.train(*two_dimensional(), generator=TRAIN_SEED)
    print(f"training: {time.process_time() - began:.0f} CPU s; warnings: {trained.diagnostics['warnings']}")
    results = calibration(trained, TEST_SEED)
    print(
        f"critical distance {CRITICAL:.3f}\n| sampler | " + " | ".join(results["amortised"]) + " |\n|---|" + 6 * "---|"
    )
    for name, result in results.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in result.values()) + " |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    linear_gaussian_table()
    two_dimensional_table()
