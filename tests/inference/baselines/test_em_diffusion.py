"""Expectation maximisation with diffusion posteriors: exact for Gaussian laws, lap by lap."""

import pytest
import torch

from sciinstruct.core import GaussianNoise, Operator, PriorError
from sciinstruct.diffusion import default_solver
from sciinstruct.inference.baselines.coordinates import coordinates
from sciinstruct.inference.baselines.em_diffusion import EMDiffusion
from sciinstruct.inference.baselines.moment_matching import MomentMatching, posterior_draws
from sciinstruct.inference.blur_simulator import BlurSimulator
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.simulator import MaskSimulator, OperatorSimulator
from sciinstruct.operators import GaussianBlur, ImageMask
from sciinstruct.priors import GaussianPrior
from sciinstruct.priors.problems.base import MatrixOperator

F64 = torch.float64
SHAPE = (1, 4, 4)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def half_masks(n, generator):
    return torch.rand(n, *SHAPE, generator=generator, dtype=F64) < 0.5


LAWS = {
    "noise": OperatorSimulator(ImageMask(torch.ones(SHAPE, dtype=torch.bool)), GaussianNoise(0.2)),
    "blur": OperatorSimulator(GaussianBlur(1.0, SHAPE[1:]), GaussianNoise(0.05)),
    "fixed mask": OperatorSimulator(ImageMask(torch.arange(16).reshape(SHAPE) > 5), GaussianNoise(0.1)),
    "masks": MaskSimulator(SHAPE, 0.1, half_masks),
}


def gaussian(d, shape, g, scale=1.0):
    root = torch.randn(d, d, generator=g, dtype=F64) / d**0.5
    covariance = 0.25 * (root @ root.T + 0.1 * torch.eye(d, dtype=F64))
    prior = GaussianPrior(0.3 * torch.randn(shape, generator=g, dtype=F64), covariance, sigma_range=(0.01, 20.0))
    prior.scale, prior.shift = scale, 0.2
    return prior, covariance


def information(law, prior, y):
    """A^T V^-1 A of one measurement y (1, *range_shape), in the prior's units, one unit event at a time."""
    eye = torch.eye(16, dtype=F64).reshape(16, *SHAPE)
    offset = law.predict(prior.to_physical(torch.zeros(1, *SHAPE, dtype=F64)), y)
    rows = (law.predict(prior.to_physical(eye), y.expand(16, *y.shape[1:])) - offset).flatten(1)
    precision = law.precision(y, offset).expand_as(offset).flatten()
    return rows @ (precision[:, None] * rows.T), rows @ (precision * (law.observed(y) - offset).flatten())


@pytest.mark.parametrize("name", list(LAWS))
@pytest.mark.parametrize("solves", [0, 30])
def test_the_posterior_denoiser_is_exact_for_gaussian_events(name, solves):
    """Solve of (C^-1 + s^-2 + A^T V^-1 A) by dense algebra; with the Jacobian, whatever covariance preconditions."""
    law, g = LAWS[name], seeded(1)
    prior, covariance = gaussian(16, SHAPE, g, scale=0.7)
    y = law.simulate(prior.to_physical(prior.sample(3, generator=g, dtype=F64)), g)
    instrument = Instrument(prior, law, torch.zeros(SHAPE, dtype=F64), y)
    data = coordinates(instrument, y)
    guess = covariance if solves == 0 else covariance.diagonal().mean() * torch.eye(16, dtype=F64)
    matching = MomentMatching(data, guess, solves)
    inverse = torch.linalg.inv(covariance)
    for sigma in (0.05, 0.6):
        x = torch.randn(3, *SHAPE, generator=g, dtype=F64)
        found = matching.denoise(prior, x, sigma)
        for i in range(3):
            seen, pulled = information(law, prior, y[i : i + 1])
            right = inverse @ prior.means.flatten() + x[i].flatten() / sigma**2 + pulled
            exact = torch.linalg.solve(inverse + torch.eye(16, dtype=F64) / sigma**2 + seen, right)
            torch.testing.assert_close(found[i].flatten(), exact, rtol=0, atol=1e-6 if solves else 1e-8)


def plane(n=4000):
    """A matrix, noise, and data of a correlated Gaussian."""
    matrix = torch.tensor([[1.0, 0.4], [0.0, 0.5]], dtype=F64)
    law = OperatorSimulator(MatrixOperator(matrix), GaussianNoise(0.25))
    mean, covariance = torch.tensor([0.4, -0.2], dtype=F64), torch.tensor([[0.4, 0.2], [0.2, 0.3]], dtype=F64)
    x = mean + torch.randn(n, 2, generator=seeded(5), dtype=F64) @ torch.linalg.cholesky(covariance).T
    return matrix, law, law.simulate(x, seeded(6))


def closed_lap(matrix, y, mean, covariance):
    """One round of expectation maximisation on the data's moments, in closed form."""
    gain = torch.linalg.solve(matrix @ covariance @ matrix.T + 0.0625 * torch.eye(2, dtype=F64), matrix @ covariance).T
    means = mean + (y - mean @ matrix.T) @ gain.T
    return means.mean(0), covariance - gain @ matrix @ covariance + torch.cov(means.T)


def test_laps_of_draws_follow_closed_expectation_maximisation_to_its_fixpoint():
    """Moments of exact draws, lap by lap beside the closed form, from a start that is wrong in mean and spread.

    Draws scatter: 4000 leave a relative error of 2.2 % (one standard error of a variance), and 1 % is the sampler's.
    """
    matrix, law, y = plane()
    mean, covariance = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    solver, g = default_solver((0.01, 20.0), 40), seeded(7)
    own = (mean, covariance)
    before = closed_lap(matrix, y, mean, covariance)
    for _ in range(6):
        prior = GaussianPrior(own[0], own[1], sigma_range=(0.01, 20.0))
        data = coordinates(Instrument(prior, law, torch.zeros(2, dtype=F64), y), y)
        x = posterior_draws(prior, data, own[1], 0, solver, g)
        mean, covariance = closed_lap(matrix, y, *own)
        own = (x.mean(0), torch.cov(x.T))
        spread = covariance.diagonal().sqrt()
        assert ((own[0] - mean).abs() < 4 * spread / len(y) ** 0.5).all()
        assert ((own[1] - covariance).abs() / torch.outer(spread, spread) < 4 * (2 / len(y)) ** 0.5 + 0.01).all()
    for _ in range(2000):
        mean, covariance = closed_lap(matrix, y, mean, covariance)
    assert (own[1] - covariance).norm() < 0.5 * (before[1] - covariance).norm()
    assert (own[0] - mean).norm() < 0.5 * (before[0] - mean).norm()


def ramps(n=32, side=8):
    return torch.randn(n, 1, 1, 1, generator=seeded(8)) + torch.linspace(0, 1, side).expand(n, 1, side, side)


def test_training_is_repeatable_and_gives_a_prior_and_posteriors():
    law = MaskSimulator((1, 8, 8), 0.1, lambda n, g: torch.rand(n, 1, 8, 8, generator=g) < 0.5)
    y, laps = law.simulate(ramps(), seeded(1)), []
    settings = EMDiffusion(laps=2, steps=4, batch=8, calls=6)
    found = settings.train(y, law, generator=3, callback=lambda lap, info: laps.append(info))
    again = settings.train(y, law, generator=3)
    assert found.curves == again.curves and len(found.curves["denoising"]) == 4 and len(laps) == 2
    assert 0.5 < laps[0]["chi2"] < 2  # draws of the closed start explain the data
    draws = found.sample(y[:2], 3, generator=4)
    assert draws.shape == (2, 3, 1, 8, 8) and draws.isfinite().all()
    assert found.draws.shape == (32, 1, 8, 8) and found.prior.event_shape == (1, 8, 8)


class Square(Operator):
    """Not affine."""

    domain_shape = range_shape = (2,)

    def apply(self, x):
        return x**2


@pytest.mark.parametrize(
    ("law", "said"),
    [
        (OperatorSimulator(Square(), GaussianNoise(0.1)), "give guess"),
        (BlurSimulator((1, 8, 8), (0.5, 1.0), (0.05, 0.1)), "mixes the event's numbers"),
    ],
)
def test_instruments_it_does_not_apply_to_are_refused(law, said):
    x = ramps() + torch.randn(32, 1, 8, 8, generator=seeded(2))
    y = law.simulate(x if len(law.domain_shape) == 3 else x.flatten(1)[:, :2], seeded())
    with pytest.raises(PriorError, match=said):
        EMDiffusion(laps=1, steps=2, batch=4).train(y, law, generator=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"laps": 0}, "laps must be at least 1"),
        ({"laps": 5, "steps": 4}, "steps must be at least 5"),
        ({"calls": 1}, "calls must be at least 4"),
        ({"solves": -1}, "solves must be at least 0"),
        ({"ema": 1.0}, "ema must lie"),
        ({"rate": 0.0}, "rate and clip"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        EMDiffusion(**wrong)
