"""Reference numbers on 8x8 digits: a CNN behind each purifier, a prior trained here. Minutes on one core."""

import pytest

from benchmarks import purification_setup as setup
from sciinstruct.purification import Identity, PurifiedModel
from sciinstruct.purification.attacks import PGD, Budget

pytestmark = pytest.mark.slow
DRAWS = 20
COUNT = 100  # images attacked: a standard error of 5 points


@pytest.fixture(scope="module")
def digits():
    """Images and labels to train on and to test."""
    pytest.importorskip("sklearn", reason="digits: pip install scikit-learn")
    return setup.load_digits()


@pytest.fixture(scope="module")
def prior(digits):
    """5000 steps."""
    return setup.make_prior(digits)


@pytest.fixture(scope="module")
def classifier(digits):
    """A small CNN."""
    return setup.make_classifier(digits)


# clean, transfer, exact: ranges of the reference, whatever the seeds of prior and classifier
EXPECTED = {
    "one-shot": ((0.85, 1.0), (0.40, 0.70), (0.32, 0.50)),
    "DiffPure-style": ((0.80, 1.0), (0.40, 0.70), (0.32, 0.52)),
    "Purify++-style": ((0.85, 1.0), (0.38, 0.62), (0.30, 0.52)),
    "ScoreOpt-O": ((0.95, 1.0), (0.65, 0.82), (0.40, 0.60)),
    "ScoreOpt-N": ((0.85, 1.0), (0.55, 0.80), (0.43, 0.68)),
}


def accuracy(model, image, labels):
    return float(model.predict(image, DRAWS, generator=5).outcome(labels).single.mean())


def attacked(model, gradient, image, labels, steps=30, draws=10):
    attack = PGD(setup.BUDGET, gradient, steps=steps, draws=draws, step=1 / 12)
    return accuracy(model, attack.attack(model, image, labels, generator=4).image, labels)


def test_the_bare_classifier_falls(digits, classifier):
    image, labels = digits[2], digits[3]
    model = PurifiedModel(Identity(data_range=setup.RANGE), classifier)
    assert accuracy(model, image, labels) > 0.95
    assert attacked(model, "transfer", image[:200], labels[:200], steps=40) < 0.25


MISSED = pytest.mark.xfail(
    strict=True, reason="exact accuracy 0.618, above the reference's 0.60: the bare classifier keeps twice as much here"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=MISSED) if name == "ScoreOpt-O" else name for name in EXPECTED]
)
def test_purifiers_reach_the_reference_numbers(name, digits, prior, classifier, record_property):
    image, labels = digits[2], digits[3]
    model = PurifiedModel(setup.make_purifiers(prior)[name], classifier)
    some, classes = image[:COUNT], labels[:COUNT]
    found = [accuracy(model, image, labels)]
    found += [attacked(model, view, some, classes) for view in ("transfer", "bpda", "surrogate", "exact")]
    record_property("accuracy", found)
    print(name, "clean, transfer, bpda, surrogate, exact:", *(f"{v:.3f}" for v in found))
    for value, (low, high) in zip((found[0], found[1], found[4]), EXPECTED[name]):
        assert low <= value <= high
    assert found[4] <= found[2] + 0.03 and found[2] <= found[1] + 0.03


def test_a_larger_budget_leaves_nothing(digits, prior, classifier):
    """Robustness that did not fall to zero would be a sign of masked gradients."""
    model = PurifiedModel(setup.make_purifiers(prior)["ScoreOpt-O"], classifier)
    image, labels = digits[2][:COUNT], digits[3][:COUNT]
    found = PGD(Budget(0.3), steps=30, step=1 / 12).attack(model, image, labels, generator=4)
    assert accuracy(model, found.image, labels) < 0.05
