"""The evaluator where robust accuracy is known, and what it refuses."""

from dataclasses import replace

import pytest
import torch
import xarray

from sciinstruct.purification import (
    Identity,
    MedianFilter,
    NoiseOnly,
    OneShot,
    Protocol,
    PurifiedModel,
    Rounds,
    ScoreOpt,
    describe,
    evaluate,
)
from sciinstruct.purification.attacks import PGD, Budget, SquareSearch
from sciinstruct.purification.evaluation import binomial_error
from sciinstruct.purification.traits import probe

SHAPE = (2, 2, 3)
BUDGET = Budget(0.05)


@pytest.fixture(scope="module")
def normal():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.fixture(scope="module")
def images(normal):
    """Sixty images at known distances from the plane, some on the wrong side."""
    score = torch.linspace(-0.1, 1.0, 60, dtype=torch.float64) * float(normal.abs().sum()) * BUDGET.size * 2
    labels = torch.tensor([0, 1]).repeat(30)
    sign = (2 * labels - 1).double()
    g = torch.Generator().manual_seed(2)
    noise = torch.randn(60, *SHAPE, generator=g, dtype=torch.float64)
    along = (noise * normal).flatten(1).sum(1) - score * sign
    return noise - (along / normal.square().sum())[:, None, None, None] * normal, labels


def quick(budget=BUDGET, **changes):
    """The standard attacks with as few restarts and queries as a claim needs."""
    return replace(Protocol.standard(budget, repeats=10, queries=20), **changes)


@pytest.fixture(scope="module")
def bare(linear, images):
    """The bare classifier, evaluated."""
    return evaluate(PurifiedModel(Identity(), linear), *images, quick(), generator=3)


def test_robust_accuracy_of_a_linear_classifier_is_exact(bare, normal, images):
    image, labels = images
    margin = (image * normal).flatten(1).sum(1) * (2 * labels - 1)
    kept = margin > BUDGET.size * float(normal.abs().sum())
    assert 0.3 < float(kept.double().mean()) < 0.7
    assert bare.robust.sel(count="single") == pytest.approx(float(kept.double().mean()))
    assert bare.accuracy.sel(attack="none", count="single") == pytest.approx(float((margin > 0).double().mean()))
    assert (bare.robust == bare.rescored).all()  # nothing is random here
    assert float(bare.beyond) < 0.1 and bare.notes == bare.faults == "" and bare.draft == 0


def test_the_headline_is_the_minimum_of_every_image(two_modes, linear, images):
    image, labels = images
    found = evaluate(PurifiedModel(OneShot(two_modes, 0.3), linear), image, labels, quick(), generator=0)
    counts = found.right.where(found.counted, drop=True)
    assert set(found.attack.values) - set(counts.attack.values) == {"exact, seed known"}
    xarray.testing.assert_allclose(found.robust, counts.min("attack").mean("image"))
    xarray.testing.assert_allclose(found.accuracy, found.right.mean("image"))
    assert (found.robust <= found.accuracy.sel(attack=counts.attack).min("attack")).all()
    single, vote, worst = (found.accuracy.sel(count=c) for c in ("single", "vote", "worst"))
    assert (worst <= single).all() and (worst <= vote).all()
    assert (found.rescored.sel(count="single") - found.robust.sel(count="single")) > -3 * found.rescored_error[0]
    assert (found.distance <= 1 + 1e-6).all() and (found.distance.sel(attack="none") == 0).all()
    changes = torch.from_numpy(found.worst_image.values) - image
    assert (BUDGET.measure(changes) <= BUDGET.size * (1 + 1e-6)).all() and (changes != 0).any()
    assert (int(found.calls_forward), int(found.calls_backward)) == (1, 0) and float(found.seconds) > 0
    assert (found.attack_seconds.sel(attack="exact") > 0).all()


def test_errors_are_binomial_and_never_zero():
    torch.testing.assert_close(binomial_error(torch.tensor(0.5), 100), torch.tensor(0.05))
    torch.testing.assert_close(binomial_error(torch.tensor(0.3), 512), torch.tensor(0.0203), rtol=2e-3, atol=0)
    assert 0 < float(binomial_error(torch.tensor(1.0), 100)) < 0.01


def test_a_result_survives_its_file_and_its_seed_repeats_it(bare, linear, images, tmp_path):
    bare.to_netcdf(tmp_path / "found.nc", engine="h5netcdf")
    again = xarray.load_dataset(tmp_path / "found.nc", engine="h5netcdf")
    xarray.testing.assert_equal(again, bare)
    assert again.attrs["seed"] == 3 and "linf 0.05" in again.attrs["threat"]
    state = torch.get_rng_state()
    repeated = evaluate(PurifiedModel(Identity(), linear), *images, quick(), generator=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (repeated.right == bare.right).all()


EXACT = PGD(BUDGET, restarts=3)
SUFFICIENT = {
    "exact": EXACT,
    "margin": replace(EXACT, loss="margin"),
    "surrogate": PGD(BUDGET, "surrogate"),
    "square": SquareSearch(BUDGET, queries=5),
}
BEYOND = PGD(Budget(0.2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"attacks": {"transfer": PGD(BUDGET, "transfer"), "bpda": PGD(BUDGET, "bpda")}}, "no exact attack"),
        ({"attacks": SUFFICIENT | {"exact": PGD(BUDGET, draws=1, restarts=3)}}, "averages 1 purifications"),
        ({"attacks": {k: v for k, v in SUFFICIENT.items() if k != "square"}}, "SquareSearch"),
        ({"attacks": {k: v for k, v in SUFFICIENT.items() if k != "margin"}}, "no attack on the margin"),
        ({"attacks": {k: v for k, v in SUFFICIENT.items() if k != "surrogate"}}, "no surrogate attack"),
        ({"attacks": SUFFICIENT | {"exact": PGD(BUDGET), "margin": PGD(BUDGET, loss="margin")}},
         "fewer than 3 restarts"),
        ({"attacks": SUFFICIENT | {"exact": PGD(BUDGET, step=0.01, restarts=3)}}, "cannot cross"),
        ({"repeats": 1}, "repeats must be at least 10"),
        ({"beyond": None}, "beyond the budget"),
    ],
)  # fmt: skip
def test_protocols_that_flatter_are_refused_or_tell_so(changes, text, two_modes, linear, images):
    model = PurifiedModel(OneShot(two_modes, 0.3), linear)
    image, labels = images[0][:4], images[1][:4]
    complete = Protocol(SUFFICIENT, BEYOND, repeats=10)
    traits = probe(model, image, labels)
    assert complete.lacks(traits) == []
    assert any(text in lack for lack in replace(complete, **changes).lacks(traits))
    with pytest.raises(ValueError, match=text):
        evaluate(model, image, labels, replace(complete, **changes))


def test_a_draft_says_what_it_lacks(linear, images):
    model = PurifiedModel(Identity(), linear)
    found = evaluate(model, *images, Protocol({"exact": PGD(BUDGET, steps=5)}), draft=True, generator=0)
    assert found.draft == 1 and "Draft: no attack without gradients" in found.faults


def test_without_gradients_only_predictions_are_attacked_and_the_result_says_so(linear, images):
    model = PurifiedModel(Identity(), lambda x: torch.from_numpy(linear(x).detach().numpy()))
    found = evaluate(model, *images, quick(), generator=0)
    assert list(found.attack.values) == ["none", "square"]
    assert "gives no gradient" in found.notes and "upper bound" in found.notes
    few = images[0][:6], images[1][:6]
    filtered = evaluate(PurifiedModel(MedianFilter(1), linear), *few, quick(), generator=0)
    assert "exact" not in filtered.attack and "purifier gives no gradient" in filtered.notes
    assert "bpda" in filtered.attack and "exact (purifier as the identity)" in filtered.attack


def test_what_numbers_alone_give_away_is_noted(two_modes, images):
    """A classifier that nothing moves, and an exact gradient that is the identity's."""
    image, labels = images
    where = image.flatten(1).sum(1).argsort()

    def stubborn(x):
        return torch.nn.functional.one_hot(torch.ones(len(x), dtype=torch.long), 2) * 5.0 + 1e-3 * x.flatten(1)[:, :2]

    found = evaluate(PurifiedModel(Identity(), stubborn), image[where], torch.ones_like(labels), quick(), generator=0)
    assert "gradients are masked" in found.faults

    def curved(x):
        return torch.tanh(x.flatten(1)[:, :3])

    traits = probe(PurifiedModel(ScoreOpt(two_modes, 0.3, steps=1), curved), image, labels)
    assert traits.likeness > 0.98 and traits.random and traits.changes and traits.classes == 3
    assert probe(PurifiedModel(ScoreOpt(two_modes, 0.3, steps=5), curved), image, labels).likeness < 0.98


def test_images_that_settings_were_chosen_on_are_refused(linear, images):
    image, labels = images
    model = PurifiedModel(Identity(), linear)
    with pytest.raises(ValueError, match="1 of the attacked images"):
        evaluate(model, image[:10], labels[:10], quick(), validation=image[9:20])
    with pytest.raises(ValueError, match="validation must hold images"):
        evaluate(model, image[:10], labels[:10], quick(), validation=image[:, :1])


def test_bad_protocols_are_refused(images, linear, two_modes):
    with pytest.raises(ValueError, match="at least one"):
        Protocol({})
    with pytest.raises(ValueError, match="one budget"):
        Protocol({"a": PGD(BUDGET), "b": PGD(Budget(0.1))})
    with pytest.raises(ValueError, match="larger than"):
        Protocol({"a": PGD(BUDGET)}, beyond=PGD(BUDGET))
    with pytest.raises(ValueError, match="repeats"):
        Protocol({"a": PGD(BUDGET)}, repeats=0)
    with pytest.raises(ValueError, match="untouched"):
        Protocol({"none": PGD(BUDGET)})
    with pytest.raises(ValueError, match="one class per image"):
        evaluate(PurifiedModel(Identity(), linear), images[0], images[1][:3], quick())


def test_purifiers_are_told_by_their_plain_settings(two_modes):
    told = describe(Rounds([NoiseOnly(two_modes, 0.2), ScoreOpt(two_modes, 0.3, steps=2)]))
    assert told.startswith("Rounds(NoiseOnly(sigma=0.2), ScoreOpt(sigma=0.3, steps=2,") and "prior" not in told
