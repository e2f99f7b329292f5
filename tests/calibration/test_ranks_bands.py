"""Ranks and their bands: uniform at every S, ties included; bands hold simultaneously and agree with arviz."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from sciinstruct.calibration.bands import bootstrap_band, ecdf, ecdf_band, smallest_visible_error, uniformity_p_value
from sciinstruct.calibration.ranks import (
    LEVELS,
    binomial_band,
    coverage_from_ranks,
    mean_coverage_error,
    randomised_ranks,
    rank_histogram,
    signed_coverage_error,
)
from sciinstruct.calibration.tarp import split_tarp_ranks, tarp_ranks


@pytest.mark.parametrize("s", [1, 3, 24])
@pytest.mark.parametrize("ties", [False, True])
def test_ranks_of_exchangeable_draws_are_uniform(generator, s, ties):
    draws = torch.randn(20000, s + 1, generator=generator, dtype=torch.float64)
    draws = (2 * draws).round() if ties else draws
    ranks = randomised_ranks(draws[:, 1:], draws[:, 0], generator)
    assert kstest(ranks.numpy(), "uniform").pvalue > 1e-3
    assert 0 < ranks.min() and ranks.max() < 1


def test_ranks_ignore_increasing_maps(generator):
    samples, truth = torch.randn(50, 9, 4, generator=generator), torch.randn(50, 4, generator=generator)
    same = [randomised_ranks(f(samples), f(truth), torch.Generator().manual_seed(1)) for f in (torch.exp, torch.asinh)]
    assert torch.equal(same[0], same[1])


def test_rank_counts_what_is_below():
    samples = torch.tensor([[1.0, 2.0, 3.0]])
    for value, low in ((0.5, 0), (1.5, 1), (9.0, 3)):
        u = float(randomised_ranks(samples, torch.tensor([value]), torch.Generator().manual_seed(0)))
        assert low / 4 < u < (low + 1) / 4


@pytest.mark.parametrize("bad", ["samples", "truth"])
def test_nan_is_refused(bad):
    values = {"samples": torch.zeros(2, 3), "truth": torch.zeros(2)}
    values[bad].view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=f"{bad} must be finite"):
        randomised_ranks(**values)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="must match"):
        randomised_ranks(torch.zeros(4, 3, 2), torch.zeros(4, 3))


@pytest.mark.parametrize("s", [4, 16, 64])
def test_coverage_from_ranks_is_right_at_every_s(generator, s):
    """Sample quantiles at S = 16 would cover 0.81 of calibrated truths at 90 %; ranks cover 0.90."""
    n = 20000
    draws = torch.randn(n, s + 1, generator=generator)
    coverage = coverage_from_ranks(randomised_ranks(draws[:, 1:], draws[:, 0], generator), (0.5, 0.9))
    for found, level in zip(coverage.tolist(), (0.5, 0.9)):
        assert abs(found - level) < 4 * (level * (1 - level) / n) ** 0.5


def test_coverage_of_narrow_samples_is_low_and_signed(generator):
    truth = torch.randn(5000, generator=generator)
    ranks = randomised_ranks(0.8 * torch.randn(5000, 64, generator=generator), truth, generator)
    assert signed_coverage_error(ranks) < -0.05 and mean_coverage_error(ranks) > 0.05
    evenly = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert mean_coverage_error(evenly) < 1e-3


def test_binomial_band_holds_the_right_share(generator):
    n = 200
    low, high = binomial_band(n)
    runs = torch.rand(2000, n, generator=generator)
    coverage = torch.stack([coverage_from_ranks(row) for row in runs]).numpy()
    inside = ((coverage >= low) & (coverage <= high)).mean(0)
    assert len(inside) == len(LEVELS) and (inside >= 0.95 - 4 * (0.95 * 0.05 / 2000) ** 0.5).all()


def test_rank_histogram_counts_everything(generator):
    counts = rank_histogram(torch.rand(500, generator=generator), 7)
    assert len(counts) == 8 and counts.sum() == 500 and len(rank_histogram(torch.rand(9), 64)) == 20


@pytest.mark.parametrize("n", [50, 200])
@pytest.mark.parametrize("s", [16, 64])
def test_band_holds_simultaneously(n, s):
    band = ecdf_band(n, s)
    fresh = np.random.default_rng(12345).uniform(size=(4000, n))
    counts = np.stack([(fresh <= z).sum(1) for z in band.z], 1) / n
    inside = ((counts >= band.low) & (counts <= band.high)).all(1).mean()
    assert abs(inside - 0.95) <= 0.01 + 3 * (0.95 * 0.05 / 4000) ** 0.5  # 0.01 is the discreteness we accept


@pytest.mark.parametrize("n, half_width", [(16, 0.312), (100, 0.140), (200, 0.102), (1000, 0.047)])
def test_band_has_the_known_width_in_the_middle(n, half_width):
    band = ecdf_band(n, 64)
    middle = int(np.abs(band.z - 0.5).argmin())
    assert abs((band.high - band.low)[middle] / 2 - half_width) <= 1.01 / n


def test_band_agrees_with_arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from arviz.stats.ecdf_utils import ecdf_confidence_band
    from scipy.stats import uniform

    band = ecdf_band(200, 64)
    low, high = ecdf_confidence_band(200, band.z, uniform(0, 1).cdf(band.z), prob=0.95, method="optimized")
    assert np.abs(band.low - low).max() <= 1.01 / 200 and np.abs(band.high - high).max() <= 1.01 / 200


def test_bootstrap_keeps_the_pixels_of_an_image_together(generator):
    """Copies of one rank are worth one rank: the band must not shrink with the number of pixels."""
    z = np.array([0.5])
    single = torch.rand(60, 1, generator=generator)
    widths = []
    for ranks in (single, single.expand(60, 50)):
        low, high = bootstrap_band(ranks, z, generator=torch.Generator().manual_seed(2))
        widths.append(float((high - low)[0]))
    assert widths[0] == pytest.approx(widths[1]) and widths[0] > 0.5 * 2 * 1.96 * (0.25 / 60) ** 0.5


def test_ecdf_is_the_share_at_or_below():
    np.testing.assert_array_equal(
        ecdf(torch.tensor([0.1, 0.2, 0.9], dtype=torch.float64), np.array([0.1, 0.5, 1.0])), [1 / 3, 2 / 3, 1]
    )


def test_p_value_refuses_pooled_pixels():
    with pytest.raises(ValueError, match="one per observation"):
        uniformity_p_value(torch.rand(4, 5))


def test_more_observations_show_smaller_errors():
    few, many = smallest_visible_error(16, 32), smallest_visible_error(256, 32)
    assert many < few <= 1


@pytest.mark.parametrize("n", [16, 64])
def test_tarp_around_the_exact_mean_sees_narrow_samples(n):
    """Around a data-dependent point a 20 % width error in 64 dimensions is always rejected, exact samples are not."""
    rejected = {1.0: 0, 0.8: 0}
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        mean = torch.randn(n, 1, 8, 8, generator=g)
        truth = mean + torch.randn(n, 1, 8, 8, generator=g)
        noise = torch.randn(n, 32, 1, 8, 8, generator=g)
        for width in rejected:
            ranks = tarp_ranks(mean[:, None] + width * noise, truth, mean, g)
            rejected[width] += uniformity_p_value(ranks) < 0.05
    assert rejected[0.8] == 20 and rejected[1.0] <= binom.ppf(0.999, 20, 0.05)


def test_split_tarp_is_uniform_for_exact_samples_and_sees_narrow_ones(generator):
    """Around the mean of half the samples, ranked among the other half, with no outside reference."""
    n = 2000
    mean = 3 * torch.randn(n, 1, 12, generator=generator)
    truth = mean[:, 0] + torch.randn(n, 12, generator=generator)
    noise = torch.randn(n, 16, 12, generator=generator)
    assert uniformity_p_value(split_tarp_ranks(mean + noise, truth, generator)) > 1e-3
    assert uniformity_p_value(split_tarp_ranks(mean + 0.9 * noise, truth, generator)) < 1e-6


def test_tarp_reference_must_fit():
    with pytest.raises(ValueError, match="reference must have"):
        tarp_ranks(torch.zeros(3, 4, 2), torch.zeros(3, 2), torch.zeros(2, 2))


def test_smallest_visible_error_is_what_the_p_value_rejects():
    """The statistic inside agrees with the p-value used in reports: that error is rejected in about 80 % of runs."""
    n, s = 64, 32
    error = smallest_visible_error(n, s)
    g = torch.Generator().manual_seed(77)
    rejected = 0
    for _ in range(200):
        samples = (1 - error) * torch.randn(n, s, generator=g)
        rejected += uniformity_p_value(randomised_ranks(samples, torch.randn(n, generator=g), g)) < 0.05
    assert 0.65 < rejected / 200 <= 1.0
