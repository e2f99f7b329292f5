"""What users hand over by mistake: each has one clear behaviour."""

import json
import math

import numpy as np
import pytest
import torch
import xarray

from sciinstruct.calibration.bands import ecdf_band
from sciinstruct.calibration.chance import coverage_by_chance
from sciinstruct.calibration.quantities import sample_interval
from sciinstruct.calibration.ranks import LEVELS, mean_coverage_error, randomised_ranks
from sciinstruct.calibration.report import write_report
from sciinstruct.calibration.study import calibrate
from sciinstruct.calibration.study_report import write_study
from sciinstruct.core import Posterior

N, S = 100, 64
SHAPE = (1, 4, 5)


def exact(n=N, s=S, shape=SHAPE, seed=0):
    g = torch.Generator().manual_seed(seed)
    centre = 2 * torch.randn(n, 1, *shape, generator=g, dtype=torch.float64)
    draws = centre + torch.randn(n, s + 1, *shape, generator=g, dtype=torch.float64)
    return draws[:, 1:].clone(), draws[:, 0].clone()


def rows(report):
    return {verdict.check: verdict for verdict in report.verdicts}


# Too few samples or observations for what is claimed


def test_few_observations_widen_the_bands_and_say_so():
    small, large = (rows(calibrate(*exact(n))) for n in (20, 100))
    assert small["size of the study"].status == "warn" and "widened" in small["size of the study"].meaning
    assert large["size of the study"].status == "pass"
    assert "widened from 0.01" in small["pixel coverage error"].threshold
    few, many = ecdf_band(20, S), ecdf_band(100, S)
    assert (few.high - few.low).max() > 1.5 * (many.high - many.low).max()


@pytest.mark.parametrize("s", [10, 38, 64, 500])
def test_intervals_hold_one_more_draw_as_often_as_they_say(generator, s):
    runs = 8000
    draws = torch.randn(runs, s + 1, generator=generator, dtype=torch.float64)
    found = [sample_interval(row[1:], 0.95) for row in draws]
    inside = sum(low <= float(row[0]) <= high for row, (low, high, _) in zip(draws, found)) / runs
    level = found[0][2]
    assert level == (0.95 if s >= 39 else (s - 1) / (s + 1))
    assert abs(inside - level) < 4 * (level * (1 - level) / runs) ** 0.5 + 0.1 / s  # linear between order statistics


def test_a_report_of_few_samples_says_what_its_interval_holds(tmp_path):
    paths = write_report(Posterior(torch.randn(10, 2, generator=torch.Generator().manual_seed(0))), tmp_path)
    levels = json.loads(paths.json.read_text())["quantities"]["parameter 0"]["interval_levels"]
    assert levels == [0.68, pytest.approx(9 / 11)] and "holds 82 % only" in paths.html.read_text()


def test_chance_of_the_coverage_error_is_what_exact_studies_show():
    """The 95 % bound from exchanging samples and truths, against 200 exact studies of few correlated pixels."""
    n, s, p = 30, 40, 6
    g = torch.Generator().manual_seed(1)

    def study():
        common = torch.randn(n, s + 1, 1, generator=g, dtype=torch.float64)
        return common + 0.5 * torch.randn(n, s + 1, p, generator=g, dtype=torch.float64)

    bound = sum(coverage_by_chance(study(), g).error for _ in range(20)) / 20
    draws = [study() for _ in range(200)]
    errors = [mean_coverage_error(randomised_ranks(x[:, 1:], x[:, 0], g), LEVELS) for x in draws]
    above = sum(error > bound for error in errors) / 200
    assert 0.01 <= above <= 0.12  # 0.05 within four binomial standard errors, 40 pseudo-truths per bound


def test_chance_does_not_hide_behind_ties(generator):
    """Clamped samples tie in every image: the bound must not take the ties for correlation between images."""
    samples, _ = exact(200, 32)
    free = coverage_by_chance(samples.flatten(2), generator).error
    tied = coverage_by_chance(samples.flatten(2).clamp(min=0), generator).error
    assert tied < 1.5 * free


# Constant pixels


def test_constant_pixels_are_left_out_and_counted(tmp_path):
    samples, truth = exact()
    whole = calibrate(samples[..., 1:], truth[..., 1:])
    samples[..., 0], truth[..., 0] = 3.0, 3.0
    report = calibrate(samples, truth)
    assert report.numbers["constant_pixels"] == 4 and report.pixel_ranks["all"].shape == (N, 16)
    for key in ("crps", "z_rms", "rmse_of_mean", "sharpness"):
        assert report.numbers[key] == pytest.approx(whole.numbers[key])
    assert report.pit_map[..., 0].isnan().all() and not report.pit_map[..., 1:].isnan().any()
    page = write_study(report, tmp_path).html.read_text()
    assert "4 pixels" in page


def test_pixels_without_spread_fail(tmp_path):
    samples, truth = exact()
    samples[..., 0] = 3.0
    report = calibrate(samples, truth)
    assert rows(report)["pixels without spread"].status == "fail"
    assert rows(report)["pixels without spread"].value == pytest.approx(0.2)
    assert math.isfinite(report.numbers["z_rms"])
    write_study(report, tmp_path)


def test_nothing_that_varies_is_refused():
    with pytest.raises(ValueError, match="every pixel has one and the same value"):
        calibrate(torch.ones(20, 9, 3), torch.ones(20, 3))


# NaN and infinities


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_not_finite_are_counted_and_placed(value):
    samples, truth = exact()
    samples[7, 3, 0, 0, :2] = value
    samples[9, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"samples must be finite: 2 of 100 observations.*number 7 with 2"):
        calibrate(samples, truth)


def test_a_quantity_that_is_nan_is_named():
    samples, truth = exact()
    with pytest.raises(ValueError, match="quantity 'ratio' is NaN for observation 0"):
        calibrate(samples, truth, quantities={"ratio": lambda x: x.flatten(1).sum(1) * math.nan})


def test_a_quantity_that_is_no_number_per_image_is_named():
    samples, truth = exact()
    with pytest.raises(ValueError, match="quantity 'image' must map images"):
        calibrate(samples, truth, quantities={"image": lambda x: x})


# Truths out of reach


def test_clamped_samples_against_unclamped_truths_fail():
    samples, truth = exact()
    report = calibrate(samples.clamp(min=0), truth)
    row = rows(report)["truth outside the samples' range"]
    assert row.status == "fail" and row.value == pytest.approx(float((truth < 0).double().mean()))
    both = rows(calibrate(samples.clamp(min=0), truth.clamp(min=0)))
    assert "truth outside the samples' range" not in both
    assert "truth outside the samples' range" not in rows(calibrate(samples, truth))


def test_truths_of_zero_prior_density_fail():
    samples, truth = (values.exp() for values in exact())
    truth[:3] *= -1

    def log_prior(x):
        return torch.where(x > 0, -x.abs(), -math.inf).flatten(1).sum(1)

    row = rows(calibrate(samples, truth, log_prior=log_prior))["truth outside the prior"]
    assert row.status == "fail" and row.value == 3


# Mismatched coordinates


def labelled(samples, truth, **coordinates):
    axes = ("channel", "y", "x")
    grid = {"y": np.arange(4.0), "x": np.linspace(-60, 60, 5)}
    return (
        xarray.DataArray(samples.numpy(), grid, ("observation", "sample", *axes)),
        xarray.DataArray(truth.numpy(), grid | coordinates, ("observation", *axes)),
    )


def test_labelled_arrays_are_the_same_study():
    samples, truth = exact()
    assert calibrate(*labelled(samples, truth)).numbers == calibrate(samples, truth).numbers


@pytest.mark.parametrize(
    "coordinates, text",
    [
        ({"x": np.linspace(60, -60, 5)}, "axis 'x' differ: samples -60 to 60 in 5, truth 60 to -60 in 5"),
        ({"y": np.arange(4.0) + 0.5}, "axis 'y' differ"),
    ],
)
def test_truths_on_another_grid_are_refused(coordinates, text):
    with pytest.raises(ValueError, match=text):
        calibrate(*labelled(*exact(), **coordinates))


def test_axes_in_another_order_are_refused():
    samples, truth = labelled(*exact())
    with pytest.raises(ValueError, match="axes of samples"):
        calibrate(samples, truth.transpose("observation", "channel", "x", "y"))


def test_a_report_refuses_a_truth_on_another_grid(tmp_path):
    samples, truth = exact(1)
    grid = {"y": (np.arange(4.0), "uas"), "x": (np.arange(5.0), "uas")}
    posterior = Posterior(samples[0], grid)
    good = xarray.DataArray(truth[0].numpy(), {"x": np.arange(5.0)}, ("channel", "y", "x"))
    write_report(posterior, tmp_path / "good", truth=good)
    with pytest.raises(ValueError, match="axis 'x' differ"):
        write_report(posterior, tmp_path / "bad", truth=good.assign_coords(x=np.arange(5.0)[::-1]))
    assert not (tmp_path / "bad").exists()
