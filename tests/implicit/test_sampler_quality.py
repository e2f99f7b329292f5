"""The report of a sampler: exact draws pass, wrong ones fail for the right reason, refusals are said."""

import json
import math

import pytest
import torch

from sciinstruct.calibration.importance import importance_check
from sciinstruct.calibration.mmd import mean_discrepancy
from sciinstruct.calibration.sampler_measures import stein_test
from sciinstruct.calibration.sampler_quality import sampler_quality
from sciinstruct.core import OutputError, SolverError
from sciinstruct.implicit import FunctionTarget, GaussianMixture, Sampler, make_target
from sciinstruct.implicit.networks import PointGenerator
from sciinstruct.implicit.nuts import Chains, run_nuts


def gaussian_sampler(target, factor=1.0, shift=0.0):
    """A linear generator whose draws are those of a Gaussian target, but for a wrong width or place."""
    network = PointGenerator(target.dim, target.dim, 0, 0)
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    sigma = 0.1
    root = (target.roots[0] * factor / (1 + sigma**2) ** 0.5).float()
    training = {"seconds": 30.0, "pilot_seconds": 2.0, "warnings": [], "curves": {"ksd": [0.1, None, 0.01]}}
    return Sampler(network, (target.means[0] + shift).float(), root, sigma, training, {})


def verdict(quality, check):
    return next(v for v in quality.verdicts if v.check.startswith(check))


def test_the_stein_test_rejects_as_often_as_it_says_and_sees_a_shift(generator):
    p = []
    for _ in range(120):
        x = torch.randn(150, 2, generator=generator, dtype=torch.float64)
        p.append(stein_test(x, -x, generator).p_value)
    rejected = sum(value < 0.1 for value in p) / len(p)
    assert rejected < 0.1 + 4 * (0.09 / len(p)) ** 0.5
    assert sum(value < 0.5 for value in p) / len(p) > 0.5 - 4 * (0.25 / len(p)) ** 0.5 - 0.1  # bands are a bit wide
    x = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    assert stein_test(x + 0.5, -(x + 0.5), generator).p_value < 0.01


def test_mean_discrepancy_is_its_definition(generator):
    a, b = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (30, 20))
    kernel = lambda x, y: sum(
        (-0.5 * (x[:, None] - y).square().sum(-1) / (1.7 * f) ** 2).exp() for f in (0.25, 0.5, 1, 2)
    )
    aa, bb, ab = (kernel(*pair) / 4 for pair in ((a, a), (b, b), (a, b)))
    v = (aa.mean() + bb.mean() - 2 * ab.mean()).sqrt()
    u = (aa.sum() - 30) / (30 * 29) + (bb.sum() - 20) / (20 * 19) - 2 * ab.mean()
    found = mean_discrepancy(a, b, 1.7)
    assert found.v == pytest.approx(float(v), rel=1e-10)
    assert found.squared == pytest.approx(float(u), rel=1e-9)
    with pytest.raises(ValueError, match="two rows"):
        mean_discrepancy(a, b[:, :2])


def test_weights_mend_wrong_mode_masses_and_find_the_normaliser(generator):
    """A bank with nine tenths of its draws in one of two equal modes."""
    modes = torch.tensor([[2.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    target = GaussianMixture(modes, 0.25 * torch.eye(2))
    label = (torch.rand(2000, generator=generator) < 0.1).long()
    bank = modes[label] + 0.5 * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    found = importance_check(bank, lambda x: target.log_prob(x) + 3, 4000, generator)
    assert found.trusted and found.k_hat < 0.7
    right = float((found.weights * (found.x[:, 0] > 0)).sum())
    assert abs(right - 0.5) < 4 * 0.5 / (found.effective * 4000) ** 0.5
    assert abs(found.log_normalizer - 3) < 4 * found.log_normalizer_error


def test_weights_are_refused_where_the_proposal_misses_the_target(generator):
    bank = torch.randn(500, 40, generator=generator, dtype=torch.float64)
    found = importance_check(bank, lambda x: -0.5 * x.square().sum(1), 2000, generator)
    assert not found.trusted and "40 dimensions" in found.reason
    with pytest.raises(ValueError, match="at least 500"):
        importance_check(bank, lambda x: x[:, 0], 10, generator)


def test_exact_draws_pass_and_narrow_ones_fail():
    target = make_target("gaussian")
    good = sampler_quality(gaussian_sampler(target), target, n=1000)
    assert {v.status for v in good.verdicts} == {"pass"}
    assert good.numbers["reference"]["source"] == "exact draws"
    assert good.numbers["importance"]["log_normalizer"] == pytest.approx(0, abs=0.05)
    bad = sampler_quality(gaussian_sampler(target, 0.7), target, n=1000)
    ratio = verdict(bad, "ratio of standard deviations")
    assert ratio.status == "fail" and ratio.value == pytest.approx(0.7, abs=0.05)
    assert verdict(bad, "kernel Stein").status != "pass"
    assert verdict(bad, "sliced Wasserstein").status == "fail"


def test_a_missing_mode_fails_though_the_stein_discrepancy_does_not_see_it():
    far = GaussianMixture(torch.tensor([[6.0, 0.0], [-6.0, 0.0]], dtype=torch.float64), torch.eye(2))
    one = GaussianMixture(far.means[:1], torch.eye(2))
    found = sampler_quality(gaussian_sampler(one), far, n=1000)
    assert verdict(found, "kernel Stein").status == "pass"
    modes = verdict(found, "weights of modes")
    assert modes.status == "fail" and "missing" in modes.meaning
    assert found.numbers["modes"]["missing"] == [1]
    assert found.status == "fail"


def test_without_a_reference_that_is_said():
    target = FunctionTarget(lambda x: -0.5 * x.square().sum(1), 2)
    unit = GaussianMixture(torch.zeros(1, 2), torch.eye(2))
    found = sampler_quality(gaussian_sampler(unit), target, n=1000)
    assert verdict(found, "distance to gold").status == "warn"
    assert "refused" in found.numbers["distances"] and "refused" in found.numbers["cost"]["break_even"]
    assert found.gold is None
    stuck = Chains(torch.stack([torch.zeros(50, 2), torch.randn(50, 2) + 9]), 0, 10, 1.0, 1.0)
    found = sampler_quality(gaussian_sampler(unit), target, n=1000, chains=stuck)
    assert "not a valid reference" in found.numbers["distances"]["refused"]
    assert verdict(found, "NUTS").status == "fail"
    assert "have not converged" in found.numbers["cost"]["break_even"]["refused"]


def test_break_even_is_where_both_cost_the_same(generator):
    """32 s of training against 2 s of warm-up and the chains' effective draws per second."""
    target = make_target("gaussian")
    x = target.sample(2000, generator).reshape(4, 500, 2)
    cost = sampler_quality(gaussian_sampler(target), target, n=1000, chains=Chains(x, 0, 99, 2.0, 10.0)).numbers
    slow, fast = cost["cost"]["nuts_ess_per_second"], cost["cost"]["draws_per_second"]
    n = cost["cost"]["break_even"]["draws"]
    assert n == math.ceil(30 / (1 / slow - 1 / fast))
    assert abs(32 + n / fast - (2 + n / slow)) <= 1.001 / slow
    assert 100 < slow < 400  # independent draws: about 2000 in 10 s


def test_the_report_is_written_whole_or_not_at_all(tmp_path):
    target = make_target("gaussian")
    found = sampler_quality(gaussian_sampler(target), target, n=1000, names=["a", "b"])
    paths = found.save(tmp_path / "r")
    content = json.loads(paths.json.read_text())
    assert content["overall"] == found.status and content["marginals"][1]["name"] == "b"
    page = paths.html.read_text()
    assert "Break-even" in page and page.count("data:image/png") == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        found.save(tmp_path / "file")
    with pytest.raises(ValueError, match="names"):
        sampler_quality(gaussian_sampler(target), target, n=1000, names=["a"])
    with pytest.raises(ValueError, match="gold must hold"):
        sampler_quality(gaussian_sampler(target), target, n=1000, gold=torch.zeros(5, 2))
    with pytest.raises(ValueError, match="n must be"):
        sampler_quality(gaussian_sampler(target), target, n=10)


def test_chains_have_the_targets_moments_and_repeat():
    target = make_target("gaussian")
    short = [run_nuts(target, chains=2, draws=5, warmup=10, generator=0).x for _ in range(2)]
    assert torch.equal(*short)
    run = run_nuts(target, chains=2, draws=100, warmup=50, generator=0)
    assert run.divergences == 0 and run.evaluations > 300 and run.seconds > 0
    x = run.x.flatten(0, 1)
    white = torch.linalg.solve_triangular(target.roots[0], (x - target.means[0]).T, upper=False)
    assert (white.mean(1).abs() < 4.5 / 60**0.5).all()  # correlated draws, worth 60 at least
    assert ((white.var(1) - 1).abs() < 4.5 * (2 / 60) ** 0.5).all()


def test_chains_refuse_what_cannot_run():
    target = make_target("gaussian")
    for wrong, text in [
        ({"chains": 1}, "2 chains"),
        ({"start": torch.zeros(3, 2)}, "one point per chain"),
        ({"start": torch.full((4, 2), torch.nan)}, "finite"),
    ]:
        with pytest.raises(ValueError, match=text):
            run_nuts(target, **wrong)
    with pytest.raises(SolverError, match="NaN"):
        run_nuts(FunctionTarget(lambda x: x.sum(1) * torch.nan, 2), draws=4, warmup=10)
