"""Exact problems at several sizes: answers against textbook algebra, and truths against their posteriors."""

import pytest
import torch

from sciinstruct.operators.downsample import Downsample
from sciinstruct.priors.problems import (
    INSTRUMENTS,
    PROBLEMS,
    bump_fields,
    fields_16,
    gaussian_problem,
    make_problem,
    mixture_problem,
    mode_labels,
    mode_shares,
)
from sciinstruct.priors.problems.fields import instrument


def test_every_problem_has_a_name():
    sizes = {"16x16", "32x32", "64x64"}
    assert {f"{size} {kind}" for size in sizes for kind in INSTRUMENTS} <= set(PROBLEMS)
    assert {f"{size} Gaussian {kind}" for size in sizes - {"16x16"} for kind in INSTRUMENTS} <= set(PROBLEMS)
    assert {"2-D mixture", "phase retrieval", "closure phases"} <= set(PROBLEMS)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_the_truth_fits_the_data_and_draws_have_the_answers_moments(name):
    exact = make_problem(name, 3)
    chi2 = exact.problem.likelihood.chi2(exact.truth)["data"]
    m = exact.problem.likelihood.residuals(exact.truth).shape[1]
    assert abs(float(chi2) - 1) < 4.5 * (2 / m) ** 0.5
    n = 400
    draws = exact.posterior.sample(n, generator=torch.Generator().manual_seed(1))
    assert draws.shape == (n, *exact.problem.prior.event_shape) and draws.dtype == torch.float64
    standard = (draws.mean(0) - exact.posterior.mean).flatten() / (draws.std(0).flatten() / n**0.5)
    assert standard.abs().max() < 6  # of at most 4096 correlated pixels, skewed by the modes
    shares = mode_shares(exact, draws)
    error = (exact.posterior.weights * (1 - exact.posterior.weights) / n).sqrt()
    assert ((shares - exact.posterior.weights).abs() < 4 * error + 0.05).all()  # components overlap a little


@pytest.mark.parametrize("name", ["64x64 visibilities", "64x64 downsampling"])
def test_large_posteriors_against_textbook_algebra(name):
    """Weights and means from covariances in data space, formed by products with unit data."""
    exact = make_problem(name, 1)
    prior, likelihood = exact.problem.prior, exact.problem.likelihood
    operator, y = likelihood.operator, likelihood.y
    eye = torch.eye(y[0].numel(), dtype=torch.float64).reshape(-1, *operator.range_shape)
    rows = operator.adjoint(eye)
    if y.is_complex():
        rows = torch.cat([rows, operator.adjoint(1j * eye)])

    def real(value):
        flat = value.flatten(1)
        return torch.cat([flat.real, flat.imag], 1) if flat.is_complex() else flat

    spread = real(operator(prior.covariance_product(rows, 0)))
    noise = float(likelihood.noise.sigma)
    data_covariance = 0.5 * (spread + spread.T) + noise**2 * torch.eye(len(spread), dtype=torch.float64)
    residuals = real(y) - real(operator(prior.means))
    law = torch.distributions.MultivariateNormal(torch.zeros(len(spread), dtype=torch.float64), data_covariance)
    weights = (prior.log_weights + law.log_prob(residuals)).softmax(0)
    torch.testing.assert_close(exact.posterior.weights, weights, rtol=1e-6, atol=1e-9)
    solved = torch.linalg.solve(data_covariance, residuals.T).T
    means = prior.means + prior.covariance_product(torch.einsum("km,mchw->kchw", solved, rows), 0)
    torch.testing.assert_close(exact.posterior.means, means, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["downsampling", "sim"])
def test_true_classes_come_as_often_as_their_posterior_weights_say(kind):
    """Over truths of the prior the class is drawn from its posterior: counts minus weights have zero mean."""
    n = 60
    made = [fields_16(kind, seed) for seed in range(n)]
    truth = torch.stack([torch.nn.functional.one_hot(mode_labels(e, e.truth)[0], 4).double() for e in made])
    weights = torch.stack([e.posterior.weights for e in made])
    error = (weights * (1 - weights)).sum(0).sqrt()
    assert ((truth - weights).sum(0).abs() < 4 * error + 1).all()


def test_a_finer_scene_is_the_same_scene():
    """Bumps averaged over 2x2 and 4x4 pixels are those of 16 pixels, up to their curvature within a pixel."""
    coarse = bump_fields(16)
    for factor in (2, 4):
        averaged = Downsample(factor, (16 * factor,) * 2)(bump_fields(16 * factor).means)
        assert (averaged - coarse.means).abs().max() < 2 / 12 / 1.5**2 + 0.01  # amplitude h^2/12 (1/s^2 + 1/s^2) / 2


def test_one_mode_of_a_gaussian():
    exact = gaussian_problem("mask", 32, 0)
    assert exact.posterior.weights.tolist() == [1.0]
    assert (mode_labels(exact, exact.posterior.sample(5)) == 0).all()


def test_the_camera_shows_all_that_the_optics_pass():
    """Frames of 8x8 pixels at every side; half a cycle per camera pixel is above the cut-off."""
    for side, frames in ((16, 3), (32, 9), (64, 9)):
        operator, _ = instrument("sim", side, torch.Generator())
        assert operator.range_shape == (frames, 8, 8)
        assert 0.5 / operator.camera.factor > 3 / side


def test_bad_input():
    with pytest.raises(ValueError, match="no problem named 'fog'; there are: 2-D mixture"):
        make_problem("fog")
    with pytest.raises(ValueError, match="side must be a multiple of 16"):
        mixture_problem("blur", 24, 0)
    with pytest.raises(ValueError, match="kind must be one of"):
        gaussian_problem("fog", 32, 0)
