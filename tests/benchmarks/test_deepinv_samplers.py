"""deepinv's samplers see our problems unchanged: units, adjoint, and a limit in which one of them is exact."""

import pytest
import torch

from sciinstruct.priors.gaussian import GaussianPrior
from sciinstruct.priors.problems import MatrixOperator, make_problem
from sciinstruct.priors.problems.base import linear_problem

pytest.importorskip("deepinv", reason="deepinv, an extra of the benchmarks, is not installed", exc_type=ImportError)
peers = pytest.importorskip("benchmarks.peers.deepinv_samplers")


@pytest.mark.parametrize("name", ["2-D mixture", "16x16 blur", "16x16 visibilities", "phase retrieval"])
def test_units(name, generator):
    """Same denoiser, same chi-square, an adjoint, unit norm."""
    exact = make_problem(name, 0)
    scene = peers._Scene(exact.problem, torch.Generator().manual_seed(1))
    z = scene.to_unit(exact.truth)
    assert 0 < float(z.min()) and float(z.max()) < 1
    torch.testing.assert_close(scene.from_unit(z), exact.truth, rtol=0, atol=1e-12)
    noisy = exact.truth + 0.3
    expected = scene.to_unit(exact.problem.prior.denoise(noisy, 0.5))
    torch.testing.assert_close(scene.denoiser(scene.to_unit(noisy), 0.5 / scene.width), expected, rtol=0, atol=1e-10)
    chi2 = ((scene.data - scene.forward(z)) / scene.noise).square().mean()
    assert float(chi2) == pytest.approx(float(exact.problem.likelihood.chi2(exact.truth)["data"]), rel=1e-9)
    if scene.linear:
        x = torch.randn(1, *scene.image, generator=generator, dtype=torch.float64)
        y = torch.randn(scene.data.shape, generator=generator, dtype=torch.float64)
        assert float((scene.forward(x) * y).sum()) == pytest.approx(float((x * scene.adjoint(y)).sum()), rel=1e-9)


def test_decomposition_is_the_operator(generator):
    scene = peers._Scene(make_problem("16x16 downsampling", 0).problem, torch.Generator().manual_seed(1))
    physics = scene.decomposed(torch.float64)
    x = torch.randn(2, *scene.image, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(physics.A(x), scene.forward(x), rtol=0, atol=1e-9)
    assert float(physics.mask.max()) == pytest.approx(1, abs=1e-6)


def test_moment_matching_reaches_the_exact_gaussian():
    """Bias of 1000 steps below 0.05 posterior sd in the mean, below 8 % in the sd, beside standard errors."""
    covariance = torch.tensor([[1.0, 0.5], [0.5, 0.8]], dtype=torch.float64)
    prior = GaussianPrior(torch.tensor([0.4, -0.2], dtype=torch.float64), covariance)
    operator = MatrixOperator(torch.tensor([[0.6, 0.8]]))
    exact = linear_problem(prior, operator, 0.5, torch.Generator().manual_seed(3), "Gaussian")
    n = 4000
    solver = peers.Guided("MomentMatching", steps=1000)
    x = solver.run(exact.problem, n, generator=1, dtype=torch.float64).samples
    law = exact.posterior
    assert ((x.mean(0) - law.mean).abs() / law.std < 4 / n**0.5 + 0.05).all()
    assert ((x.std(0) / law.std - 1).abs() < 4 / (2 * n) ** 0.5 + 0.08).all()
