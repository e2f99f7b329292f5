"""Conformal intervals hold on new images, are the smallest that do, and never go by another name."""

import math

import pytest
import torch

from sciinstruct.calibration.conformal import conformal_band, conformal_pixels

N, S, P = 60, 48, 20


def images(n, width, generator):
    """Truths and samples of n images of P correlated pixels, `width` times as wide as they should be."""
    common = torch.randn(n, S + 1, 1, generator=generator, dtype=torch.float64)
    noise = (common + torch.randn(n, S + 1, P, generator=generator, dtype=torch.float64)) / 2**0.5
    return width * noise[:, 1:], noise[:, 0]


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_new_images_are_missed_as_rarely_as_promised(generator, width):
    """200 calibration sets: mean share of missed pixels, and of images not held as a whole, at most alpha."""
    alpha, missed, lost = 0.2, [], []
    for _ in range(200):
        samples, truth = images(N, width, generator)
        new, its_truth = images(1, width, generator)
        low, high = conformal_pixels(samples, truth, alpha).interval(new[0])
        missed.append(float(((its_truth[0] < low) | (its_truth[0] > high)).double().mean()))
        low, high = conformal_band(samples, truth, alpha).interval(new[0])
        lost.append(float(((its_truth[0] < low) | (its_truth[0] > high)).any()))
    for rates in (torch.tensor(missed), torch.tensor(lost)):
        assert float(rates.mean()) <= alpha + 2 * float(rates.std()) / 200**0.5
        assert float(rates.mean()) >= alpha - 4 * float(rates.std()) / 200**0.5 - 2 / N  # and not by being useless


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.35])
def test_the_factor_is_the_smallest_that_keeps_the_promise(generator, alpha):
    samples, truth = images(N, 0.7, generator)
    found = conformal_pixels(samples, truth, alpha)

    def risk(scale):
        wide = type(found)(alpha, scale, 0.0, N)
        bounds = [wide.interval(x) for x in samples]
        miss = torch.stack([(t < b.low) | (t > b.high) for t, b in zip(truth, bounds)]).double().mean()
        return N / (N + 1) * float(miss) + 1 / (N + 1)

    assert risk(found.scale * (1 + 1e-9)) <= alpha + 1e-12 < risk(found.scale * (1 - 1e-6))


def test_the_band_is_the_known_order_statistic(generator):
    samples, truth = images(39, 1.0, generator)
    score = ((truth - samples.mean(1)).abs() / samples.std(1)).amax(1).sort().values
    assert conformal_band(samples, truth, 0.1).radius == pytest.approx(float(score[35]))  # ceil(40 * 0.9) = 36th
    assert conformal_band(samples, truth, 0.5).radius == pytest.approx(float(score[19]))


def test_a_narrow_posterior_shows_in_the_factor_and_its_own_coverage_is_given(generator):
    right, narrow = (conformal_pixels(*images(400, width, generator), 0.1) for width in (1.0, 0.5))
    assert right.scale == pytest.approx(1.0, abs=0.15) and narrow.scale == pytest.approx(2 * right.scale, rel=0.15)
    assert right.posterior_coverage > 0.85 and narrow.posterior_coverage < 0.65
    bands = [conformal_band(*images(400, width, generator), 0.1) for width in (1.0, 0.5)]
    assert bands[0].radius == pytest.approx(bands[0].posterior_radius, rel=0.15)
    assert bands[1].radius == pytest.approx(2 * bands[1].posterior_radius, rel=0.15)


def test_what_it_writes_is_called_conformal(generator):
    for made in (conformal_pixels(*images(N, 1.0, generator)), conformal_band(*images(N, 1.0, generator))):
        names = set(made.to_dict())
        assert all(name.startswith(("conformal", "posterior_")) for name in names) and "exchangeable" in str(
            made.to_dict()
        )
        assert type(made.interval(images(1, 1.0, generator)[0][0])).__name__ == "ConformalInterval"


def test_dead_pixels_are_covered_and_stuck_ones_refused(generator):
    samples, truth = images(N, 1.0, generator)
    samples[..., 0], truth[..., 0] = 0.0, 0.0
    assert math.isfinite(conformal_band(samples, truth).radius) and math.isfinite(
        conformal_pixels(samples, truth).scale
    )
    truth[..., :5] += 1.0
    samples[..., :5] = 0.0
    for make in (conformal_pixels, conformal_band):
        with pytest.raises(ValueError, match="no spread"):
            make(samples, truth)


@pytest.mark.parametrize(
    "n, alpha, text", [(8, 0.1, "at least 9 calibration images"), (60, 1.0, "alpha must"), (60, 0.01, "at least 99")]
)
def test_promises_that_cannot_be_kept_are_refused(generator, n, alpha, text):
    for make in (conformal_pixels, conformal_band):
        with pytest.raises(ValueError, match=text):
            make(*images(n, 1.0, generator), alpha)


def test_nine_images_are_enough_for_a_tenth(generator):
    assert math.isfinite(conformal_pixels(*images(9, 1.0, generator), 0.1).scale)


def test_shapes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="must match"):
        conformal_pixels(torch.zeros(20, 8, 3), torch.zeros(20, 4))
