"""Matrix-free draws against dense algebra, the error law by brightness, and annealing where it is exact."""

import pytest
import torch

from sciinstruct.core import InverseProblem, Likelihood, SolverError, randn_like
from sciinstruct.core.operator import Operator
from sciinstruct.inference import ImageAnnealing
from sciinstruct.inference.error_law import ErrorLaw
from sciinstruct.inference.gaussian_draw import conjugate_gradients, gaussian_draw
from sciinstruct.inference.journal import Journal
from sciinstruct.inference.local_law import LocalLaw, local_laws, local_mean
from sciinstruct.operators import GaussianBlur, PixelMask
from sciinstruct.operators.intensity import IntensityMap
from sciinstruct.operators.microscopy.noise import PoissonGaussianNoise
from sciinstruct.priors import GaussianField, GaussianPrior, exact_posterior, power_law

F64 = torch.float64
SHAPE = (1, 8, 8)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def stationary_problem(instrument="mask"):
    """A field, half of its pixels or a blur of it."""
    field = GaussianField(power_law(SHAPE[1:], 3.0))
    blurred = instrument == "blur"
    operator = GaussianBlur(1.0, SHAPE) if blurred else PixelMask(torch.rand(SHAPE, generator=seeded(3)) > 0.5)
    clean = operator(field.sample(1, generator=seeded(4), dtype=F64))
    y = (clean + 0.3 * randn_like(clean, seeded(5)))[0]
    return field, InverseProblem(field, Likelihood(operator, 0.3, y))


def some_law(generator):
    power = torch.fft.rfft2(torch.randn(9, *SHAPE, generator=generator, dtype=F64), norm="ortho").abs().square()
    return ErrorLaw(0.5 + torch.rand(SHAPE, generator=generator, dtype=F64), power.mean(0))


def test_conjugate_gradients_solve(generator):
    root = torch.randn(3, 20, 20, generator=generator, dtype=F64)
    matrix = torch.eye(20, dtype=F64) + root @ root.mT
    right = torch.randn(3, 20, generator=generator, dtype=F64)
    found = conjugate_gradients(lambda w: (matrix @ w[..., None])[..., 0], right, 1e-12, 500)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right))


def test_draws_have_mean_and_covariance_of_the_dense_answer(generator):
    """N(x; m, C) times a Gaussian likelihood: both moments within sampling error of dense algebra."""
    _, problem = stationary_problem()
    law, m, n = some_law(generator), torch.randn(SHAPE, generator=generator, dtype=F64), 20000
    prior_covariance = law.apply(torch.eye(64, dtype=F64))
    a = problem.likelihood.operator.to_dense()
    covariance = torch.linalg.inv(torch.linalg.inv(prior_covariance) + a.T @ a / 0.09)
    pull = a.T @ (problem.likelihood.y[0] - a @ m.flatten()) / 0.09
    exact = m.flatten() + covariance @ pull
    draws = gaussian_draw(problem, m.expand(n, *SHAPE), law, generator, tolerance=1e-10).flatten(1)
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - exact) / sd).abs().max() < 5 / n**0.5
    error = (draws.T.cov() - covariance).abs() / (sd[:, None] * sd)
    assert error.max() < 6 * (2 / n) ** 0.5


def test_camera_noise_is_expanded_around_the_mean(generator):
    """The mean of the draws is one Fisher-scoring step from m, computed densely."""
    image = torch.rand(SHAPE, generator=generator, dtype=F64)
    operator = GaussianBlur(1.0, SHAPE) @ IntensityMap(20.0, 3.0, SHAPE)
    noise = PoissonGaussianNoise(1.6)
    y = noise.sample(operator(image[None]), generator)
    prior = GaussianPrior(torch.zeros(SHAPE, dtype=F64), torch.eye(64, dtype=F64))
    problem, law = InverseProblem(prior, Likelihood(operator, noise, y)), some_law(generator)
    a, m, n = 20 * GaussianBlur(1.0, SHAPE).to_dense(), torch.rand(SHAPE, generator=generator, dtype=F64), 20000
    rate = (a @ m.flatten() + 3).requires_grad_()
    (slope,) = torch.autograd.grad(noise.log_prob(y.flatten()[None], rate[None]).sum(), rate)
    fisher = a.T @ (a / (rate.detach()[:, None] + 1.6**2))
    covariance = torch.linalg.inv(torch.linalg.inv(law.apply(torch.eye(64, dtype=F64))) + fisher)
    exact = m.flatten() + covariance @ (a.T @ slope)
    draws = gaussian_draw(problem, m.expand(n, *SHAPE), law, generator, tolerance=1e-10).flatten(1)
    sd = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - exact) / sd).abs().max() < 5 / n**0.5
    assert (draws.std(0) / sd - 1).abs().max() < 5 / (2 * n) ** 0.5


def test_law_by_brightness_is_recovered(generator):
    """Errors whose deviation is a known function of the denoised image, and the correlation given to them."""
    denoised = 2 * torch.rand(300, 1, 16, 16, generator=generator, dtype=F64)
    wanted = 0.2 + 0.5 * local_mean(denoised)

    class Known(GaussianField):
        def denoise(self, x, sigma):
            return denoised[: len(x)]

    spectrum = power_law((16, 16), 2.0)
    errors = wanted * GaussianField(spectrum / spectrum.mean()).sample(300, generator=generator, dtype=F64)
    (law,) = local_laws(Known(spectrum), denoised + errors, [1.0], generator, batch=300)
    found = law.at(denoised)
    inner = (local_mean(denoised) > 0.6) & (local_mean(denoised) < 1.4)  # between the outermost bins
    assert (found.scale / wanted - 1).abs()[inner].mean() < 0.03
    exact = (spectrum / spectrum.mean())[:, :9]
    assert ((found.power.squeeze() / exact - 1).abs() < 8 * (2 / 300) ** 0.5).all()


def test_law_of_a_larger_image_has_the_same_correlations():
    covariance = torch.exp(-torch.fft.fftfreq(16, 1 / 16, dtype=F64).square() / 8)
    law = LocalLaw(torch.tensor([0.0, 1.0]).double(), torch.ones(2, dtype=F64), covariance[:, None] * covariance)
    small, large = law.at(torch.zeros(1, 1, 16, 16, dtype=F64)), law.at(torch.zeros(1, 1, 40, 24, dtype=F64))
    kernel = torch.fft.irfft2(large.power, s=(40, 24))
    wanted = torch.fft.irfft2(small.power, s=(16, 16))
    torch.testing.assert_close(kernel[:8, :8], wanted[:8, :8], atol=2e-3, rtol=0)  # the floor on the power
    with pytest.raises(ValueError, match="at least 16"):
        law.at(torch.zeros(1, 1, 8, 16, dtype=F64))


@pytest.mark.parametrize("instrument", ["mask", "blur"])
def test_annealing_is_exact_for_a_stationary_field(instrument):
    """Mean within 0.1 posterior sds and spread within 7 % of Matheron's exact draws, besides sampling error."""
    field, problem = stationary_problem(instrument)
    n = 400
    solver = ImageAnnealing(levels=36, top=12.0, batch=n, calibration=1000)
    posterior = solver.run(problem, n, generator=seeded(6), dtype=F64)
    exact = exact_posterior(field, problem.likelihood).sample(20000, generator=seeded(7))
    sd = exact.std(0)
    assert (((posterior.mean - exact.mean(0)) / sd).square().mean().sqrt()) < 0.1 + 2 / n**0.5
    assert ((posterior.std / sd).mean() - 1).abs() < 0.07
    assert posterior.attributes["network_calls"] == 36 * n


def test_an_interrupted_run_goes_on_to_the_same_images(tmp_path, monkeypatch):
    _, problem = stationary_problem()
    solver, path = ImageAnnealing(levels=4, batch=4, calibration=16), tmp_path / "state"
    whole = solver.run(problem, 10, generator=seeded(1)).samples
    keep = Journal.keep

    def once(self, done):
        keep(self, done)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "keep", once)
        with pytest.raises(KeyboardInterrupt):
            solver.run(problem, 10, generator=seeded(1), checkpoint=path)
    resumed = solver.run(problem, 10, generator=seeded(1), checkpoint=path, resume=True).samples
    assert torch.equal(resumed, whole)


class _Overflowing(Operator):
    """Predictions that leave the range of numbers."""

    domain_shape = range_shape = SHAPE

    def apply(self, x):
        return x * torch.inf


def test_what_cannot_be_solved_is_one_clear_error():
    field, problem = stationary_problem()
    broken = InverseProblem(field, Likelihood(_Overflowing(), 1.0, torch.zeros(SHAPE, dtype=F64)))
    with pytest.raises(SolverError, match="slope is not finite"):
        ImageAnnealing(levels=2, calibration=8).run(broken, 2, generator=seeded(1))
    for wrong in ({"levels": 1}, {"top": 0.01}, {"tolerance": 2.0}, {"batch": 0}):
        with pytest.raises(ValueError, match="expected"):
            ImageAnnealing(**wrong)
