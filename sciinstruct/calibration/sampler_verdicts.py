"""Verdicts on an implicit sampler: its thresholds are this package's choice."""

from collections.abc import Mapping
from typing import Any

from sciinstruct.calibration.verdicts import FAIL, PASS, WARN, Verdict, graded, sort_verdicts, warnings_verdict

_GOOD_RATIO, _FAR_RATIO = 1.5, 3.0


def sampler_verdicts(numbers: Mapping[str, Any]) -> list[Verdict]:
    """The table a sampler's report opens with, worst first."""
    rows = [
        warnings_verdict(numbers["training"].get("warnings", [])),
        _stein(numbers["stein"]),
        *_distances(numbers["distances"]),
        _modes(numbers["modes"]),
        *_marginals(numbers["marginals"]),
        _importance(numbers["importance"]),
    ]
    if numbers["chains"] is not None:
        rows.append(_chains(numbers["chains"]))
    return sort_verdicts(rows)


def _stein(found: Mapping[str, Any]) -> Verdict:
    check = "kernel Stein discrepancy (squared)"
    if "refused" in found:
        return Verdict(check, FAIL, None, "in the null band", found["refused"], "Mend log_prob, or train again.")
    value, edge = found["squared"], found["null_95"]
    status = graded(value, found["p_value"] >= 0.05, value <= 5 * edge)
    meaning = (
        f"Not rejected by {found['n']} draws (p {found['p_value']:.2f}); it does not see the weights of separate modes."
        if status == PASS
        else f"The draws' shape differs from the target's (p {found['p_value']:.3f})."
    )
    action = "" if status == PASS else "Train longer, or pass the draws through `refine`."
    return Verdict(check, status, value, f"at most {edge:.3g} (95 % of exact draws)", meaning, action)


def _distances(found: Mapping[str, Any]) -> list[Verdict]:
    if "refused" in found:
        text = "Pass gold draws, or chains from `run_nuts`."
        return [Verdict("distance to gold draws", WARN, None, "a reference", found["refused"], text)]
    rows = []
    for name, key in (("sliced Wasserstein", "sliced_w2"), ("mean discrepancy", "mmd")):
        ratio = found[f"{key}_ratio"]
        status = graded(ratio, ratio <= _GOOD_RATIO, ratio <= _FAR_RATIO)
        meaning = f"{found[key]:.3g}, where two sets of {found['n']} {found['source']} are {found[f'{key}_floor']:.3g}."
        action = "" if status == PASS else "See modes and marginals for what differs."
        rows.append(Verdict(f"{name} over its floor", status, ratio, f"at most {_GOOD_RATIO:g}", meaning, action))
    return rows


def _modes(found: Mapping[str, Any]) -> Verdict:
    check = "weights of modes"
    if "refused" in found:
        return Verdict(check, WARN, None, "known modes", found["refused"], "Weights of separate modes are unproven.")
    margin = 0.05 + 3 * found["standard_error"]
    threshold = f"worst error at most {margin:.2g}, none missing"
    if found["missing"]:
        text = f"{len(found['missing'])} of {len(found['weights'])} modes of weight 0.05 or more are missing."
        action = "Train with base='particles', more pilot particles, or a wider start_scale; do not use these draws."
        return Verdict(check, FAIL, found["worst"], threshold, text, action)
    status = graded(found["worst"], found["worst"] <= margin, found["worst"] <= 2 * margin)
    meaning = f"{len(found['weights'])} mode(s); weights of the reference: {found['source']}."
    action = "" if status == PASS else "More pilot particles settle weights; refine does not."
    return Verdict(check, status, found["worst"], threshold, meaning, action)


def _marginals(rows: list[Mapping[str, Any]]) -> list[Verdict]:
    if "gold_mean" not in rows[0]:
        return []
    mean = max(rows, key=lambda row: abs(row["mean_error"]))
    spread = max(rows, key=lambda row: abs(row["sd_ratio"] - 1))
    off, chance = abs(mean["mean_error"]), 3 * mean["mean_error_by_chance"]
    wide, lucky = abs(spread["sd_ratio"] - 1), 3 * spread["sd_ratio_by_chance"]
    many = f"worst of {len(rows)} parameters"
    first = graded(off, off <= max(0.1, chance), off <= max(0.2, chance))
    second = graded(wide, wide <= max(0.1, lucky), wide <= max(0.2, lucky))
    return [
        Verdict(
            "error of means, in sd",
            first,
            off,
            f"at most {max(0.1, chance):.2g}",
            f"{mean['name']}, {many}; chance alone gives {chance / 3:.2g}.",
            "" if first == PASS else "Do not quote this mean without importance weights or refinement.",
        ),
        Verdict(
            "ratio of standard deviations",
            second,
            spread["sd_ratio"],
            f"1 within {max(0.1, lucky):.2g}",
            f"{spread['name']}, {many}; chance alone gives {lucky / 3:.2g}.",
            "" if second == PASS else "Do not quote this interval without importance weights or refinement.",
        ),
    ]


def _importance(found: Mapping[str, Any]) -> Verdict:
    check, threshold = "importance weights", "Pareto shape at most 0.7"
    if "refused" in found:
        text = f"No corrected estimates: {found['refused']}."
        return Verdict(check, WARN, found["k_hat"], threshold, text, "Estimates are the sampler's own, uncorrected.")
    text = f"Corrected estimates can be used: {found['effective']:.0%} of {found['n']} proposals are effective."
    return Verdict(check, PASS, found["k_hat"], threshold, text, "")


def _chains(found: Mapping[str, Any]) -> Verdict:
    check, threshold = "NUTS chains (R-hat)", "at most 1.01; a reference up to 1.05"
    status = PASS if found["converged"] and not found["divergences"] else WARN if found["valid"] else FAIL
    text = f"Worth {found['ess']:.0f} independent draws; {found['divergences']} divergences."
    action = "" if status == PASS else "Longer chains; over separate modes use tempered SMC as the reference."
    return Verdict(check, status, found["rhat"], threshold, text, action)
