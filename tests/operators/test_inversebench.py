"""InverseBench's scoring rules against their definitions."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry.closure_terms import ClosurePhaseTerm, LogClosureAmplitudeTerm
from sciinstruct.operators.interferometry.inversebench import inversebench_metrics
from sciinstruct.operators.interferometry.simulation import plan_benchmark9
from sciinstruct.operators.interferometry.sources import MRing
from sciinstruct.operators.interferometry.visibility import VisibilityOperator

FOV, NPIX = 158.0, 32


@pytest.fixture(scope="module")
def sky():
    return MRing(2.0, 50.0, 15.0, beta=(0.2,)).render(NPIX, FOV, 2).double().reshape(1, 1, NPIX, NPIX)


@pytest.fixture(scope="module")
def obs(sky):
    plan = plan_benchmark9(0.2)
    generator = torch.Generator().manual_seed(3)
    noise = torch.view_as_complex(torch.randn(len(plan), 2, generator=generator, dtype=torch.float64))
    vis = VisibilityOperator(plan.u, plan.v, NPIX, FOV)(sky)[0]
    return plan.evolve("simulated", vis=vis + plan.sigma * noise)


def test_chi_squares_follow_the_definitions(obs, sky, generator):
    images = sky * (0.5 + torch.rand(3, 1, NPIX, NPIX, generator=generator, dtype=torch.float64))
    scores = inversebench_metrics(obs, images, FOV)
    vis = VisibilityOperator(obs.u, obs.v, NPIX, FOV)(images)
    variance = (obs.sigma / obs.vis.abs()).square()
    phases = ClosurePhaseTerm(obs, "diag", uv_min=0.0).closures
    error = phases.combine(vis.angle() - obs.vis.angle())
    weight = 1 / phases.covariance(variance).diagonal(dim1=1, dim2=2)
    expected = torch.stack([2 * ((1 - torch.cos(e)) * weight)[phases.valid].mean() for e in error])
    torch.testing.assert_close(scores.chi2_cp_each, expected)
    best = min(max(float(c), 1 / float(c)) for c in expected)
    assert scores.chi2_cp == pytest.approx(best)
    amplitudes = LogClosureAmplitudeTerm(obs, "diag").closures
    assert scores.chi2_logca_each.shape == (3,) and amplitudes.n > 0


def test_flux_does_not_matter(obs, sky):
    one, other = inversebench_metrics(obs, sky, FOV), inversebench_metrics(obs, 0.01 * sky, FOV)
    torch.testing.assert_close(one.chi2_cp_each, other.chi2_cp_each)
    torch.testing.assert_close(one.chi2_logca_each, other.chi2_logca_each)


def test_psnr_is_that_of_the_best_shift(obs, sky, generator):
    image = (sky + 0.1 * sky.max() * torch.rand(sky.shape, generator=generator, dtype=torch.float64)).roll(
        (3, -5), (2, 3)
    )
    psnr = inversebench_metrics(obs, image, FOV, truth=sky).psnr
    a, b = image / image.max(), sky / sky.max()
    errors = [(a.roll((i, j), (2, 3)) - b).square().mean() for i in range(NPIX) for j in range(NPIX)]
    assert float(psnr[0.0]) == pytest.approx(-10 * math.log10(min(errors)), rel=1e-9)
    assert list(psnr) == [0.0, 10.0, 15.0, 20.0]
    assert all(p > 100 for p in inversebench_metrics(obs, 2 * sky.roll((1, -2), (2, 3)), FOV, truth=sky).psnr.values())


def test_wrong_shapes_are_refused(obs):
    with pytest.raises(ValueError, match="images must have shape"):
        inversebench_metrics(obs, torch.ones(2, 3, 8, 8), FOV)
