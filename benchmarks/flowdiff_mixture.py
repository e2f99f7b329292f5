"""FlowDiff on a two-dimensional mixture seen through a matrix and noise: what it learns, and what ablations break.

Run ``python -m benchmarks.flowdiff_mixture --out FOLDER`` from the root of a checkout. Every run learns from the same
20000 observations; a run that is in FOLDER is not repeated. Results go to FOLDER/flowdiff_mixture.json and, as a
table, to the screen.

Distances are sliced Wasserstein-2 to 20000 fresh draws of the true law. What the data leave open is compared with the
exact posterior of the mixture, for 300 fresh observations.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sciinstruct.core import GaussianNoise, Likelihood, atomic_path
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.flowdiff import FlowDiff
from sciinstruct.inference.flowdiff_result import FlowDiffResult
from sciinstruct.inference.simulator import OperatorSimulator
from sciinstruct.priors import GaussianMixture, exact_posterior
from sciinstruct.priors.problems.base import MatrixOperator

MATRIX = torch.tensor([[1.0, 0.3], [0.0, 0.8]])
SIGMA, OBSERVATIONS, DRAWS, POSTERIORS, EACH = 0.5, 20000, 20000, 300, 500
LONG, SHORT = FlowDiff(batch=256), FlowDiff(steps=2000, batch=256)
RUNS = {
    "4000 steps, batch 256": LONG,
    "2000 steps": SHORT,
    "same, entropy weight 0": replace(SHORT, entropy_weight=0.0),
    "same, prior weight 0.5": replace(SHORT, prior_weight=0.5),
    "same, without the denoiser's Jacobian": replace(SHORT, prior_gradient="sds"),
    "same, no warm-up": replace(SHORT, warmup=0),
    "same, sticking the landing": replace(SHORT, sticking_the_landing=True),
    "same, half the noise claimed": SHORT,
    "same, twice the noise claimed": SHORT,
    "same, amortised matching for the flow": SHORT,
}
CLAIMED = {"same, half the noise claimed": 0.5, "same, twice the noise claimed": 2.0}
MATCHED = AmortizedPPM(steps=1700, batch=64, auxiliary_batch=192, warmup=100)


def truth() -> GaussianMixture:
    """Three clusters of standard deviation 0.45."""
    means = torch.tensor([[-1.8, 0.0], [1.8, 1.2], [1.2, -1.8]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    return GaussianMixture(means, 0.45**2 * torch.eye(2, dtype=torch.float64)[None], weights)


def instrument(factor: float = 1.0) -> OperatorSimulator:
    """The matrix, and noise of `factor` times the true standard deviation."""
    return OperatorSimulator(MatrixOperator(MATRIX), GaussianNoise(factor * SIGMA))


def observations(n: int, seed: int) -> Tensor:
    """Observations of fresh draws, (n, 2)."""
    g = torch.Generator().manual_seed(seed)
    return instrument().simulate(truth().sample(n, generator=g), g)


def train(name: str, y: Tensor) -> FlowDiffResult:
    """One run of the table."""
    matching = MATCHED if "matching" in name else None
    return RUNS[name].train(y, instrument(CLAIMED.get(name, 1.0)), matching=matching, generator=1)


def distance(samples: Tensor) -> float:
    """Sliced Wasserstein-2 to fresh draws of the truth."""
    fresh = truth().sample(DRAWS, generator=torch.Generator().manual_seed(11))
    return float(sliced_w2(samples, fresh, generator=torch.Generator().manual_seed(12)))


def against_exact(result: FlowDiffResult) -> dict[str, float]:
    """Means and variances of posterior samples against the exact posterior's."""
    y = observations(POSTERIORS, 13)
    draws = result.reconstructor.sample(y, EACH, generator=14).double()
    exact = [exact_posterior(truth(), Likelihood(MatrixOperator(MATRIX), SIGMA, one.double())) for one in y]
    means, sds = (torch.stack([getattr(e, name).flatten() for e in exact]) for name in ("mean", "std"))
    error = float((draws.mean(1) - means).square().mean().sqrt())
    return {
        "mean_rmse": error,
        "posterior_sd": float(sds.square().mean().sqrt()),
        "variance_ratio": float(draws.var(1).mean() / sds.square().mean()),
    }


def measure(name: str, y: Tensor) -> dict[str, float]:
    """Train and measure."""
    began = time.process_time()
    result = train(name, y)
    seconds = time.process_time() - began
    g = torch.Generator().manual_seed(15)
    report = result.report(observations(4000, 16), generator=17)
    learned = result.prior.to_physical(result.prior.sample(DRAWS, generator=g))
    return {
        "flow": distance(result.reconstructor.sample(y[:DRAWS], 1, generator=18)[:, 0]),
        "diffusion": distance(learned),
        "prior_sd": float(learned.std(0).square().mean().sqrt()),
        **against_exact(result),
        "chi2": report["chi2"],
        "flags": len(report["warnings"]),
        "seconds": seconds,
    }


def markdown(record: dict[str, dict]) -> str:
    """The table."""
    lines = [
        "| run | flow samples | diffusion samples | posterior mean rmse | variance ratio | chi-square | flags "
        "| prior sd | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in record["runs"].items():
        lines.append(
            f"| {name} | {row['flow']:.3f} | {row['diffusion']:.3f} | {row['mean_rmse']:.3f} "
            f"| {row['variance_ratio']:.2f} | {row['chi2']:.2f} | {row['flags']} | {row['prior_sd']:.2f} "
            f"| {row['seconds']:.0f} |"
        )
    known = record["known"]
    sd = next(iter(record["runs"].values()))["posterior_sd"]
    lines.append(
        f"\nFresh draws of the truth: {known['floor']:.3f}; the observations' own draws: {known['sampled']:.3f}; data "
        f"times the inverse matrix: {known['inverse']:.3f}; posterior sd {sd:.3f}; the truth's sd {known['sd']:.2f}."
    )
    return "\n".join(lines)


def known_distances() -> dict[str, float]:
    """What no method can pass, and what doing nothing gives."""
    g = torch.Generator().manual_seed(0)
    x = truth().sample(OBSERVATIONS, generator=g)
    y = instrument().simulate(x, g)
    fresh = truth().sample(DRAWS, generator=torch.Generator().manual_seed(19))
    return {
        "floor": distance(fresh),
        "sampled": distance(x),
        "inverse": distance(y @ torch.linalg.inv(MATRIX).T),
        "sd": float(fresh.std(0).square().mean().sqrt()),
    }


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.out / "flowdiff_mixture.json"
    record = json.loads(out.read_text()) if out.is_file() else {"known": known_distances(), "runs": {}}
    y = observations(OBSERVATIONS, 0)
    for name in arguments.runs:
        if name not in record["runs"]:
            record["runs"][name] = measure(name, y)
            with atomic_path(out) as path:
                path.write_text(json.dumps(record, indent=1))
            print(name, record["runs"][name], flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()
