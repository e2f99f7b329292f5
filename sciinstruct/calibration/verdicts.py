"""Verdicts: a number, a threshold, what it means and what to do. The thresholds are this package's choice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PASS, WARN, FAIL = "pass", "warn", "fail"
_ORDER = {FAIL: 0, WARN: 1, PASS: 2}
MIN_SAMPLES = 64
MIN_STUDY = 100  # observations
FEW = 5  # data
_WIDEST_STEIN = 0.5  # error of the ratio above which agreement with 1 says nothing: half of the variance


@dataclass(frozen=True)
class Verdict:
    """One row of the table a report opens with."""

    check: str
    status: str  # "pass", "warn" or "fail"
    value: float | None
    threshold: str
    meaning: str
    action: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def sort_verdicts(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Failures first, then warnings; otherwise as given."""
    return sorted(verdicts, key=lambda verdict: _ORDER[verdict.status])


def overall(verdicts: Sequence[Verdict]) -> str:
    """The worst status, ``"pass"`` for an empty list."""
    return min((verdict.status for verdict in verdicts), key=_ORDER.__getitem__, default=PASS)


def graded(value: float, good: bool, tolerable: bool) -> str:
    """Status from two nested conditions; a value that is not finite fails."""
    if not math.isfinite(value):
        return FAIL
    return PASS if good else WARN if tolerable else FAIL


def chi2_verdict(term: str, mean: float, standard_error: float) -> Verdict:
    """Mean reduced chi-square over samples against 1."""
    off, margin = abs(mean - 1), 3 * standard_error
    status = graded(mean, off <= margin, off <= 0.1)
    if status == PASS:
        meaning, action = "Not rejected: the samples explain these data to within their noise.", ""
    elif mean > 1:
        meaning = "The samples do not explain these data."
        action = (
            "Check the noise budget and the calibration of the data, then the prior's range and the number of steps."
        )
    else:
        meaning = "The samples follow the noise of these data, or the noise is overstated."
        action = (
            "Check the noise budget; if it is right, the posterior is too narrow: run longer or anneal more slowly."
        )
    threshold = f"within 3 standard errors ({1 - margin:.2f} to {1 + margin:.2f})"
    return Verdict(f"chi-square: {term}", status, mean, threshold, meaning, action)


def predictive_verdict(p_values: Mapping[str, float], counts: Mapping[str, int | None]) -> Verdict:
    """The most extreme posterior-predictive p, corrected for the number of terms.

    A term of fewer than five data (a total flux) cannot show overfitting: only its misfit counts.
    """
    tails = {name: min(p, 1 - p) if (counts.get(name) or FEW) >= FEW else min(p, 0.5) for name, p in p_values.items()}
    name = min(tails, key=tails.__getitem__)
    p = p_values[name]
    two_sided = min(1.0, 2 * tails[name] * len(p_values))
    status = graded(two_sided, two_sided >= 0.1, two_sided >= 0.05)
    side = "larger" if p < 0.5 else "smaller"
    meaning = (
        f"Not rejected: data simulated from the samples look like the data ({len(p_values)} terms tested)."
        if status == PASS
        else f"The misfit of {name} is {side} than that of data simulated from the samples."
    )
    advice = "Look at this term's residuals: a few bad data, or a noise level that is wrong as a whole?"
    check, threshold = f"predictive p (most extreme: {name})", "two-sided, corrected p at least 0.1"
    return Verdict(check, status, p, threshold, meaning, "" if status == PASS else advice)


def warnings_verdict(warnings: Sequence[str]) -> Verdict:
    """What the solver itself complained about."""
    if not warnings:
        return Verdict("solver diagnostics", PASS, 0.0, "no warning", "The solver raised no warning.", "")
    meaning = "; ".join(warnings)
    return Verdict(
        "solver diagnostics", FAIL, float(len(warnings)), "no warning", meaning, "Run longer, or as the warning says."
    )


def objective_verdict(preserves_bayes: bool) -> Verdict:
    """Does the solver's objective have the Bayesian posterior as its optimum?"""
    if preserves_bayes:
        return Verdict("objective", PASS, None, "exact KL", "The objective's optimum is the Bayesian posterior.", "")
    meaning = "The objective's optimum is a generalised posterior: its spread is not Bayesian."
    return Verdict("objective", WARN, None, "exact KL", meaning, "For uncertainties use the exact KL objective.")


def modes_verdict(weights: Sequence[float], spread: Sequence[float] | None) -> Verdict:
    """Are the weights of the modes settled, judged by their scatter over restarts?"""
    check = "mode weights"
    if len(weights) < 2:
        return Verdict(check, PASS, None, "scatter at most 0.1", "One mode was found.", "")
    if spread is None:
        meaning = f"{len(weights)} modes; how well their weights are known was not measured."
        return Verdict(
            check, WARN, None, "scatter at most 0.1", meaning, "Repeat from several starts before quoting weights."
        )
    worst = max(spread)
    status = graded(worst, worst <= 0.1, worst <= 0.15)
    meaning = f"{len(weights)} modes; weights are {'stable' if status == PASS else 'not identified'} over restarts."
    action = "" if status == PASS else "Do not quote the weights: use more starts or run longer."
    return Verdict(check, status, worst, "scatter at most 0.1", meaning, action)


def samples_verdict(n_samples: int, distinct: int) -> Verdict:
    """Enough samples, and different ones?"""
    threshold = f"at least {MIN_SAMPLES}, all different"
    if distinct < n_samples:
        meaning = f"Only {distinct} of {n_samples} samples are different: the solver collapsed."
        return Verdict(
            "samples", FAIL, float(distinct), threshold, meaning, "Do not use these uncertainties; change the solver."
        )
    enough = n_samples >= MIN_SAMPLES
    meaning = f"{n_samples} different samples." if enough else f"{n_samples} samples give coarse intervals."
    return Verdict(
        "samples",
        PASS if enough else WARN,
        float(n_samples),
        threshold,
        meaning,
        "" if enough else "Draw more samples.",
    )


def ranks_verdict(check: str, p_values: Mapping[str, float]) -> Verdict:
    """Smallest Holm-corrected p of several quantities' ranks."""
    name = min(p_values, key=p_values.__getitem__)
    p = p_values[name]
    status = graded(p, p >= 0.05, p >= 0.001)
    tested = f"{len(p_values)} quantities tested, smallest corrected p for {name}"
    meaning = f"Not rejected: {tested}." if status == PASS else f"Rejected: {tested}."
    action = "" if status == PASS else "Do not quote intervals of this quantity: see its rank plot for the direction."
    return Verdict(check, status, p, "corrected p at least 0.05", meaning, action)


def coverage_verdict(error: float, signed: float, chance: float = 0.0) -> Verdict:
    """Mean pixel coverage error over levels (ECE); `chance` is what few observations reach without any error."""
    good, tolerable = max(0.01, chance), max(0.03, 1.5 * chance)
    status = graded(error, error <= good, error <= tolerable)
    side = "too narrow" if signed < 0 else "too wide"
    meaning = (
        "Pixel intervals cover as often as they say." if status == PASS else f"Pixel intervals are {side} on average."
    )
    action = (
        "" if status == PASS else "See the coverage curve by region; a bright region can hide behind the background."
    )
    threshold = f"at most {good:.2g} (warning up to {tolerable:.2g})"
    if chance > 0.01:
        threshold += ", widened from 0.01 to what chance allows"
    return Verdict("pixel coverage error", status, error, threshold, meaning, action)


def size_verdict(n: int, n_samples: int, visible: float) -> Verdict:
    """Enough observations and samples for bands that mean something?"""
    enough = n >= MIN_STUDY and n_samples >= MIN_SAMPLES
    threshold = f"at least {MIN_STUDY} observations of {MIN_SAMPLES} samples"
    seen = f"errors of its width from {visible:.0%}" if visible < 1 else "no error of its width"
    widened = "" if enough else "All bands are widened to match. "
    meaning = (
        f"{widened}The ranks of one quantity show {seen} in four of five such studies; TARP and log-densities see more."
    )
    action = "" if enough else "Use more observations before quoting a pass."
    return Verdict("size of the study", PASS if enough else WARN, float(n), threshold, meaning, action)


def support_verdicts(
    stuck: float, clamped: float, bounds: tuple[float | None, float | None], outside_prior: int
) -> list[Verdict]:
    """Failures that make ranks meaningless: pixels without spread, clamped samples, truths of zero prior density."""
    found = []
    if stuck > 0:
        meaning = "All samples agree on one value there, and the truth has another: the uncertainty is zero and wrong."
        action = "Look for clamping, rounding or a collapsed solver."
        found.append(Verdict("pixels without spread", FAIL, stuck, "none", meaning, action))
    if clamped > 0:
        limits = " and ".join(f"{bound:.3g}" for bound in bounds if bound is not None)
        meaning = f"Samples pile up at {limits}, and this share of true pixels lies beyond: no sample can reach them."
        action = "Do not clamp samples, or hold the truths to the same range."
        found.append(Verdict("truth outside the samples' range", FAIL, clamped, "none", meaning, action))
    if outside_prior:
        meaning = f"The prior says that {outside_prior} of the truths are impossible (density zero)."
        action = "Compare the units of prior and truths; then choose a prior that can make such images."
        found.append(Verdict("truth outside the prior", FAIL, float(outside_prior), "none", meaning, action))
    return found


def chains_verdict(rhat: float, ess: float, chains: int) -> Verdict:
    """Have the Markov chains mixed, and are they long enough?"""
    enough = ess >= 100 * chains
    status = graded(rhat, rhat <= 1.01 and enough, rhat <= 1.05)
    value = f"R-hat {rhat:.3f}" if math.isfinite(rhat) else "a chain never moved"
    meaning = f"Worst over observations: {value}, worth {ess:.0f} independent draws."
    action = "" if status == PASS else "Run longer chains, from starts far apart; ranks use the thinned draws."
    threshold = "R-hat at most 1.01, 100 draws' worth per chain"
    return Verdict("chains", status, rhat if math.isfinite(rhat) else None, threshold, meaning, action)


def stein_verdict(ratio: float, standard_error: float = 0.0) -> Verdict:
    """Stein ratio under an exact prior; single observations far off widen the standard error, so a large one warns."""
    near, far = max(0.03, 3 * standard_error), max(0.1, 4 * standard_error)
    agrees = 1 - near <= ratio <= 1 + near
    status = graded(ratio, agrees and near <= _WIDEST_STEIN, 1 - far <= ratio <= 1 + far)
    if status == PASS:
        meaning, action = "Not rejected: the width agrees with the posterior's score.", ""
    elif agrees:
        meaning = "Observations differ so much in their ratios that the mean of them says nothing."
        action = "Look for single observations whose samples are far off; otherwise draw more."
    else:
        meaning = f"The samples are {'too narrow' if ratio < 1 else 'too wide or off the posterior'}."
        action = "Compare with the coverage and the spread-skill plot: which pixels are wrong?"
    threshold = f"{1 - near:.2f} to {1 + near:.2f} (warning {1 - far:.2f} to {1 + far:.2f})"
    return Verdict("Stein ratio", status, ratio, threshold, meaning, action)
