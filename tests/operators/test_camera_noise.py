"""Laws of camera data: the page's divergences from the exact law, unbiased gradients, samples of the stated law."""

import math

import pytest
import torch

from sciinstruct.core import GaussianNoise, Likelihood, NoiseModel
from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.intensity import IntensityMap
from sciinstruct.operators.microscopy.noise import (
    ExactPoissonGaussian,
    MultipliedNoise,
    PoissonGaussianNoise,
    PoissonNoise,
    ShiftedPoissonNoise,
)

READ_LAWS = [PoissonGaussianNoise, MultipliedNoise, ShiftedPoissonNoise, ExactPoissonGaussian]


def log_density(noise, z, rate):
    """Of every z, at one rate."""
    z = z.reshape(-1, 1)
    return noise.log_prob(z, torch.full_like(z, rate))


def grid(rate, read):
    """Electrons that hold all of the law's mass, and their spacing."""
    width = 12 * math.sqrt(rate + read**2) + 10
    step = min(read, 0.5) / 30
    return torch.arange(-12 * read, rate + width, step, dtype=torch.float64), step


@pytest.mark.parametrize("rate, read", [(0.5, 0.5), (2.0, 0.5), (10.0, 0.5), (0.5, 1.6), (30.0, 1.6), (5.0, 6.0)])
def test_exact_and_gaussian_laws_are_normalised(rate, read):
    z, step = grid(rate, read)
    exact = log_density(ExactPoissonGaussian(read), z, rate).exp()
    assert float(exact.sum()) * step == pytest.approx(1, abs=1e-6)
    # the bend of the rate at 0.01 e- moves a mean of 0.5 by 2e-4
    assert float((exact * z).sum()) * step == pytest.approx(rate, abs=3e-4)
    for law in (PoissonGaussianNoise, MultipliedNoise):
        wide = torch.arange(rate - 80, rate + 80, 0.01, dtype=torch.float64)
        assert float(log_density(law(read), wide, rate).exp().sum()) * 0.01 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rate, read, expected", [(0.5, 0.5, 0.054), (2.0, 0.5, 0.032), (10.0, 0.5, 0.0075)])
def test_divergence_of_the_gaussian_law_from_the_exact_one(rate, read, expected):
    z, step = grid(rate, read)
    exact = log_density(ExactPoissonGaussian(read), z, rate)
    kl = float((exact.exp() * (exact - log_density(PoissonGaussianNoise(read), z, rate))).sum()) * step
    assert kl == pytest.approx(expected, rel=0.2)


def test_divergence_is_small_at_the_read_noise_of_cameras():
    """At most 0.0043 nat; the leading term is a twelfth of the squared skewness, lambda^2/(12 (lambda + r^2)^3)."""
    for rate, read in [(0.5, 1.6), (2.0, 1.6), (10.0, 1.6), (50.0, 1.6), (2.0, 6.0), (10.0, 6.0), (50.0, 6.0)]:
        z, step = grid(rate, read)
        exact = log_density(ExactPoissonGaussian(read), z, rate)
        kl = float((exact.exp() * (exact - log_density(PoissonGaussianNoise(read), z, rate))).sum()) * step
        assert 0 <= kl <= 1.2 * 0.0043
        if rate + read**2 > 10:  # where the series has converged
            assert kl == pytest.approx(rate**2 / 12 / (rate + read**2) ** 3, rel=0.2)


def flat_field_estimate(noise, z, start):
    """Most likely rate of all of z, by Newton steps on the mean gradient."""
    rate = torch.tensor(start, dtype=torch.float64)
    for _ in range(8):
        rate.requires_grad_()
        loss = -noise.log_prob(z[None], rate.expand(1, len(z))).sum() / len(z)
        (slope,) = torch.autograd.grad(loss, rate, create_graph=True)
        (bend,) = torch.autograd.grad(slope, rate)
        rate = (rate - slope / bend.abs()).detach().clamp(0.3 * start, 3 * start)
    return float(rate)


@pytest.mark.parametrize("rate, read", [(0.5, 1.6), (2.0, 1.6), (10.0, 1.6), (10.0, 0.5)])
def test_flat_field_estimates_are_those_of_the_exact_law(rate, read, generator):
    truth = torch.full((1, 10_000), rate, dtype=torch.float64)
    z = ExactPoissonGaussian(read).sample(truth, generator)[0]
    ours = flat_field_estimate(PoissonGaussianNoise(read), z, rate)
    exact = flat_field_estimate(ExactPoissonGaussian(read), z, rate)
    assert ours == pytest.approx(exact, rel=0.01)
    assert ours == pytest.approx(rate, abs=4 * math.sqrt((rate + read**2) / z.numel()))


@pytest.mark.parametrize("rate, expected", [(5.0, 0.095), (10.0, 0.041), (50.0, 0.0076)])
def test_divergence_of_the_multiplied_law_from_its_gamma_sum(rate, expected):
    """Sum over k of Poisson(k) Gamma(z; k), no electron left out (7e-3 at most); hardly any read noise."""
    z = torch.arange(0.005, rate + 30 + 15 * math.sqrt(2 * rate), 0.01, dtype=torch.float64)
    k = torch.arange(1, int(rate + 12 * math.sqrt(rate) + 12), dtype=torch.float64)
    photons = k * math.log(rate) - rate - torch.lgamma(k + 1)
    exact = (photons + (k - 1) * z[:, None].log() - z[:, None] - torch.lgamma(k)).logsumexp(1)
    kl = float((exact.exp() * (exact - log_density(MultipliedNoise(0.17), z, rate))).sum()) * 0.01
    assert float(exact.exp().sum()) * 0.01 == pytest.approx(1 - math.exp(-rate), abs=1e-3)
    assert kl == pytest.approx(expected, rel=0.2)


def test_shifted_poisson_pulls_faint_estimates_up_by_twelve_per_cent(generator):
    z = ExactPoissonGaussian(0.5).sample(torch.full((1, 200_000), 0.5, dtype=torch.float64), generator)[0]
    assert flat_field_estimate(ShiftedPoissonNoise(0.5), z, 0.5) == pytest.approx(0.56, abs=4 * math.sqrt(0.75 / 2e5))


@pytest.mark.parametrize("law", [PoissonGaussianNoise, MultipliedNoise, ExactPoissonGaussian, PoissonNoise])
@pytest.mark.parametrize("rate", [2.0, 10.0])
def test_gradient_at_the_truth_averages_to_zero(law, rate, generator):
    noise = PoissonNoise() if law is PoissonNoise else law(1.6)
    truth = torch.full((1, 20_000), rate, dtype=torch.float64)
    z = noise.sample(truth, generator)
    truth.requires_grad_()
    (slope,) = torch.autograd.grad(noise.log_prob(z, truth).sum(), truth)
    # the Poisson laws' bend of the rate at 0.01 e- is a bias below 1e-4
    assert abs(float(slope.mean())) < 4 * float(slope.std()) / math.sqrt(slope.numel()) + 1e-4


def test_without_the_logarithm_the_gradient_is_biased_up(generator):
    """What the docstring says of the law's second term."""
    noise, rate = PoissonGaussianNoise(1.6), torch.full((1, 20_000), 2.0, dtype=torch.float64)
    z = noise.sample(rate, generator)
    rate.requires_grad_()
    (slope,) = torch.autograd.grad(-0.5 * noise.whiten(z, rate).square().sum(), rate)
    expected = 0.5 / (2 + 1.6**2)
    assert float(slope.mean()) == pytest.approx(expected, abs=4 * float(slope.std()) / math.sqrt(slope.numel()))


@pytest.mark.parametrize("law", [*READ_LAWS, PoissonNoise])
def test_samples_have_the_stated_mean_and_variance(law, generator):
    noise = PoissonNoise() if law is PoissonNoise else law(torch.tensor([1.6, 0.5]))
    truth = torch.tensor([3.0, 20.0], dtype=torch.float64).expand(40_000, 2)
    z = noise.sample(truth, generator)
    variance = noise.variance(truth[:1])[0]
    n = len(z)
    assert torch.all((z.mean(0) - truth[0]).abs() < 4 * (variance / n).sqrt() + 1e-4)
    # standard error of a variance: sqrt((m4 - v^2)/n), the fourth moment from the draws
    spread = ((z - z.mean(0)).pow(4).mean(0) - variance.square()).sqrt() / math.sqrt(n)
    assert torch.all((z.var(0) - variance).abs() < 4 * spread + 1e-4)
    assert float(noise.whiten(z, truth).square().mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("law", READ_LAWS)
def test_negative_predictions_are_pulled_up(law):
    prediction = torch.tensor([[-3.0, -0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    value = law(1.6).log_prob(torch.ones_like(prediction), prediction)
    (slope,) = torch.autograd.grad(value.sum(), prediction)
    assert torch.isfinite(value).all() and torch.isfinite(slope).all() and (slope >= 0).all() and slope[0, 1] > 0


@pytest.mark.parametrize("law", READ_LAWS)
def test_a_map_gives_each_pixel_its_own_read_noise(law):
    reads = torch.tensor([[0.5, 1.6], [3.0, 6.0]], dtype=torch.float64)
    z, rate = torch.tensor([[[[1.0, 4.0], [2.0, 9.0]]]]).double(), torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64)
    alone = [
        law(float(r)).log_prob(z[..., i : i + 1, j : j + 1], rate[..., i : i + 1, j : j + 1])
        for i, row in enumerate(reads)
        for j, r in enumerate(row)
    ]
    torch.testing.assert_close(law(reads).log_prob(z, rate), sum(alone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("law", [*READ_LAWS, PoissonNoise])
def test_precision_follows_the_prediction(law, dtype, generator):
    noise = PoissonNoise() if law is PoissonNoise else law(1.6)
    prediction = torch.full((2, 1, 3, 3), 4.0, dtype=dtype)
    y = noise.sample(prediction, generator)
    assert {v.dtype for v in (y, noise.log_prob(y, prediction), noise.variance(prediction))} == {dtype}
    assert noise.whiten(y, prediction).shape == (2, 9) and noise.log_prob(y[:1], prediction).shape == (2,)


@pytest.mark.parametrize("read", [0.0, -1.0, float("nan"), float("inf")])
def test_read_noise_must_be_positive(read):
    with pytest.raises(ValueError, match="read must be positive"):
        PoissonGaussianNoise(read)


def test_bad_data_and_maps_are_refused():
    rate = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="read is a map"):
        PoissonGaussianNoise(torch.ones(3, 3)).log_prob(rate, rate)
    with pytest.raises(ValueError, match="counts of zero or more"):
        PoissonNoise().log_prob(-rate, rate)
    with pytest.raises(ValueError, match="use PoissonGaussianNoise"):
        ExactPoissonGaussian(1.0).log_prob(rate, 500 * rate)
    with pytest.raises(ValueError, match="y must be finite"):
        Likelihood(GaussianBlur(1.0, (4, 4)), PoissonGaussianNoise(1.0), rate * float("nan"))


def test_variance_of_gaussian_noise_and_of_noise_that_states_none():
    prediction = torch.zeros(3, 2, dtype=torch.complex64)
    variance = GaussianNoise(torch.tensor([2.0, 3.0])).variance(prediction)
    assert variance.tolist() == [[4, 9]] * 3 and variance.dtype == torch.float32

    class Other(NoiseModel):
        log_prob = sample = whiten = None

    with pytest.raises(NotImplementedError, match="Other"):
        Other().variance(prediction)


def test_intensity_map_scales_and_adds():
    x = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 3)
    assert IntensityMap(200.0, 10.0, (1, 2, 3))(x).unique().tolist() == [10, 210]
    per_image = IntensityMap(torch.tensor([5.0, 7.0]), torch.tensor([1.0, 2.0]), (1, 2, 3))(x)
    assert per_image[0].unique().tolist() == [1] and per_image[1].unique().tolist() == [9]
    profile = torch.arange(1.0, 7).reshape(2, 3)
    assert torch.equal(IntensityMap(profile, 0.0, (1, 2, 3))(x)[1, 0], profile)


def test_intensity_map_composes_with_optics_and_carries_gradients(generator):
    """A blur of unit sum leaves the background as it is, and the chain's Jacobian is scale times the blur."""
    blur = GaussianBlur(1.0, (6, 6))
    chain = blur @ IntensityMap(50.0, 3.0, (1, 6, 6))
    x = torch.rand(2, 1, 6, 6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(chain(x), 50 * blur(x) + 3)
    y, pull = torch.func.vjp(chain, x)
    torch.testing.assert_close(pull(y)[0], 50 * blur.adjoint(y))


@pytest.mark.parametrize(
    "scale, background, says",
    [
        (0.0, 0.0, "scale must be positive"),
        (torch.tensor([1.0, -1.0]), 0.0, "scale must be positive"),
        (1.0, -0.1, "background must not be negative"),
        (1.0, float("nan"), "background must be finite"),
        (torch.ones(5, 3), 0.0, "scale must be a number"),
    ],
)
def test_intensity_map_refuses_bad_numbers(scale, background, says):
    with pytest.raises(ValueError, match=says):
        IntensityMap(scale, background, (1, 2, 3))


def test_intensity_map_refuses_another_batch():
    with pytest.raises(ValueError, match="numbers for 3 images, the batch has 2"):
        IntensityMap(torch.ones(3), 0.0, (1, 2, 3))(torch.ones(2, 1, 2, 3))
