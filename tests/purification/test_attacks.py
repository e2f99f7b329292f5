"""Attacks where the worst image is known, and the gradients they follow."""

import pytest
import torch

from sciinstruct.priors import DenoiserPrior, GaussianPrior
from sciinstruct.purification import Identity, MedianFilter, NoiseOnly, OneShot, PurifiedModel, PurifyPP, ScoreOpt
from sciinstruct.purification.attacks import (
    GOALS,
    PGD,
    VIEWS,
    Attacked,
    Budget,
    SquareSearch,
    expected_ascent,
    worse_of,
)

SHAPE = (2, 4, 4)


@pytest.fixture(scope="module")
def normal():
    """A vector that linear classifiers look along."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.fixture(scope="module")
def prior():
    """A Gaussian: its denoiser is a multiple of the identity."""
    d = torch.Size(SHAPE).numel()
    return GaussianPrior(torch.zeros(SHAPE), 0.25 * torch.eye(d, dtype=torch.float64), sigma_range=(1e-3, 10.0))


@pytest.fixture
def images(generator):
    return 0.2 * torch.randn(5, *SHAPE, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])


class Curved(torch.nn.Module):
    """A smooth classifier of three classes."""

    def __init__(self, shape):
        super().__init__()
        g = torch.Generator().manual_seed(3)
        d = torch.Size(shape).numel()
        self.first = torch.nn.Parameter(torch.randn(d, 6, generator=g, dtype=torch.float64) / 2)
        self.second = torch.nn.Parameter(torch.randn(6, 3, generator=g, dtype=torch.float64))
        self.eval()

    def forward(self, image):
        return torch.tanh(image.flatten(1) @ self.first) @ self.second


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("make", [lambda p: ScoreOpt(p, 0.3, steps=3), lambda p: PurifyPP(p, 0.3, steps=3, rate=0.5)])
def test_the_gradient_of_the_expected_loss_agrees_with_central_differences(make, goal, two_modes):
    model = PurifiedModel(make(two_modes), Curved(two_modes.event_shape))
    g = torch.Generator().manual_seed(1)
    image, direction = (torch.randn(3, 2, 2, 3, generator=g, dtype=torch.float64) for _ in range(2))

    def ascend(x):
        options = {"view": VIEWS["exact"], "goal": GOALS[goal], "draws": 4}
        return expected_ascent(model, x, torch.tensor([0, 1, 2]), generator=torch.Generator().manual_seed(2), **options)

    h = 1e-6
    numeric = (ascend(image + h * direction).loss - ascend(image - h * direction).loss) / (2 * h)
    slope = (ascend(image).gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-8)
    assert all(p.grad is None and p.requires_grad for p in model.classifier.parameters())


def test_all_views_agree_without_a_purifier(images):
    image, labels = images
    model = PurifiedModel(Identity(), Curved(SHAPE))
    found = [
        expected_ascent(model, image, labels, view=view, goal=GOALS["margin"], draws=2, generator=torch.Generator())
        for view in VIEWS.values()
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.gradient, found[0].gradient, rtol=1e-12, atol=1e-15)


def test_views_differ_by_the_purifiers_jacobian(prior, images):
    """Under a Gaussian prior one denoise is b times the noisy image: BPDA sees the slope without the b."""
    image, labels = images
    purifier = OneShot(prior, 0.5)
    classifier = Curved(SHAPE)
    kept = 0.25 / (0.25 + 0.5**2)

    def gradient(view):
        g = torch.Generator().manual_seed(4)
        model = PurifiedModel(purifier, classifier)
        return expected_ascent(
            model, image, labels, view=VIEWS[view], goal=GOALS["cross_entropy"], draws=3, generator=g
        ).gradient

    torch.testing.assert_close(gradient("exact"), kept * gradient("bpda"), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient("surrogate"), gradient("exact"), rtol=1e-12, atol=0)


def test_small_batches_give_the_same_gradient(images):
    image, labels = images
    gradients = [
        expected_ascent(
            PurifiedModel(Identity(), Curved(SHAPE), max_batch=size),
            image, labels, view=VIEWS["exact"], goal=GOALS["margin"], draws=4, generator=torch.Generator(),
        ).gradient
        for size in (1000, 9, 1)
    ]  # fmt: skip
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gradient", VIEWS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_worst_image_of_a_linear_classifier_is_found(gradient, norm, prior, linear, normal, images):
    """Before a linear purifier too: along the plane's normal, as far as the budget reaches."""
    image, labels = images
    budget = Budget(0.1, norm)
    direction = normal.sign() if norm == "linf" else normal / normal.norm()
    expected = image + 0.1 * (1 - 2 * labels)[:, None, None, None] * direction
    model = PurifiedModel(OneShot(prior, 0.2), linear)
    found = PGD(budget, gradient, steps=40, draws=2, step=0.25).attack(model, image, labels, generator=0)
    torch.testing.assert_close(found.image, expected, rtol=0, atol=2e-3 * 0.1)


def test_the_margin_told_is_that_of_the_attacked_image(linear, normal, images):
    image, labels = images
    model = PurifiedModel(Identity(data_range=(-0.4, 0.4)), linear)
    image = image.clamp(-0.4, 0.4)
    found = PGD(Budget(0.3), "exact", steps=10, draws=1, step=0.5).attack(model, image, labels, generator=0)
    assert found.image.min() >= -0.4 and found.image.max() <= 0.4
    score = (found.image * normal).flatten(1).sum(1)
    torch.testing.assert_close(found.margin, 2 * score * (1 - 2 * labels))


def test_transfer_never_asks_the_purifier(two_modes, generator):
    def refuse(x, sigma):
        raise AssertionError("the purifier was asked")

    purifier = ScoreOpt(DenoiserPrior(refuse, two_modes.event_shape, (1e-3, 10.0)), 0.3)
    model = PurifiedModel(purifier, Curved(two_modes.event_shape))
    image = torch.randn(3, 2, 2, 3, generator=generator, dtype=torch.float64)
    labels = model.classify(image).argmax(1)
    found = PGD(Budget(2.0), "transfer", steps=20).attack(model, image, labels, generator=0)
    assert (found.margin > 0).all()


def test_attacks_repeat_with_their_seed(two_modes, generator):
    model = PurifiedModel(ScoreOpt(two_modes, 0.3, steps=2), Curved(two_modes.event_shape))
    image = torch.randn(3, 2, 2, 3, generator=generator, dtype=torch.float64)
    labels = torch.zeros(3, dtype=torch.long)
    state = torch.get_rng_state()
    for attack in (PGD(Budget(0.1), steps=3, draws=2, restarts=2), SquareSearch(Budget(0.1), queries=5)):
        first, again = (attack.attack(model, image, labels, generator=1) for _ in range(2))
        assert torch.equal(first.image, again.image) and torch.equal(first.margin, again.margin)
        assert (Budget(0.1).measure(first.image - image) <= 0.1).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_of_two_tries_the_worse_is_kept_image_by_image():
    a = Attacked(torch.zeros(3, 1, 1, 1), torch.tensor([0.0, 2.0, 1.0]))
    b = Attacked(torch.ones(3, 1, 1, 1), torch.tensor([1.0, 1.0, 1.0]))
    assert worse_of(None, a) is a
    kept = worse_of(a, b)
    assert kept.image.flatten().tolist() == [1, 0, 0] and kept.margin.tolist() == [1, 2, 1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square_search_needs_predictions_alone(norm, linear, normal, images):
    """On a linear classifier, in numpy: it must get most of the way to the known worst margin."""
    image, labels = images
    budget = Budget(0.1, norm)
    model = PurifiedModel(Identity(), lambda x: torch.from_numpy(linear(x).detach().numpy()))
    with pytest.raises(ValueError, match="SquareSearch"):
        PGD(budget, "bpda", steps=1, draws=1).attack(model, image, labels, generator=0)
    found = SquareSearch(budget, queries=400, draws=1).attack(model, image, labels, generator=0)
    assert (budget.measure(found.image - image) <= 0.1).all()
    clean = 2 * (image * normal).flatten(1).sum(1) * (1 - 2 * labels)
    most = 2 * 0.1 * (normal.abs().sum() if norm == "linf" else normal.norm())
    assert ((found.margin - clean) > 0.7 * most).all()


def test_who_knows_the_seed_attacks_one_fixed_function(prior, linear, normal, images):
    """Noise of 1 hides a margin of the linear classifier, unless the noise is known: then the margin is exact."""
    image, labels = images
    model = PurifiedModel(NoiseOnly(prior, 1.0), linear)
    attack = PGD(Budget(0.1), steps=20, draws=1, step=0.25, known_seed=5)
    found = attack.attack(model, image, labels, generator=0)
    score = (found.image * normal).flatten(1).sum(1)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(5), dtype=image.dtype)
    exact = 2 * (score + (noise * normal).flatten(1).sum(1)) * (1 - 2 * labels)
    torch.testing.assert_close(found.margin, exact)
    assert torch.equal(found.margin > 0, model.predict(found.image, 1, generator=5).single != labels)


def test_purifiers_without_a_gradient_say_so(images, linear):
    image, labels = images
    model = PurifiedModel(MedianFilter(), linear)
    with pytest.raises(ValueError, match="no gradient"):
        PGD(Budget(0.1), "exact", steps=1, draws=1).attack(model, image, labels, generator=0)
    PGD(Budget(0.1), "bpda", steps=1, draws=1).attack(model, image, labels, generator=0)


def test_expectation_over_draws_reduces_the_gradients_noise(prior, images):
    """Its variance falls as one over the draws."""
    image, labels = images
    model = PurifiedModel(NoiseOnly(prior, 0.05), Curved(SHAPE))

    def spread(draws):
        options = {"view": VIEWS["exact"], "goal": GOALS["cross_entropy"], "draws": draws}
        g = torch.Generator().manual_seed(0)
        return (
            torch.stack([expected_ascent(model, image, labels, generator=g, **options).gradient for _ in range(200)])
            .var(0)
            .sum()
        )

    assert float(spread(1) / spread(16)) == pytest.approx(16, rel=0.25)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PGD(Budget(0.1), "adjoint"), "gradient must be one of"),
        (lambda: PGD(Budget(0.1), loss="l2"), "loss must be one of"),
        (lambda: PGD(Budget(0.1), steps=0), "steps"),
        (lambda: PGD(Budget(0.1), draws=0), "draws"),
        (lambda: PGD(Budget(0.1), step=0.0), "step"),
        (lambda: SquareSearch(Budget(0.1), queries=0), "queries"),
        (lambda: SquareSearch(Budget(0.1), share=1.5), "share"),
    ],
)
def test_bad_settings_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
