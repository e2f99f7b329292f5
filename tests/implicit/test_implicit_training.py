"""Training: known targets are learned, seeds repeat, interruptions resume, failures are said."""

import json
import math

import pytest
import torch
from torch.distributions import Gamma, Independent, constraints

from sciinstruct.core import SolverError
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.implicit import (
    DistributionTarget,
    FunctionTarget,
    GaussianMixture,
    ImplicitSampler,
    Sampler,
    make_target,
    refine,
    tempered_smc,
)
from sciinstruct.implicit.bank import Bank
from sciinstruct.implicit.diagnostics import held_out_check
from sciinstruct.implicit.settle import cut_weights, settle
from sciinstruct.implicit.whitened import WhitenedTarget

QUICK = {"steps": 40, "warmup": 20, "batch": 64, "score_steps": 1, "width": 16, "depth": 2, "particles": 128}


def test_a_linear_generator_learns_a_gaussian():
    """Mean and covariance to sampling error plus, for a run of seconds, 3 % of a width and 10 % of a variance."""
    target = make_target("gaussian")
    sampler = ImplicitSampler(steps=300, depth=0, particles=2048).train(target, generator=0)
    x = sampler.sample(20_000, 1).double()
    white = torch.linalg.solve_triangular(target.roots[0], (x - target.means[0]).T, upper=False)
    assert (white.mean(1).abs() < 0.03 + 4 / 20_000**0.5).all()
    assert ((torch.cov(white) - torch.eye(2)).abs() < 0.1 + 4 * (2 / 20_000) ** 0.5).all()
    assert not sampler.diagnostics["warnings"] and sampler.diagnostics["base"] == "gaussian"


def test_particles_keep_modes_and_a_gaussian_base_that_loses_one_is_flagged():
    """Two modes far apart: the pilot's particles keep both; a linear map of a Gaussian cannot, and that is said."""
    far = FunctionTarget(
        lambda x: torch.stack([-0.5 * (x - m).square().sum(1) for m in (6.0, -6.0)]).logsumexp(0), 2, name="far"
    )
    both = ImplicitSampler(**QUICK).train(far, generator=0)
    assert both.diagnostics["base"] == "particles" and not both.diagnostics["missing_modes"]
    start = torch.cat([torch.randn(500, 2, generator=torch.Generator().manual_seed(1)) + m for m in (6.0, -6.0)])
    network = OneMode()
    settings = QUICK | {"base": "gaussian", "learning_rate": 1e-9}
    one = ImplicitSampler(**settings).train(far, generator=0, start=start, network=network)
    assert len(one.diagnostics["missing_modes"]) == 1
    assert "missing" in one.diagnostics["warnings"][0]


class OneMode(torch.nn.Module):
    """A generator of one's own that has collapsed."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.ones(2))

    def draw_latent(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def forward(self, z):
        return self.shift + 0.1 * z


@pytest.mark.parametrize("objective", ["kl", "fisher", "dft", "diffused_kl"])
def test_same_seed_same_sampler_and_round_trip_through_files(objective, tmp_path):
    settings = ImplicitSampler(objective=objective, **QUICK)
    target = make_target("donut")
    first, second = (settings.train(target, generator=3) for _ in range(2))
    x = first.sample(100, 5)
    assert torch.equal(x, second.sample(100, 5)) and x.isfinite().all()
    assert torch.equal(first.sample(7, 5, batch=7), first.sample(7, 5))
    first.save(tmp_path / "s")
    loaded = Sampler.load(tmp_path / "s")
    assert torch.equal(loaded.sample(100, 5), x)
    assert loaded.card["settings"]["objective"] == objective
    assert loaded.diagnostics["steps"] == QUICK["steps"]
    assert json.loads((tmp_path / "s" / "card.json").read_text())["kind"] == "implicit sampler"


def test_an_interrupted_training_resumes_to_the_same_sampler(tmp_path):
    target, settings, path = make_target("mog2"), ImplicitSampler(**QUICK), tmp_path / "run.pt"
    whole = settings.train(target, generator=1)

    def stop(step, info):
        if step == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.train(target, generator=1, callback=stop, checkpoint=path)
    resumed = settings.train(target, generator=99, checkpoint=path, resume=True)
    assert torch.equal(resumed.sample(50, 0), whole.sample(50, 0))
    assert resumed.diagnostics["target_evaluations"] == whole.diagnostics["target_evaluations"]
    with pytest.raises(SolverError, match="another target"):
        ImplicitSampler(**QUICK | {"batch": 32}).train(target, checkpoint=path, resume=True)
    with pytest.raises(SolverError, match="another target"):
        settings.train(make_target("donut"), checkpoint=path, resume=True)
    with pytest.raises(SolverError, match="does not exist"):
        settings.train(target, checkpoint=tmp_path / "none.pt", resume=True)


def test_constrained_targets_have_the_right_moments():
    """Gamma(2, 1), Gamma(4, 2) learned by their unconstrained coordinates; draws come back positive."""
    target = DistributionTarget(Independent(Gamma(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0])), 1))
    sampler = ImplicitSampler(steps=200, score_steps=2, batch=128, width=32, depth=2, particles=2048).train(
        target, generator=0
    )
    x = target.constrain(sampler.sample(20_000, 1))
    assert (x > 0).all()
    torch.testing.assert_close(x.mean(0), torch.tensor([2.0, 2.0]), rtol=0.08, atol=0)  # a run of seconds


def test_a_log_density_that_is_nan_now_and_then_does_not_poison_training():
    """One per cent of rows NaN by a rule on the points: the sampler stays finite and the count is reported."""
    holes = lambda x: (x[:, 0] * 1000).remainder(100.0) < 1
    target = FunctionTarget(lambda x: -0.5 * x.square().sum(1) * torch.where(holes(x), torch.nan, 1.0), 2, name="holes")
    for objective in ("kl", "dft", "fisher"):
        sampler = ImplicitSampler(objective=objective, kl_share=0.0, **QUICK).train(target, generator=0)
        assert sampler.sample(500, 0).isfinite().all()
        assert 0 < sampler.diagnostics["bad_rows"] < 0.1 * QUICK["steps"] * 2 * QUICK["batch"]
        assert sampler.diagnostics["skipped_steps"] == 0


def test_a_target_that_turns_nan_everywhere_stops_with_the_step():
    calls = {"n": 0}

    def dies(x):
        calls["n"] += 1
        return -0.5 * x.square().sum(1) * (1.0 if calls["n"] < 100 else torch.nan)

    with pytest.raises(SolverError, match="100 steps in a row.*log_prob"):
        ImplicitSampler(**QUICK | {"steps": 500}).train(FunctionTarget(dies, 2), generator=0)


def test_early_stop_returns_the_best_check():
    seen = []
    settings = ImplicitSampler(**QUICK | {"steps": 400, "depth": 0}, patience=2)
    sampler = settings.train(make_target("gaussian"), generator=0, callback=lambda step, info: seen.append(step))
    curves = sampler.diagnostics["curves"]
    late = [k for k, s in zip(curves["ksd"], curves["ksd_step"]) if s >= 240]
    assert len(seen) == sampler.diagnostics["steps"]
    assert len(seen) == 400 or min(late) == late[-3]  # stopped: two checks without a better one


def test_spread_is_one_for_exact_draws_and_says_which_way_others_are_off():
    """N(0, I) under itself: -E[w.s]/d is the variance of the draws, to 4.5 standard errors."""
    target = FunctionTarget(lambda x: -0.5 * x.square().sum(1), 2)
    white = WhitenedTarget(target, torch.zeros(2), torch.eye(2), 100.0)
    checks = {}
    for width in (0.8, 1.0, 1.25):
        network = OneMode()
        network.forward = lambda z, width=width: width * z
        checks[width] = held_out_check(white, network, 0.0, 7)
        assert abs(checks[width].spread - width**2) < 4.5 * checks[width].spread_error
        assert checks[width].spread_error == pytest.approx(width**2 / 2048**0.5, rel=0.2)  # chi-square of two degrees
    assert "too narrow" in checks[0.8].worsening(checks[1.0])
    assert "too wide" in checks[1.25].worsening(checks[1.0])
    assert not checks[1.0].worsening(checks[0.8]) and not checks[1.0].worsening(checks[1.0])
    assert "off in shape" in checks[1.0]._replace(ksd=1.0).worsening(checks[1.0])


@pytest.mark.parametrize("patience", [None, 3])
def test_a_sampler_that_training_made_worse_is_not_returned_in_silence(patience):
    """A score network that does not learn leaves the pull of the target alone: draws collapse onto its maximum."""
    settings = QUICK | {"learning_rate": 0.02, "score_rate": 1e-9, "base": "gaussian", "particles": 1024}
    sampler = ImplicitSampler(**settings, patience=patience).train(make_target("gaussian"), generator=0)
    found, width = sampler.diagnostics, sampler.sample(4000, 1).std(0) / sampler.root.square().sum(1).sqrt()
    if patience is None:
        assert found["returned_step"] == QUICK["steps"] and (width < 0.7).all()
        assert "too narrow" in found["warnings"][0]
    else:
        assert found["returned_step"] == 0 and (width > 0.9).all()
        assert "before training, which is what is returned" in found["warnings"][0]


def test_pilot_finds_place_width_and_normaliser(generator):
    target = make_target("gaussian")
    runs = [tempered_smc(target, 1000, generator=generator) for _ in range(12)]
    means = torch.stack([r.x.double().mean(0) for r in runs])
    error = means.std(0) / 12**0.5
    assert ((means.mean(0) - target.means[0]).abs() < 4.5 * error).all()
    z = torch.tensor([r.log_normalizer for r in runs]).exp()  # unbiased for the integral itself, 1
    assert abs(z.mean() - 1) < 4.5 * z.std() / 12**0.5


def test_pilot_finds_the_eight_modes_in_proportion(generator):
    target = make_target("mog8w")
    x = tempered_smc(target, 2048, generator=generator).x.double()
    share = torch.bincount(torch.cdist(x, target.modes).argmin(1), minlength=8).double() / len(x)
    assert (share - target.mode_weights).abs().sum() / 2 < 0.15  # resampling noise of one run, correlated particles
    assert (share > 0.01).all()


def test_settings_and_arguments_are_checked(generator):
    for wrong, text in [
        ({"objective": "wasserstein"}, "objective"),
        ({"steps": 0}, "steps"),
        ({"sigma_end": 0.0}, "sigma"),
        ({"sigma_start": 0.01}, "sigma"),
        ({"temper": 2.0}, "temper"),
        ({"kl_share": 1.0}, "kl_share"),
        ({"base": "uniform"}, "base"),
        ({"patience": 0}, "patience"),
    ]:
        with pytest.raises(ValueError, match=text):
            ImplicitSampler(**wrong)
    with pytest.raises(ValueError, match="start must have shape"):
        ImplicitSampler(**QUICK).train(make_target("gaussian"), start=torch.zeros(10, 3))
    with pytest.raises(ValueError, match="at least 32"):
        ImplicitSampler(**QUICK).train(make_target("gaussian"), start=torch.zeros(10, 2))
    with pytest.raises(ValueError, match="checkpoint"):
        ImplicitSampler(**QUICK).train(make_target("gaussian"), resume=True)
    positive = FunctionTarget(lambda x: -x.sum(1), 2, support=constraints.positive)
    with pytest.raises(ValueError, match="does not fall"):
        ImplicitSampler(**QUICK).train(FunctionTarget(lambda x: -x.sum(1), 2))
    assert ImplicitSampler(**QUICK).train(positive, generator=0).dim == 2


def test_files_that_are_not_samplers_are_refused(tmp_path):
    with pytest.raises(SolverError, match="no card"):
        Sampler.load(tmp_path)
    sampler = ImplicitSampler(**QUICK).train(make_target("gaussian"), generator=0)
    sampler.save(tmp_path / "s")
    weights = tmp_path / "s" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(SolverError, match="not the ones the card describes"):
        Sampler.load(tmp_path / "s")


@pytest.mark.slow
def test_the_gaussian_reaches_the_floor(generator):
    target = make_target("gaussian")
    sampler = ImplicitSampler().train(target, generator=0)
    a, b = target.sample(5000, generator), target.sample(5000, generator)
    distance = sliced_w2(sampler.sample(5000, generator).double(), a, generator=torch.Generator().manual_seed(0))
    assert distance < 2 * sliced_w2(b, a, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["kl", "diffused_kl"])
def test_eight_modes_keep_their_masses(objective, generator):
    target = make_target("mog8")
    x = ImplicitSampler(objective=objective).train(target, generator=0).sample(10_000, generator).double()
    share = torch.bincount(torch.cdist(x, target.modes).argmin(1), minlength=8).double() / len(x)
    assert (share > 0.25 / 8).all()
    assert (share - 1 / 8).abs().sum() / 2 < 0.1


def test_refined_draws_keep_the_law_and_mend_a_wrong_width(generator):
    """On the exact law the moves change nothing; draws twice too narrow come back to its covariance."""
    target = make_target("gaussian")
    root = target.roots[0]
    for factor in (1.0, 0.5):
        x = target.means[0] + factor * (target.sample(4000, generator) - target.means[0])
        y = refine(target, x, root, steps=30, generator=generator)
        white = torch.linalg.solve_triangular(root, (y - target.means[0]).T, upper=False)
        assert (torch.cov(white) - torch.eye(2)).abs().max() < 4.5 * (2 / 4000) ** 0.5
        assert not torch.equal(x, y)


def test_denoising_fisher_at_constant_noise_stays_finite():
    """From a good start, without the KL before it."""
    settings = QUICK | {"steps": 150, "sigma_start": 0.1, "sigma_end": 0.1, "kl_share": 0.0}
    sampler = ImplicitSampler(objective="dft", **settings).train(make_target("gaussian"), generator=0)
    x = sampler.sample(2000, 1)
    assert x.isfinite().all() and x.abs().max() < 20
    assert sampler.diagnostics["skipped_steps"] == 0


def test_mode_weights_settle_where_a_mixture_covers_the_target(generator):
    """Particles with four fifths of a mode that weighs a half; in twenty dimensions they stay as they are."""
    far = GaussianMixture(torch.tensor([[3.0, 0.0], [-3.0, 0.0]], dtype=torch.float64), 0.25 * torch.eye(2))
    label = (torch.rand(2000, generator=generator) < 0.2).long()
    x = far.means[label] + 0.5 * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    settled, evaluations = settle(far, x, generator)
    share = float((settled[:, 0] > 0).double().mean())
    assert abs(share - 0.5) < 4.5 * 0.5 / (0.2 * 2000) ** 0.5  # at least a fifth of the draws is effective
    assert evaluations >= 2000
    wide = FunctionTarget(lambda x: -0.5 * x.square().sum(1), 20)
    x = torch.randn(300, 20, generator=generator)
    assert settle(wide, x, generator)[0] is x


def test_settled_particles_fill_the_tails_of_a_funnel(generator):
    """A cloud cut off at half the height of the wide funnel: mean and spread of the log-variance come back."""
    target = make_target("wide_funnel")
    x = target.sample(4000, generator)
    x = x[x[:, 1] < 7.0][:2000]  # one standard deviation above the mean
    settled, _ = settle(target, x, generator)
    v = settled[:, 1].double()
    # draws of one round share 2048 kernels and end in a cut tail: worth at least a tenth of their number
    assert abs(float(v.mean()) - 4) < 4.5 * 3 / (0.1 * len(v)) ** 0.5
    assert abs(float(v.std()) - 3) < 4.5 * 3 / (0.2 * len(v)) ** 0.5


def test_cut_weights_leave_ordinary_ones_alone():
    log_w = torch.zeros(100)
    assert torch.equal(cut_weights(log_w), log_w)
    log_w[3] = 20.0  # e^20 of a sum of e^20 + 99: the most is an average e^20 / 100 times 10
    assert float(cut_weights(log_w)[3]) == pytest.approx(20 - math.log(10), abs=1e-4)
    assert (cut_weights(torch.full((5,), -torch.inf)) == -torch.inf).all()


def test_kernels_that_follow_their_neighbours_have_the_density_they_claim(generator):
    """Importance weights of a normalised target average to one, whatever the widths."""
    centres, widths = torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64), torch.tensor([0.02, 1.0])
    covariances = widths.square()[:, None, None] * torch.eye(2)
    target = GaussianMixture(centres, covariances)
    bank = Bank(target.sample(500, generator), target.log_prob, generator)
    assert bank.widths.max() > 5 * bank.widths.min()
    w = bank.draw(20_000, generator)[1].exp()
    assert abs(float(w.mean()) - 1) < 4.5 * float(w.std()) / 20_000**0.5
