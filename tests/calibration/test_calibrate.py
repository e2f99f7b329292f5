"""Calibration studies: exact samplers pass, each planted error fails, and nothing depends on bookkeeping."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binom

from sciinstruct.calibration.bands import holm
from sciinstruct.calibration.study import calibrate
from sciinstruct.calibration.study_report import compare, write_study

S = 32


def judge(study, samples, seed=0, **options):
    return calibrate(
        samples,
        study.truth,
        likelihoods=study.likelihoods,
        log_prior=study.prior.log_prob,
        prior_score=lambda x: study.prior.score(x, 1e-4),
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


@pytest.fixture(scope="module")
def exact(study):
    samples = study.samples(S, torch.Generator().manual_seed(5))
    regions = {"observed": study.seen, "missing": ~study.seen}
    return judge(study, samples, regions=regions, quantities={"peak": lambda x: x.flatten(1).amax(1)})


def test_an_exact_sampler_passes(exact):
    by_name = {verdict.check: verdict for verdict in exact.verdicts}
    assert {name: v.status for name, v in by_name.items() if v.status == "fail"} == {}
    assert by_name["chi-square: data"].status == "pass" and by_name["Stein ratio"].status == "pass"
    tarp = {"TARP, mean", "TARP, data", "TARP, random"}
    assert set(exact.ranks) == {"total flux", "peak", "log prior", "log likelihood"} | tarp
    assert set(exact.pixel_ranks) == {"all", "observed", "missing"}


@pytest.mark.parametrize(
    "spoil, checks",
    [
        ("narrow", {"Stein ratio", "ranks of scalar quantities"}),
        ("prior", {"Stein ratio", "ranks of scalar quantities", "chi-square: data"}),
        ("uncorrelated", {"Stein ratio", "ranks of scalar quantities"}),
        ("biased", {"ranks of scalar quantities"}),
    ],
)
def test_each_planted_error_fails(study, spoil, checks):
    g = torch.Generator().manual_seed(6)
    samples = {
        "narrow": lambda: study.samples(S, g, width=0.9),
        "prior": lambda: study.from_prior(S, g),
        "uncorrelated": lambda: study.uncorrelated(S, g),
        "biased": lambda: study.samples(S, g) + 0.4 * study.root.square().sum(1).sqrt().reshape(1, 10, 10),
    }[spoil]()
    failed = {verdict.check for verdict in judge(study, samples).verdicts if verdict.status == "fail"}
    assert checks <= failed


def test_pixel_coverage_is_blind_to_the_prior_and_to_correlation(study):
    """Why the mandatory set is a set: marginals alone look fine. 64 fields of 100 pixels scatter by about 0.02."""
    g = torch.Generator().manual_seed(8)
    for samples in (study.from_prior(S, g), study.uncorrelated(S, g)):
        assert judge(study, samples).numbers["coverage"]["mean_error"]["pixels, all"] < 0.03


def test_stein_ratio_of_narrow_samples_is_the_square_of_the_factor(study):
    report = judge(study, study.samples(S, torch.Generator().manual_seed(9), width=0.9))
    stein = report.numbers["stein"]
    assert abs(stein["ratio"] - 0.81) < 4 * stein["standard_error"]


def test_chi2_of_exact_samples_is_one_and_of_the_mean_is_known(study, exact):
    term = exact.numbers["chi2"]["data"]
    assert abs(term["mean"] - 1) < 3 * term["standard_error"]
    m = study.likelihoods[0].y.numel()
    of_mean = torch.cat([lik.chi2(x[None])["data"] for lik, x in zip(study.likelihoods, study.mean)])
    expected = 1 - study.hat_trace / m  # E|(I - A K) y|^2 = trace((I - A K) sigma^2)
    assert abs(float(of_mean.mean()) - expected) < 4 * float(of_mean.std()) / len(of_mean) ** 0.5


def test_order_and_precision_change_nothing(study):
    samples = study.samples(S, torch.Generator().manual_seed(5))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(1))
    shuffled = study._replace(truth=study.truth[order], likelihoods=[study.likelihoods[i] for i in order])
    a, b = judge(study, samples), judge(shuffled, samples[order])
    for key in ("crps", "energy_score", "z_rms", "rmse_of_mean"):
        assert a.numbers[key] == pytest.approx(b.numbers[key], rel=1e-10)
    assert a.numbers["stein"]["ratio"] == pytest.approx(b.numbers["stein"]["ratio"], rel=1e-10)
    assert a.numbers["chi2"]["data"]["mean"] == pytest.approx(b.numbers["chi2"]["data"]["mean"], rel=1e-10)
    moved = (a.ranks["total flux"][order] - b.ranks["total flux"]).abs().max()
    assert moved < 1 / (S + 1) + 1e-12  # only the uniform share within a rank is drawn anew
    single = study._replace(truth=study.truth.float())
    c = judge(single, samples.float())
    assert c.numbers["crps"] == pytest.approx(a.numbers["crps"], rel=1e-5)


def test_the_global_random_state_is_left_alone(study):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    a = judge(study, study.samples(8, torch.Generator().manual_seed(5)))
    b = judge(study, study.samples(8, torch.Generator().manual_seed(5)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a.ranks[name], b.ranks[name]) for name in a.ranks)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_they_claim(make_study):
    """Over 40 exact samplers the smallest Holm p is below 0.05 no more often than 5 % allows; ECE stays small."""
    alarms, error = 0, []
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        study = make_study(64, g)
        report = judge(study, study.samples(S, g), seed)
        alarms += min(report.numbers["p_values"].values()) < 0.05
        error.append(report.numbers["coverage"]["mean_error"]["pixels, all"])
    assert alarms <= binom.ppf(0.995, 40, 0.05)
    assert sum(error) / 40 < 0.02


def test_one_observation_far_off_does_not_widen_what_it_is_judged_by(study):
    samples = study.samples(S, torch.Generator().manual_seed(5))
    samples[7] += 5 * samples[7].std()  # misfit, and the scatter of misfits with it
    report = judge(study, samples, 5)
    rows = {verdict.check: verdict for verdict in report.verdicts}
    assert rows["chi-square: data"].status == "fail", rows["chi-square: data"]


def test_holm_is_never_below_the_raw_p_and_keeps_order():
    raw = {"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9}
    adjusted = holm(raw)
    assert adjusted == pytest.approx({"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.9})


def test_a_study_writes_its_report(exact, tmp_path):
    paths = write_study(exact, tmp_path / "out", name="exact sampler")
    content = json.loads(paths.json.read_text())
    assert content["schema"] == "sciinstruct-study" and content["kind"] == "self-consistency"
    assert "https:" not in paths.html.read_text() and "exact sampler" in paths.html.read_text()
    assert compare({"exact": exact})[0]["crps"] == content["crps"]
    import xarray

    with xarray.open_dataset(paths.ranks, engine="h5netcdf") as dataset:
        assert dataset["ranks"].shape == (7, 64)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"kind": "guess"}, "kind must be"),
        ({"samples": torch.zeros(64, 4, 1, 10, 10)}, "at least 8 samples"),
        ({"likelihoods": []}, "likelihoods must be one per observation"),
        ({"truth": torch.zeros(64, 1, 3, 3)}, "must match"),
        (
            {"samples": torch.zeros(64, 8, 1, 10, 10, dtype=torch.complex64)},
            "samples must be real, got torch.complex64",
        ),
        ({"samples": np.full((64, 8, 1, 10, 10), "a")}, "array of numbers, .* got ndarray of <U1"),
        ({"truth": torch.zeros(64, 1, 10, 10) * 1j}, "truth must be real"),
        ({"samples": torch.full((64, 8, 1, 10, 10), float("nan"))}, "samples must be finite"),
        ({"samples": torch.zeros(8, 8, 1, 10, 10), "truth": torch.zeros(8, 1, 10, 10)}, "at least 16"),
    ],
)
def test_input_that_does_not_fit_is_named(study, change, text):
    arguments = {"samples": study.samples(8, torch.Generator().manual_seed(0)), "truth": study.truth, **change}
    with pytest.raises(ValueError, match=text):
        calibrate(arguments.pop("samples"), arguments.pop("truth"), **arguments)
