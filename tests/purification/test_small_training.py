"""Small priors and classifiers, trained where the best answer is known."""

import pytest
import torch
from torch import nn

from sciinstruct.core import SolverError
from sciinstruct.priors import IsotropicMixture
from sciinstruct.purification import Identity, PurifiedModel, train_classifier, train_small_prior
from sciinstruct.purification.attacks import PGD, Budget


@pytest.mark.slow
def test_a_small_prior_comes_close_to_the_exact_denoiser():
    """Two images in units of 100: better than the best linear denoiser, within a quarter of the best of all."""
    g = torch.Generator().manual_seed(0)
    exact = IsotropicMixture(torch.randn(2, 1, 3, 3, generator=g), 0.1)
    clean = exact.sample_exact(2000, generator=g, dtype=torch.float32)
    image = 100 * clean + 7
    prior = train_small_prior(image, width=32, blocks=1, steps=1000, batch=128, seed=1)
    x = prior.from_physical(image)
    kept = torch.linalg.eigvalsh(torch.cov(x.flatten(1).T))
    for sigma in (0.4, 0.7):
        noisy = x + sigma * torch.randn(x.shape, generator=g)
        error = float((prior.denoise(noisy, sigma) - x).square().mean())
        best = exact.denoise((prior.to_physical(noisy) - 7) / 100, sigma * prior.scale / 100)
        least = float(((best - clean) * 100 / prior.scale).square().mean())
        assert least < error < 1.25 * least
        assert error < float((kept * sigma**2 / (kept + sigma**2)).mean())


def test_a_small_prior_is_of_its_images_units_and_repeats_with_its_seed():
    image = 100 * torch.randn(50, 2, 3, 3, generator=torch.Generator().manual_seed(0)) + 7
    state = torch.get_rng_state()
    prior, again, other = (train_small_prior(image, width=16, blocks=1, steps=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    x = prior.from_physical(image)
    assert prior.event_shape == (2, 3, 3) and abs(float(x.std()) - 0.5) < 1e-4 and abs(float(x.mean())) < 1e-4
    assert torch.equal(prior.denoise(x, 0.3), again.denoise(x, 0.3))
    assert not torch.equal(prior.denoise(x, 0.3), other.denoise(x, 0.3))
    assert not any(p.requires_grad for p in prior.parameters())


def linear_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(20, 2))


def test_training_against_an_attacker_drops_what_it_can_flip():
    """One pixel tells the classes by far; nineteen a little each, together better, but within the budget's reach."""
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (1000,), generator=g)
    sign = (2.0 * labels - 1)[:, None]
    pixels = 0.1 * sign + 0.2 * torch.randn(1000, 20, generator=g)
    pixels[:, :1] = sign * (torch.rand(1000, 1, generator=g) > 0.05).mul(2).sub(1)
    image = pixels.reshape(1000, 1, 4, 5)
    budget = Budget(0.3)
    settings = {"steps": 150, "learning_rate": 0.03, "generator": 0}
    plain = train_classifier(linear_network(), image, labels, **settings)
    hardened = train_classifier(linear_network(), image, labels, budget=budget, **settings)

    def left(network):
        model = PurifiedModel(Identity(), network)
        found = PGD(budget, steps=20, draws=1).attack(model, image, labels, generator=0)
        return float((found.margin <= 0).double().mean())

    assert left(plain) < left(hardened) - 0.1 and left(hardened) > 0.85
    assert not hardened.training and not any(p.requires_grad for p in hardened.parameters())


def test_what_cannot_be_trained_is_refused():
    image, labels = torch.zeros(4, 1, 4, 5), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="must vary"):
        train_small_prior(image)
    with pytest.raises(ValueError, match="batch"):
        train_small_prior(image[0])
    with pytest.raises(ValueError, match="one class per image"):
        train_classifier(linear_network(), image, labels[:2])
    with pytest.raises(SolverError, match="step 0"):
        train_classifier(linear_network(), image + torch.nan, labels)
