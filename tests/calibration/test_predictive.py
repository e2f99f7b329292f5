"""Posterior-predictive checks and the verdicts' thresholds."""

import math

import pytest
import torch
from scipy.stats import kstest

import sciinstruct.calibration.verdicts as judge
from sciinstruct.calibration.predictive import chi2_per_sample, data_counts, mean_residuals, predictive_check
from sciinstruct.core import BaseLikelihood


class Bare(BaseLikelihood):
    """Two terms, no residuals: the least a likelihood can offer."""

    domain_shape = (3,)

    def log_prob(self, image):
        return -0.5 * image.square().sum(1)

    def chi2(self, image):
        return {"first": image[:, 0].square(), "rest": image[:, 1:].square().mean(1)}

    def simulate(self, image, generator=None):
        return self


def test_chi2_in_chunks_is_chi2(study, generator):
    samples = study.samples(150, generator)[0]
    direct = study.likelihoods[0].chi2(samples)["data"]
    torch.testing.assert_close(chi2_per_sample(study.likelihoods[0], samples)["data"], direct, rtol=1e-13, atol=0)


def test_replicates_have_mean_one_and_the_spread_of_n_data(study, generator):
    term = predictive_check(study.likelihoods[0], study.samples(256, generator)[0], generator)["data"]
    assert term.n == study.likelihoods[0].y.numel()
    assert abs(float(term.replicated.mean()) - 1) < 4 * (2 / term.n / 256) ** 0.5
    assert term.standard_error == pytest.approx((2 / term.n) ** 0.5, rel=0.2)  # 4 standard errors of an sd over 256


def test_chi2_at_samples_and_replicates_follow_one_law(study, generator):
    """(x_s, y) and (x_s, its own data) are exchangeable under an exact posterior: one of each per observation."""
    first = study.samples(1, generator)
    terms = [predictive_check(lik, x, generator)["data"] for lik, x in zip(study.likelihoods, first)]
    observed, repeated = (torch.cat([getattr(t, name) for t in terms]).numpy() for name in ("chi2", "replicated"))
    assert kstest(observed, repeated).pvalue > 1e-3


def test_a_likelihood_without_residuals_has_terms_but_no_counts(generator):
    samples = torch.randn(20, 3, generator=generator)
    assert data_counts(Bare(), samples) == {} and mean_residuals(Bare(), samples) is None
    terms = predictive_check(Bare(), samples, generator)
    assert set(terms) == {"first", "rest"} and terms["rest"].n is None


def test_mean_residuals_are_the_mean_of_residuals(study, generator):
    samples, likelihood = study.samples(100, generator)[0], study.likelihoods[0]
    torch.testing.assert_close(mean_residuals(likelihood, samples), likelihood.residuals(samples).mean(0))


@pytest.mark.parametrize(
    "verdict, status",
    [
        (judge.chi2_verdict("t", 1.1, 0.05), "pass"),
        (judge.chi2_verdict("t", 1.09, 0.01), "warn"),
        (judge.chi2_verdict("t", 0.8, 0.01), "fail"),
        (judge.chi2_verdict("t", math.nan, 0.01), "fail"),
        (judge.coverage_verdict(0.01, -0.01), "pass"),
        (judge.coverage_verdict(0.02, -0.02), "warn"),
        (judge.coverage_verdict(0.04, 0.04), "fail"),
        (judge.stein_verdict(1.03), "pass"),
        (judge.stein_verdict(0.95), "warn"),
        (judge.stein_verdict(1.2, 0.09), "pass"),
        (judge.stein_verdict(1.4, 0.4), "warn"),  # within three standard errors, which says nothing
        (judge.stein_verdict(0.81), "fail"),
        (judge.ranks_verdict("r", {"a": 0.05, "b": 1.0}), "pass"),
        (judge.ranks_verdict("r", {"a": 0.01, "b": 1.0}), "warn"),
        (judge.ranks_verdict("r", {"a": 0.0005, "b": 1.0}), "fail"),
        (judge.modes_verdict([1.0], None), "pass"),
        (judge.modes_verdict([0.5, 0.5], None), "warn"),
        (judge.modes_verdict([0.5, 0.5], [0.2, 0.2]), "fail"),
        (judge.samples_verdict(16, 16), "warn"),
        (judge.samples_verdict(100, 99), "fail"),
        (judge.warnings_verdict(["late"]), "fail"),
        (judge.objective_verdict(False), "warn"),
        (judge.predictive_verdict({"a": 0.5}, {"a": 100}), "pass"),
        (judge.predictive_verdict({"a": 0.004}, {"a": 100}), "fail"),
        (judge.predictive_verdict({"a": 0.996}, {"a": 100}), "fail"),
        (judge.predictive_verdict({"a": 0.996}, {"a": 1}), "pass"),  # one datum fitted exactly is no overfit
        (judge.predictive_verdict({"a": 0.004}, {"a": 1}), "fail"),
    ],
)
def test_thresholds(verdict, status):
    assert verdict.status == status
    assert bool(verdict.action) == (status != "pass") and verdict.meaning
    assert "calibrated" not in verdict.meaning


def test_failures_come_first_and_decide():
    verdicts = [judge.stein_verdict(1.0), judge.stein_verdict(0.95), judge.stein_verdict(0.5)]
    assert [v.status for v in judge.sort_verdicts(verdicts)] == ["fail", "warn", "pass"]
    assert judge.overall(verdicts) == "fail" and judge.overall([]) == "pass"
