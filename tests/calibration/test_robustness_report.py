"""The report of attacks: numbers as evaluated, what it lacks in red."""

import json

import pytest
import torch
import xarray

from sciinstruct.calibration.robustness import write_robustness
from sciinstruct.purification import Identity, Protocol, PurifiedModel, evaluate
from sciinstruct.purification.attacks import PGD, Budget, SquareSearch


def classifier(image):
    score = image.flatten(1).sum(1)
    return torch.stack([-score, score], 1)


@pytest.fixture(scope="module")
def evaluations():
    """A draft, and a full evaluation of the same classifier with its labels kept."""
    image = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(40, 1, 1, 1) * torch.ones(1, 1, 2, 2)
    model, labels = PurifiedModel(Identity(), classifier), (image[:, 0, 0, 0] > 0).long()
    exact = PGD(Budget(0.1), draws=1, restarts=3)
    full = Protocol(
        {"exact": exact, "margin": PGD(Budget(0.1), draws=1, loss="margin"), "square": SquareSearch(Budget(0.1), 5)},
        PGD(Budget(2.0), draws=1),
        repeats=10,
    )
    return {
        "full": evaluate(model, image, labels, full, generator=0),
        "draft": evaluate(model, image, labels, Protocol({"exact": exact}), draft=True, generator=0),
    }


def test_the_page_says_what_was_found(evaluations, tmp_path):
    paths = write_robustness(evaluations, tmp_path / "report", name="Planes", trained="full")
    content = json.loads(paths.json.read_text())
    page = paths.html.read_text()
    full, draft = content["models"]
    assert full["robust"]["single"] == pytest.approx(float(evaluations["full"].robust[0])) == 0.9
    assert "0.900 ± 0.0" in page and "full (adversarially trained)" in page
    assert draft["draft"] and content["overall"] == "fail" and "Do not quote these accuracies" in page
    assert any("SquareSearch" in row["meaning"] for row in content["verdicts"] if row["status"] == "fail")
    stored = xarray.load_dataset(paths.data[0], engine="h5netcdf")
    xarray.testing.assert_equal(stored, evaluations["full"])
    assert stored.attrs["model"] == "full"
    assert "http://" not in page and "https://" not in page


def test_a_missing_comparison_is_noted(evaluations, tmp_path):
    paths = write_robustness({"full": evaluations["full"]}, tmp_path)
    content = json.loads(paths.json.read_text())
    assert content["overall"] == "warn" and "adversarially trained" in content["verdicts"][0]["meaning"]
    assert "No check failed" in paths.html.read_text()


def test_what_does_not_belong_together_is_refused(evaluations, tmp_path):
    with pytest.raises(ValueError, match="at least one"):
        write_robustness({}, tmp_path)
    with pytest.raises(ValueError, match="trained must be one of"):
        write_robustness(evaluations, tmp_path, trained="other")
    other = evaluations["full"].assign_attrs(threat="l2 1")
    with pytest.raises(ValueError, match="one threat model"):
        write_robustness({"a": evaluations["full"], "b": other}, tmp_path)
