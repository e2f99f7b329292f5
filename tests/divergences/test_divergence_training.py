"""Divergences as training objects: who receives gradients, what is refused, what is reported."""

import math

import pytest
import torch
from torch import nn

from sciinstruct.divergences import (
    Divergence,
    Karras,
    LogUniform,
    summarise,
)
from sciinstruct.priors import GaussianMixture, GaussianPrior

F64 = torch.float64


def _rng(seed=0):
    return torch.Generator().manual_seed(seed)


TARGET = GaussianPrior(torch.tensor([0.3, -0.2], dtype=F64), torch.tensor([[0.6, 0.15], [0.15, 0.4]], dtype=F64))
MEAN = torch.tensor([0.5, 0.1], dtype=F64)
ROOT = torch.tensor([[1.1, 0.2], [-0.1, 0.9]], dtype=F64)  # wider than the target

T2_TARGET = GaussianMixture(
    torch.tensor([[-1.5, 0], [1.5, 0.5]], dtype=F64),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]]], dtype=F64),
)
T2_MEAN = torch.tensor([0.4, -0.3], dtype=F64)
T2_ROOT = torch.tensor([[0.9, 0.2], [0.3, 0.5]], dtype=F64)
T2_STUDENT = GaussianPrior(T2_MEAN, T2_ROOT @ T2_ROOT.T)


def _student():
    return GaussianPrior(MEAN, ROOT @ ROOT.T)


class Linear(nn.Module):
    """A small trainable denoiser, exact for N(0, v)."""

    def __init__(self, v=1.0):
        super().__init__()
        self.v = nn.Parameter(torch.tensor(v, dtype=F64))

    def forward(self, x, sigma):
        return self.v / (self.v + sigma[:, None] ** 2) * x


@pytest.mark.parametrize(
    "divergence",
    [
        Divergence(),
        Divergence("sim"),
        Divergence("sid"),
        Divergence("huber", c=0.3),
        Divergence("sim", distance="huber", c=0.3),
        Divergence("fgm"),
    ],
    ids=["exact", "sim", "sid", "huber", "sim huber", "fgm"],
)
def test_slope_is_the_finite_difference_of_the_frozen_integrand(divergence):
    x0 = torch.randn(5, 2, generator=_rng(), dtype=F64)
    noise = torch.randn(5, 2, generator=_rng(1), dtype=F64)
    levels = LogUniform().sample(5, 0.3, 3.0, generator=_rng(2), like=x0)
    loss = lambda x: divergence.evaluate(x, noise, levels, T2_TARGET.denoise, T2_STUDENT.denoise).loss
    leaf = x0.clone().requires_grad_()
    slope = torch.autograd.grad(loss(leaf).sum(), leaf)[0]
    step = 1e-5
    for j in range(2):
        e = step * torch.eye(2, dtype=F64)[j]
        difference = (loss(x0 + e) - loss(x0 - e)) / (2 * step)
        torch.testing.assert_close(slope[:, j], difference, rtol=1e-6, atol=1e-6)


def test_the_generator_alone_receives_gradients():
    teacher, student, generator = Linear(0.5), Linear(1.0), nn.Linear(3, 2, dtype=F64)
    for divergence in (Divergence(), Divergence(estimator="score"), Divergence("ikl"), Divergence("fgm")):
        x0 = generator(torch.randn(16, 3, generator=_rng(), dtype=F64))
        divergence.generator_loss(x0, teacher, student, 0.1, 10.0, generator=_rng()).loss.backward()
        assert teacher.v.grad is None and student.v.grad is None
        assert generator.weight.grad.abs().sum() > 0
        generator.zero_grad()


def test_the_student_alone_receives_the_students_loss_and_it_is_least_at_the_truth():
    x0 = (2**0.5 * torch.randn(40_000, 2, generator=_rng(), dtype=F64)).requires_grad_()
    slopes = []
    for v in (1.8, 2.0, 2.2):
        student = Linear(v)
        loss = Divergence().student_loss(x0, student, 0.1, 10.0, sigma_data=2**0.5, generator=_rng(1))
        loss.backward()
        slopes.append(float(student.v.grad))
    assert x0.grad is None and slopes[0] < -2 * abs(slopes[1]) and slopes[2] > 2 * abs(slopes[1])


def test_same_generator_same_loss_and_several_levels_per_image():
    x0 = torch.randn(6, 2, generator=_rng(), dtype=F64).requires_grad_()
    run = lambda n: Divergence().generator_loss(
        x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng(3), n=n
    )
    assert torch.equal(run(1).terms.loss, run(1).terms.loss)
    many = run(4)
    assert many.terms.loss.shape == (24,) and many.terms.delta.shape == (24, 2)
    rows = torch.autograd.grad(many.terms.loss[4:8].sum(), x0)[0]
    assert rows[1].abs().sum() > 0 and rows[[0, 2, 3, 4, 5]].abs().sum() == 0


def test_single_precision_is_kept():
    x0 = torch.randn(8, 2, generator=_rng()).requires_grad_()
    out = Divergence().generator_loss(x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng())
    assert {t.dtype for t in out.terms if t is not None} == {torch.float32}
    out.loss.backward()
    assert x0.grad.dtype == torch.float32


def test_images_without_a_graph_give_values():
    out = Divergence().generator_loss(
        torch.zeros(4, 2, dtype=F64), T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng()
    )
    assert not out.loss.requires_grad and torch.isfinite(out.loss)


def test_estimated_ratios_are_clamped_and_normalised():
    x0 = torch.randn(50, 2, generator=_rng(), dtype=F64).requires_grad_()
    wild = lambda x, s: 1e4 * x[:, 0]
    out = Divergence("f", f="js").generator_loss(
        x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 10.0, generator=_rng(), ratio=wild
    )
    out.loss.backward()
    assert torch.isfinite(x0.grad).all()
    assert summarise(out.terms).ratio_ess == pytest.approx(1 / 50)  # told as it is: one row has all the weight


def test_diagnostics_measure_the_kl_and_a_lagging_student():
    x0 = MEAN + torch.randn(20_000, 2, generator=_rng(), dtype=F64) @ ROOT.T
    kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(MEAN, ROOT @ ROOT.T),
        torch.distributions.MultivariateNormal(TARGET.mean, TARGET.covariance),
    )
    run = lambda student, seed: Divergence().generator_loss(
        x0, TARGET.denoise, student.denoise, 0.01, 50.0, generator=_rng(seed)
    )
    good = [run(_student(), seed).terms for seed in (1, 2)]
    pooled = summarise(good, bands=5)
    assert abs(pooled.kl - kl) < 4 * pooled.kl_error and not pooled.student_lags
    assert sum(b.n for b in pooled.bands) == 40_000
    assert sum(b.kl for b in pooled.bands) == pytest.approx(pooled.kl)
    assert all(abs(b.projection) < 4 * b.projection_error for b in pooled.bands)
    assert math.isnan(pooled.ratio_ess)
    late = GaussianPrior(MEAN, 1.3 * ROOT @ ROOT.T)
    assert summarise(run(late, 3).terms).student_lags


BAD = [
    (dict(kind="kl"), "kind must be one of"),
    (dict(alpha=0.7), "alpha belongs to kind 'sid'"),
    (dict(kind="sim", distance="l1"), "distance must be"),
    (dict(kind="sim", distance="huber"), "needs c > 0"),
    (dict(kind="huber", c=-1.0), "needs c > 0"),
    (dict(c=1.0), "c belongs to the pseudo-Huber"),
    (dict(kind="sid", distance="huber", c=1.0), "belongs to kind 'sim'"),
    (dict(kind="f"), "f must be one of"),
    (dict(kind="f", f="tv"), "f must be one of"),
    (dict(f="js"), "f belongs to kind 'f'"),
    (dict(kind="sim", estimator="score"), "estimator='score' is for"),
    (dict(estimator="both"), "estimator must be"),
    (dict(weight=torch.ones_like), "fixes its level weight"),
]


@pytest.mark.parametrize("settings, text", BAD)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        Divergence(**settings)


def test_bad_calls_are_named():
    x0 = torch.zeros(4, 2, dtype=F64, requires_grad=True)
    call = lambda d, **more: d.generator_loss(x0, T2_TARGET.denoise, T2_STUDENT.denoise, 0.1, 1.0, **more)
    with pytest.raises(ValueError, match="needs ratio"):
        call(Divergence("f", f="fkl"))
    with pytest.raises(ValueError, match="n must be at least 1"):
        call(Divergence(), n=0)
    with pytest.raises(ValueError, match="teacher must return images of shape"):
        Divergence().generator_loss(x0, lambda x, s: x[:2], T2_STUDENT.denoise, 0.1, 1.0)
    with pytest.raises(ValueError, match="at least one batch"):
        summarise([])


def test_only_the_exact_kl_preserves_bayes():
    others = [
        Divergence("sim"),
        Divergence("sid", alpha=0.5),
        Divergence("ikl"),
        Divergence("fgm"),
        Divergence("f", f="rkl"),
    ]
    assert Divergence().preserves_bayes and Divergence(levels=Karras()).preserves_bayes
    assert not any(d.preserves_bayes for d in others)
