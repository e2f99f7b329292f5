"""Calibration study: posterior samples of many observations against their truths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import sciinstruct.calibration.verdicts as judge
from sciinstruct.calibration.bands import holm, smallest_visible_error, uniformity_p_value
from sciinstruct.calibration.predictive import chi2_per_sample
from sciinstruct.calibration.ranks import (
    LEVELS,
    binomial_band,
    coverage_from_ranks,
    mean_coverage_error,
    randomised_ranks,
    signed_coverage_error,
)
from sciinstruct.calibration.scores import SpreadSkill, fair_crps, fair_energy_score, spread_skill, z_map
from sciinstruct.calibration.stein import stein_ratio
from sciinstruct.calibration.tarp import other_truths, split_tarp_ranks, tarp_ranks
from sciinstruct.core import BaseLikelihood, LinearOperator
from sciinstruct.core.checks import check_finite
from sciinstruct.core.posterior_io import json_safe

KINDS = ("self-consistency", "held-out")
MIN_OBSERVATIONS, MIN_SAMPLES = 16, 8
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CalibrationReport:
    """What a study found.

    Parameters
    ----------
    kind : str
        ``"self-consistency"``: truths from the method's own prior, only then must every check pass. ``"held-out"``:
        other truths, and a failure may be the prior's.
    n_samples : int
        Posterior samples per observation.
    ranks : dict of Tensor (N,)
        One rank per observation for each scalar quantity, TARP included.
    pixel_ranks : dict of Tensor (N, P)
        Ranks of pixels by region.
    mean_z : Tensor, shape (*event_shape)
        z map averaged over observations: featureless if all is well.
    skill : SpreadSkill
    numbers : dict
        JSON-able: coverage, chi-square, Stein ratio, scores.
    verdicts : list of Verdict
    """

    kind: str
    n_samples: int
    ranks: dict[str, Tensor]
    pixel_ranks: dict[str, Tensor]
    mean_z: Tensor
    skill: SpreadSkill
    numbers: dict[str, Any]
    verdicts: list[judge.Verdict] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Number of observations."""
        return len(self.pixel_ranks["all"])

    @property
    def status(self) -> str:
        """Worst verdict: pass, warn or fail."""
        return judge.overall(self.verdicts)

    @property
    def coverage(self) -> dict[str, Any]:
        """JSON-able coverage by region and quantity: what `write_report` takes as `study`."""
        return {"kind": self.kind, "n_observations": self.n, **self.numbers["coverage"]}


def calibrate(
    samples: Tensor,
    truth: Tensor,
    *,
    likelihoods: Sequence[BaseLikelihood] | None = None,
    quantities: Mapping[str, Statistic] | None = None,
    log_prior: Statistic | None = None,
    prior_score: Statistic | None = None,
    reference: Tensor | None = None,
    regions: Mapping[str, Tensor] | None = None,
    kind: str = "self-consistency",
    generator: torch.Generator | None = None,
) -> CalibrationReport:
    r"""Test posterior samples of N observations against their truths.

    Parameters
    ----------
    samples : Tensor, shape (N, S, *event_shape)
        Independent posterior samples, in physical units. At least 16 observations; 100 for a verdict worth its name.
    truth : Tensor, shape (N, *event_shape)
    likelihoods : sequence of N BaseLikelihood, optional
        Each with its own data: adds log-likelihood ranks and chi-square.
    quantities : dict of callable, optional
        Scalars to quote later: images (B, *event_shape) -> (B,). The total flux is always tested.
    log_prior : callable, optional
        Log-density of the prior, or the energy :math:`-\|x - D(x, \sigma)\|^2` of a denoiser: images -> (B,).
        Catches wrong texture and missing correlations.
    prior_score : callable, optional
        Score of an exact prior, images -> images: adds the Stein ratio (needs `likelihoods`).
    reference : Tensor, shape (N, *event_shape), optional
        Reconstruction from the data alone, for the TARP test that sees whether the data were used; A^T y by default,
        where operators are linear.
    regions : dict of bool Tensor (*event_shape), optional
        Coverage is given for each as well: an overall 90 % can hide 99 and 60.
    kind : {"self-consistency", "held-out"}
        Where the truths come from.

    Returns
    -------
    CalibrationReport

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, there are fewer than 16 observations or 8 samples, or `kind` is
        another.
    """
    _check(samples, truth, likelihoods, kind)
    generator = generator or torch.Generator(device=samples.device).manual_seed(0)
    pixel = randomised_ranks(samples, truth, generator)
    pixel_ranks = {"all": pixel.flatten(1)} | {name: pixel[:, mask] for name, mask in (regions or {}).items()}
    statistics = {"total flux": _flux, **(quantities or {})} | ({"log prior": log_prior} if log_prior else {})
    ranks = {name: _rank(fn, samples, truth, generator) for name, fn in statistics.items()}
    numbers: dict[str, Any] = _scores(samples, truth)
    if likelihoods is not None:
        ranks["log likelihood"] = _likelihood_ranks(likelihoods, samples, truth, generator)
        numbers["chi2"] = _chi2(likelihoods, samples)
        if prior_score is not None:
            numbers["stein"] = _stein(likelihoods, samples, prior_score)
    ranks["TARP, mean"] = split_tarp_ranks(samples, truth, generator)
    reference = _dirty_images(likelihoods) if reference is None else reference
    if reference is not None:
        ranks["TARP, data"] = tarp_ranks(samples, truth, reference.to(truth), generator)
    ranks["TARP, random"] = tarp_ranks(samples, truth, other_truths(truth), generator)
    numbers["p_values"] = holm({name: uniformity_p_value(rank) for name, rank in ranks.items()})
    numbers["coverage"] = _coverage(pixel_ranks, ranks)
    numbers["smallest_visible_width_error"] = smallest_visible_error(len(truth), samples.shape[1])
    mean_z = torch.stack([z_map(x, t) for x, t in zip(samples, truth)]).mean(0)
    verdicts = judge.sort_verdicts(_verdicts(numbers, pixel_ranks["all"]))
    skill = spread_skill(samples, truth)
    return CalibrationReport(kind, samples.shape[1], ranks, pixel_ranks, mean_z, skill, json_safe(numbers), verdicts)


def _check(samples: Tensor, truth: Tensor, likelihoods: Sequence[BaseLikelihood] | None, kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if samples.ndim < 3 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise ValueError(
            f"samples (N, S, *event) and truth (N, *event) must match, got {tuple(samples.shape)}, {tuple(truth.shape)}"
        )
    if samples.shape[1] < MIN_SAMPLES:
        raise ValueError(f"a study needs at least {MIN_SAMPLES} samples per observation, got {samples.shape[1]}")
    if len(truth) < MIN_OBSERVATIONS:
        raise ValueError(f"a study needs at least {MIN_OBSERVATIONS} observations, got {len(truth)}")
    if likelihoods is not None and len(likelihoods) != len(truth):
        raise ValueError(f"likelihoods must be one per observation ({len(truth)}), got {len(likelihoods)}")
    check_finite("samples", samples)
    check_finite("truth", truth)


def _flux(images: Tensor) -> Tensor:
    return images.flatten(1).sum(1)


def _rank(fn: Statistic, samples: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    with torch.no_grad():
        values = torch.stack([fn(x) for x in samples])
        return randomised_ranks(values, fn(truth), generator)


def _likelihood_ranks(
    likelihoods: Sequence[BaseLikelihood], samples: Tensor, truth: Tensor, generator: torch.Generator
) -> Tensor:
    with torch.no_grad():
        values = torch.stack([likelihood.log_prob(x) for likelihood, x in zip(likelihoods, samples)])
        at_truth = torch.cat([likelihood.log_prob(t[None]) for likelihood, t in zip(likelihoods, truth)])
    return randomised_ranks(values, at_truth, generator)


def _chi2(likelihoods: Sequence[BaseLikelihood], samples: Tensor) -> dict[str, Any]:
    """Mean over samples and observations per term, with the standard error between observations."""
    found = [chi2_per_sample(likelihood, x) for likelihood, x in zip(likelihoods, samples)]
    result = {}
    for name in found[0]:
        means = torch.stack([terms[name].mean() for terms in found])
        result[name] = {"mean": float(means.mean()), "standard_error": float(means.std() / len(means) ** 0.5)}
    return result


def _stein(likelihoods: Sequence[BaseLikelihood], samples: Tensor, prior_score: Statistic) -> dict[str, float]:
    means = []
    for likelihood, x in zip(likelihoods, samples):
        with torch.no_grad():
            prior = prior_score(x)
        means.append(stein_ratio(x, prior + likelihood.score(x)).mean())
    ratio = torch.stack(means)
    return {"ratio": float(ratio.mean()), "standard_error": float(ratio.std() / len(ratio) ** 0.5)}


def _dirty_images(likelihoods: Sequence[BaseLikelihood] | None) -> Tensor | None:
    """A^T y of every observation where operators are linear, else None: sees a method that ignores its data."""
    images = []
    for likelihood in likelihoods or ():
        operator, y = getattr(likelihood, "operator", None), getattr(likelihood, "y", None)
        if not isinstance(operator, LinearOperator) or y is None:
            return None
        with torch.no_grad():
            images.append(operator.adjoint(y)[0])
    return torch.stack(images) if images else None


def _scores(samples: Tensor, truth: Tensor) -> dict[str, Any]:
    s = samples.shape[1]
    pairs = list(zip(samples, truth))
    square = torch.stack([z_map(x, t).square().mean() for x, t in pairs]).mean()
    return {
        "n_observations": len(truth),
        "n_samples": s,
        "z_rms": float(square.sqrt()) / ((s - 1) / (s - 3)) ** 0.5,
        "crps": float(torch.stack([fair_crps(x, t).mean() for x, t in pairs]).mean()),
        "energy_score": float(torch.stack([fair_energy_score(x, t) for x, t in pairs]).mean()),
        "sharpness": float(samples.var(1).mean().sqrt()),
        "rmse_of_mean": float((samples.mean(1) - truth).square().mean().sqrt()),
    }


def _coverage(pixel_ranks: Mapping[str, Tensor], ranks: Mapping[str, Tensor]) -> dict[str, Any]:
    everything = {f"pixels, {name}": rank for name, rank in pixel_ranks.items()} | dict(ranks)
    return {
        "levels": LEVELS,
        "coverage": {name: coverage_from_ranks(rank) for name, rank in everything.items()},
        "mean_error": {name: mean_coverage_error(rank, LEVELS) for name, rank in everything.items()},
        "binomial_95": binomial_band(len(pixel_ranks["all"])),
    }


def _verdicts(numbers: Mapping[str, Any], pixels: Tensor) -> list[judge.Verdict]:
    found = [
        judge.coverage_verdict(mean_coverage_error(pixels, LEVELS), signed_coverage_error(pixels)),
        judge.ranks_verdict("ranks of scalar quantities", numbers["p_values"]),
    ]
    found += [
        judge.chi2_verdict(name, term["mean"], term["standard_error"]) for name, term in numbers.get("chi2", {}).items()
    ]
    if "stein" in numbers:
        found.append(judge.stein_verdict(numbers["stein"]["ratio"]))
    return found
