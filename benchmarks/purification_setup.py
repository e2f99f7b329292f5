"""Digits of 8x8 pixels with a prior, a classifier and a hardened one: the set-up of the purification benchmark."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sciinstruct.core import Denoiser
from sciinstruct.priors import DenoiserPrior
from sciinstruct.purification import (
    DiffPure,
    OneShot,
    Purifier,
    PurifyPP,
    ScoreOpt,
    train_classifier,
    train_small_prior,
)
from sciinstruct.purification.attacks import Budget

RANGE = (0.0, 1.0)
BUDGET = Budget(0.15)
TRAINING = 1297
HARDENING = 800  # steps of the training against an attacker
# The reference settings are for images on [-1, 1], of standard deviation 0.75 there; the prior's images have 0.5.
_TO_PRIOR = 0.5 / 0.75
SIGMA, RATE = 0.5 * _TO_PRIOR, 0.1 * _TO_PRIOR


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) in [0, 1] with their classes."""

    image: Tensor
    labels: Tensor
    test_image: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The digits of scikit-learn in a fixed order: 1297 to train on, 500 to test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    image = torch.tensor(data.images / 16, dtype=torch.float32)[order, None]
    labels = torch.tensor(data.target)[order]
    return Digits(image[:TRAINING], labels[:TRAINING], image[TRAINING:], labels[TRAINING:])


def make_prior(digits: Digits, steps: int = 5000) -> DenoiserPrior:
    """A perceptron trained by denoising."""
    return train_small_prior(digits.image, steps=steps)


def _cnn() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def make_classifier(digits: Digits, budget: Budget | None = None, steps: int = 600) -> nn.Module:
    """A small CNN; with a budget, trained against an attacker."""
    return train_classifier(
        _cnn(), digits.image, digits.labels, budget=budget, data_range=RANGE, steps=steps, generator=3
    )


class Networks(NamedTuple):
    """What is trained."""

    prior: DenoiserPrior
    classifier: nn.Module
    hardened: nn.Module


def make_networks(digits: Digits, file: Path) -> Networks:
    """Train all three, or read them from `file`, where they are kept."""
    if not file.is_file():
        made = Networks(make_prior(digits), make_classifier(digits), make_classifier(digits, BUDGET, HARDENING))
        torch.save({name: network.state_dict() for name, network in made._asdict().items()}, file)
        return made
    states = torch.load(file, weights_only=True)
    blank = Networks(make_prior(digits, 1), _cnn().eval(), _cnn().eval())
    for name, network in blank._asdict().items():
        network.load_state_dict(states[name])
        network.requires_grad_(False)
    return blank


def make_purifiers(prior: Denoiser) -> dict[str, Purifier]:
    """The purifiers compared, at the reference settings in the prior's units."""
    known = {"prior": prior, "sigma": SIGMA, "data_range": RANGE}
    climb = {"learning_rate": RATE, **known}
    return {
        "one-shot": OneShot(**known),
        "DiffPure-style": DiffPure(**known, steps=20),
        "Purify++-style": PurifyPP(**known, steps=4),
        "ScoreOpt-O": ScoreOpt(**climb, jitter=0.1 * _TO_PRIOR),
        "ScoreOpt-N": ScoreOpt.n(**climb),
    }
