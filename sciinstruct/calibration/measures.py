"""The parts of a study: ranks of scalars, chi-square, Stein ratio, scores, coverage."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciinstruct.calibration.predictive import chi2_per_sample, data_counts
from sciinstruct.calibration.ranks import (
    LEVELS,
    binomial_band,
    coverage_from_ranks,
    mean_coverage_error,
    randomised_ranks,
)
from sciinstruct.calibration.scores import SpreadSkill, fair_crps, fair_energy_score, spread_skill, z_map
from sciinstruct.calibration.stein import stein_ratio
from sciinstruct.core import BaseLikelihood, LinearOperator

Statistic = Callable[[Tensor], Tensor]


def flux(images: Tensor) -> Tensor:
    """Sum over everything but the batch."""
    return images.flatten(1).sum(1)


def scalar_ranks(
    name: str, fn: Statistic, samples: Tensor, truth: Tensor, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Ranks of one quantity (N,), and the number of truths at which it is minus infinity.

    A log-density of minus infinity ranks below all others: the truth lies where the density says nothing can be.

    Raises
    ------
    ValueError
        If the quantity is NaN, with the first observation where it is, or has another shape than (B,).
    """
    with torch.no_grad():
        values, at_truth = torch.stack([fn(x) for x in samples]), fn(truth)
    return _ranked(name, values, at_truth, generator)


def likelihood_ranks(
    likelihoods: Sequence[BaseLikelihood], samples: Tensor, truth: Tensor, generator: torch.Generator
) -> Tensor:
    """Ranks of the log-likelihood, (N,)."""
    with torch.no_grad():
        values = torch.stack([likelihood.log_prob(x) for likelihood, x in zip(likelihoods, samples)])
        at_truth = torch.cat([likelihood.log_prob(t[None]) for likelihood, t in zip(likelihoods, truth)])
    return _ranked("log likelihood", values, at_truth, generator)[0]


def _ranked(name: str, values: Tensor, at_truth: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
    if values.ndim != 2 or at_truth.shape != values.shape[:1]:
        raise ValueError(f"quantity {name!r} must map images (B, ...) to numbers (B,), got {tuple(at_truth.shape)}")
    bad = values.isnan().any(1) | at_truth.isnan()
    if bad.any():
        raise ValueError(f"quantity {name!r} is NaN for observation {int(bad.nonzero()[0])}")
    outside = int((at_truth == -math.inf).sum())
    return randomised_ranks(torch.nan_to_num(values), torch.nan_to_num(at_truth), generator), outside


def chi2_terms(likelihoods: Sequence[BaseLikelihood], samples: Tensor) -> dict[str, Any]:
    r"""Mean over samples and observations per term, with its standard error between observations.

    The error is held to what a right posterior can have at most, :math:`\sqrt{2 / (n N)}` for n data of Gaussian noise:
    one observation that is far off must not widen the tolerance by which it is judged.
    """
    found = [chi2_per_sample(likelihood, x) for likelihood, x in zip(likelihoods, samples)]
    counts = [data_counts(likelihood, x) for likelihood, x in zip(likelihoods, samples)]
    result = {}
    for name in found[0]:
        means = torch.stack([terms[name].mean() for terms in found])
        variances = [2 / count[name] if count.get(name) else math.inf for count in counts]
        error = (min(float(means.var()), sum(variances) / len(means)) / len(means)) ** 0.5
        result[name] = {"mean": float(means.mean()), "standard_error": error}
    return result


def stein_numbers(likelihoods: Sequence[BaseLikelihood], samples: Tensor, prior_score: Statistic) -> dict[str, float]:
    """Stein ratio with its standard error between observations."""
    means = []
    for likelihood, x in zip(likelihoods, samples):
        with torch.no_grad():
            prior = prior_score(x)
        means.append(stein_ratio(x, prior + likelihood.score(x)).mean())
    ratio = torch.stack(means)
    return {"ratio": float(ratio.mean()), "standard_error": float(ratio.std() / len(ratio) ** 0.5)}


def dirty_images(likelihoods: Sequence[BaseLikelihood] | None) -> Tensor | None:
    """A^T y of every observation where operators are linear, else None: sees a method that ignores its data."""
    images = []
    for likelihood in likelihoods or ():
        operator, y = getattr(likelihood, "operator", None), getattr(likelihood, "y", None)
        if not isinstance(operator, LinearOperator) or y is None:
            return None
        with torch.no_grad():
            images.append(operator.adjoint(y)[0])
    return torch.stack(images) if images else None


def scores(samples: Tensor, truth: Tensor) -> dict[str, Any]:
    """Scores and errors of samples (N, S, P) and truths (N, P), pixels that never vary left out."""
    s = samples.shape[1]
    pairs = list(zip(samples, truth))
    z = torch.stack([z_map(x, t) for x, t in pairs])
    square = z[z.isfinite()].square().mean()
    return {
        "n_observations": len(truth),
        "n_samples": s,
        "z_rms": float(square.sqrt()) / ((s - 1) / (s - 3)) ** 0.5,
        "crps": float(torch.stack([fair_crps(x, t).mean() for x, t in pairs]).mean()),
        "energy_score": float(torch.stack([fair_energy_score(x, t) for x, t in pairs]).mean()),
        "sharpness": float(samples.var(1).mean().sqrt()),
        "rmse_of_mean": float((samples.mean(1) - truth).square().mean().sqrt()),
    }


def skill_numbers(samples: Tensor, truth: Tensor) -> tuple[SpreadSkill, dict[str, float]]:
    """Spread against skill, and the same with a sample in the truth's place.

    The calibration error ENCE has no reference value of its own (Pernot 2024): the second gives it.
    """
    skill, reference = spread_skill(samples, truth), spread_skill(samples[:, 1:], samples[:, 0])
    return skill, {"slope": skill.slope, "ence": skill.ence, "ence_if_calibrated": reference.ence}


def coverage_tables(pixel_ranks: Mapping[str, Tensor], ranks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Coverage of central intervals by region and quantity, at `LEVELS`."""
    everything = {f"pixels, {name}": rank for name, rank in pixel_ranks.items()} | dict(ranks)
    return {
        "levels": LEVELS,
        "coverage": {name: coverage_from_ranks(rank) for name, rank in everything.items()},
        "mean_error": {name: mean_coverage_error(rank, LEVELS) for name, rank in everything.items()},
        "binomial_95": binomial_band(len(pixel_ranks["all"])),
    }
