"""Calibration study: posterior samples of many observations against their truths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import sciinstruct.calibration.verdicts as judge
from sciinstruct.calibration.arrays import as_events
from sciinstruct.calibration.bands import holm, smallest_visible_error, uniformity_p_value
from sciinstruct.calibration.chance import coverage_by_chance
from sciinstruct.calibration.local import local_ranks
from sciinstruct.calibration.measures import (
    Statistic,
    chi2_terms,
    coverage_tables,
    dirty_images,
    flux,
    likelihood_ranks,
    scalar_ranks,
    scores,
    skill_numbers,
    stein_numbers,
)
from sciinstruct.calibration.ranks import LEVELS, mean_coverage_error, randomised_ranks, signed_coverage_error
from sciinstruct.calibration.scores import SpreadSkill, z_map
from sciinstruct.calibration.support import PixelState, pixel_state
from sciinstruct.calibration.tarp import other_truths, split_tarp_ranks, tarp_ranks
from sciinstruct.core import BaseLikelihood
from sciinstruct.core.posterior_io import json_safe

KINDS = ("self-consistency", "held-out")
MIN_OBSERVATIONS, MIN_SAMPLES = 16, 8


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
        Ranks of pixels by region, those that never vary left out.
    mean_z : Tensor, shape (*event_shape)
        z map averaged over observations: featureless if all is well.
    pit_map : Tensor, shape (N, *event_shape)
        Rank of every pixel; NaN where it never varies.
    skill : SpreadSkill
    numbers : dict
        JSON-able: coverage, chi-square, Stein ratio, scores, features, chains.
    verdicts : list of Verdict
    """

    kind: str
    n_samples: int
    ranks: dict[str, Tensor]
    pixel_ranks: dict[str, Tensor]
    mean_z: Tensor
    pit_map: Tensor
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
    def verdict(self) -> str:
        """One line: how many checks failed, which, and what the study can see."""
        failed = [verdict.check for verdict in self.verdicts if verdict.status == judge.FAIL]
        warned = [verdict.check for verdict in self.verdicts if verdict.status == judge.WARN]
        size = f"{self.n} observations, {self.n_samples} samples each"
        if failed:
            return f"fail: {len(failed)} of {len(self.verdicts)} checks ({', '.join(failed)}); {size}"
        if warned:
            return f"warn: no check failed, {len(warned)} need a look ({', '.join(warned)}); {size}"
        visible = self.numbers["smallest_visible_width_error"]
        seen = f"one quantity alone shows width errors from {visible:.0%}"
        return f"pass: not rejected by {len(self.verdicts)} checks; {size}, {seen}"

    @property
    def coverage(self) -> dict[str, Any]:
        """JSON-able coverage by region and quantity: what `write_report` takes as `study`."""
        return {"kind": self.kind, "n_observations": self.n, **self.numbers["coverage"]}


def calibrate(
    samples: Any,
    truth: Any,
    *,
    likelihoods: Sequence[BaseLikelihood] | None = None,
    quantities: Mapping[str, Statistic] | None = None,
    log_prior: Statistic | None = None,
    prior_score: Statistic | None = None,
    reference: Tensor | None = None,
    regions: Mapping[str, Tensor] | None = None,
    features: Mapping[str, Tensor] | None = None,
    chains: int | None = None,
    kind: str = "self-consistency",
    generator: torch.Generator | None = None,
) -> CalibrationReport:
    r"""Test posterior samples of N observations against their truths.

    Parameters
    ----------
    samples : Tensor, array, xarray.DataArray, shape (N, S, *event_shape), or list of N arviz objects
        Independent posterior samples, in physical units. At least 16 observations; 100 for a verdict worth its name.
        Arviz objects hold chains: these are thinned to as many draws as the worst of them is worth.
    truth : Tensor, array or xarray.DataArray, shape (N, *event_shape)
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
    features : dict of Tensor (N,), optional
        Numbers known from the data alone (signal-to-noise, say): ranks are tested apart for low, middle, high ones.
    chains : int, optional
        Markov chains that an observation's samples consist of, one after the other; thinned as arviz objects are.
    kind : {"self-consistency", "held-out"}
        Where the truths come from.

    Returns
    -------
    CalibrationReport

    Raises
    ------
    ValueError
        If shapes or labelled coordinates disagree, a value is not finite, there are fewer than 16 observations or 8
        (independent) samples, no pixel varies, or `kind` is another.
    SciinstructError
        If chains are given and arviz is not installed.

    Notes
    -----
    Pixels that have one value in all truths and samples are left out and counted. The threshold of the pixel coverage
    error is widened to what chance allows at this number of observations.
    """
    samples, truth, walked = as_events(samples, truth, chains)
    _check(samples, truth, likelihoods, kind)
    generator = generator or torch.Generator(device=samples.device).manual_seed(0)
    state = pixel_state(samples, truth)
    used = ~state.constant
    if not used.any():
        raise ValueError("samples must vary: every pixel has one and the same value in all samples and truths")
    pixel = randomised_ranks(samples, truth, generator)
    regions = {"all": used} | {name: mask & used for name, mask in (regions or {}).items()}
    pixel_ranks = {name: pixel[:, mask] for name, mask in regions.items()}
    moving, target = samples[:, :, used], truth[:, used]
    numbers: dict[str, Any] = scores(moving, target)
    ranks = _all_ranks(samples, truth, likelihoods, quantities, log_prior, reference, generator, numbers)
    if likelihoods is not None:
        numbers["chi2"] = chi2_terms(likelihoods, samples)
        if prior_score is not None:
            numbers["stein"] = stein_numbers(likelihoods, samples, prior_score)
    skill, numbers["spread_skill"] = skill_numbers(moving, target)
    numbers["p_values"] = holm({name: uniformity_p_value(rank) for name, rank in ranks.items()})
    numbers["coverage"] = coverage_tables(pixel_ranks, ranks)
    chance = coverage_by_chance(moving.flatten(2), generator)
    numbers["coverage_error_by_chance"], numbers["coverage"]["pixels_by_chance"] = chance.error, chance.band
    numbers["smallest_visible_width_error"] = smallest_visible_error(len(truth), samples.shape[1])
    numbers["features"] = local_ranks(ranks, features) if features else {}
    numbers["chains"] = walked
    numbers["constant_pixels"] = int(state.constant.sum())
    mean_z = torch.stack([z_map(x, t) for x, t in zip(samples, truth)]).mean(0)
    verdicts = judge.sort_verdicts(_verdicts(numbers, pixel_ranks["all"], state))
    pit = torch.where(used, pixel, torch.nan)
    found = json_safe(numbers)
    return CalibrationReport(kind, samples.shape[1], ranks, pixel_ranks, mean_z, pit, skill, found, verdicts)


def _all_ranks(
    samples: Tensor,
    truth: Tensor,
    likelihoods: Sequence[BaseLikelihood] | None,
    quantities: Mapping[str, Statistic] | None,
    log_prior: Statistic | None,
    reference: Tensor | None,
    generator: torch.Generator,
    numbers: dict[str, Any],
) -> dict[str, Tensor]:
    """Ranks of every scalar quantity, TARP included; notes truths of zero density in `numbers`."""
    statistics = {"total flux": flux, **(quantities or {})} | ({"log prior": log_prior} if log_prior else {})
    ranks, numbers["truths_outside_prior"] = {}, 0
    for name, fn in statistics.items():
        ranks[name], outside = scalar_ranks(name, fn, samples, truth, generator)
        numbers["truths_outside_prior"] += outside if name == "log prior" else 0
    if likelihoods is not None:
        ranks["log likelihood"] = likelihood_ranks(likelihoods, samples, truth, generator)
    ranks["TARP, mean"] = split_tarp_ranks(samples, truth, generator)
    reference = dirty_images(likelihoods) if reference is None else reference
    if reference is not None:
        ranks["TARP, data"] = tarp_ranks(samples, truth, reference.to(truth), generator)
    ranks["TARP, random"] = tarp_ranks(samples, truth, other_truths(truth), generator)
    return ranks


def _check(samples: Tensor, truth: Tensor, likelihoods: Sequence[BaseLikelihood] | None, kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if samples.ndim < 3 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise ValueError(
            f"samples (N, S, *event) and truth (N, *event) must match, got {tuple(samples.shape)}, {tuple(truth.shape)}"
        )
    if samples.shape[1] < MIN_SAMPLES:
        raise ValueError(
            f"a study needs at least {MIN_SAMPLES} samples per observation, independent ones, got {samples.shape[1]}"
        )
    if len(truth) < MIN_OBSERVATIONS:
        raise ValueError(f"a study needs at least {MIN_OBSERVATIONS} observations, got {len(truth)}")
    if likelihoods is not None and len(likelihoods) != len(truth):
        raise ValueError(f"likelihoods must be one per observation ({len(truth)}), got {len(likelihoods)}")
    for name, values in (("samples", samples), ("truth", truth)):
        bad = ~values.flatten(1).isfinite()
        if bad.any():
            which = int(bad.any(1).nonzero()[0])
            raise ValueError(
                f"{name} must be finite: {int(bad.any(1).sum())} of {len(bad)} observations hold NaN or infinities, "
                f"the first is number {which} with {int(bad[which].sum())}"
            )


def _verdicts(numbers: Mapping[str, Any], pixels: Tensor, state: PixelState) -> list[judge.Verdict]:
    """Every check of the study, with its threshold."""
    error, signed = mean_coverage_error(pixels, LEVELS), signed_coverage_error(pixels)
    n, s, visible = (numbers[key] for key in ("n_observations", "n_samples", "smallest_visible_width_error"))
    found = [
        judge.coverage_verdict(error, signed, numbers["coverage_error_by_chance"]),
        judge.ranks_verdict("ranks of scalar quantities", numbers["p_values"]),
        judge.size_verdict(n, s, visible),
        *judge.support_verdicts(state.stuck, state.clamped, state.bounds, numbers["truths_outside_prior"]),
    ]
    found += [
        judge.chi2_verdict(name, term["mean"], term["standard_error"]) for name, term in numbers.get("chi2", {}).items()
    ]
    if "stein" in numbers:
        found.append(judge.stein_verdict(**numbers["stein"]))
    if numbers["chains"]:
        found.append(judge.chains_verdict(**{key: numbers["chains"][key] for key in ("rhat", "ess", "chains")}))
    for name, bins in numbers["features"].items():
        found += [
            judge.ranks_verdict(f"{name} {part['low']:.3g} to {part['high']:.3g} (n = {part['n']})", part["p_values"])
            for part in bins
        ]
    return found
