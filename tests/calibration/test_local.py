"""Ranks by a feature of the data: what an average hides."""

import pytest
import torch

from sciinstruct.calibration.local import local_ranks
from sciinstruct.calibration.study import calibrate


def test_errors_that_cancel_on_average_are_seen_apart(generator):
    """Too narrow where bright, too wide where faint: half and half the ranks look much better than either."""
    n = 200
    feature = torch.rand(n, generator=generator)
    width = torch.where(feature > 0.5, 0.5, 1.8)[:, None, None]
    noise = torch.randn(n, 65, 6, generator=generator)
    report = calibrate(width * noise[:, 1:], noise[:, 0], features={"brightness": feature})
    bins = report.numbers["features"]["brightness"]
    assert [part["n"] for part in bins] == [67, 66, 67]
    assert bins[0]["p_values"]["TARP, mean"] < 1e-3 and bins[2]["p_values"]["TARP, mean"] < 1e-3
    rows = [verdict for verdict in report.verdicts if verdict.check.startswith("brightness")]
    assert len(rows) == 3 and {"fail"} == {row.status for row in (rows[0], rows[1])}


def test_exact_ranks_pass_in_every_bin_at_the_nominal_rate():
    """100 studies of three bins and two quantities: the smallest corrected p is below 0.05 in about one of twenty."""
    g = torch.Generator().manual_seed(3)
    alarms = 0
    for _ in range(100):
        ranks = {name: torch.rand(90, generator=g, dtype=torch.float64) for name in "ab"}
        bins = local_ranks(ranks, {"f": torch.rand(90, generator=g)})["f"]
        alarms += min(p for part in bins for p in part["p_values"].values()) < 0.05
    assert alarms <= 13  # 99.9 % of binomial(100, 0.05)


def test_equal_values_stay_together_and_thin_bins_join(generator):
    ranks = {"a": torch.rand(100, generator=generator)}
    stations = torch.tensor([4.0] * 5 + [5.0] * 45 + [7.0] * 50)
    bins = local_ranks(ranks, {"stations": stations})["stations"]
    assert sum(part["n"] for part in bins) == 100 and all(part["n"] >= 16 for part in bins)
    assert [(part["low"], part["high"]) for part in bins] == [(4.0, 5.0), (7.0, 7.0)]
    assert len(local_ranks(ranks, {"same": torch.zeros(100)})["same"]) == 1


def test_no_bin_is_thin(generator):
    for n in (32, 33, 47, 48, 100):
        bins = local_ranks({"a": torch.rand(n, generator=generator)}, {"f": torch.randn(n, generator=generator)})["f"]
        assert all(part["n"] >= 16 for part in bins) and sum(part["n"] for part in bins) == n


@pytest.mark.parametrize(
    "n, feature, text",
    [
        (31, torch.zeros(31), "at least 32"),
        (40, torch.zeros(39), "must hold 40 finite numbers"),
        (40, torch.full((40,), float("nan")), "must hold 40 finite numbers"),
    ],
)
def test_features_that_do_not_fit_are_named(n, feature, text):
    with pytest.raises(ValueError, match=text):
        local_ranks({"a": torch.rand(n)}, {"f": feature})
