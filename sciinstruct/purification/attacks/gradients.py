"""What an attacker differentiates: four views of a purified model, and the loss of its expected prediction."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import SolverError
from sciinstruct.purification.base import NoGradientError
from sciinstruct.purification.model import PurifiedModel

View = Callable[[PurifiedModel, Tensor, torch.Generator], Tensor]
"""``view(model, image, generator) -> logits`` (B, K) with a graph to the image."""

Gradient = Literal["transfer", "bpda", "surrogate", "exact"]
Goal = Literal["cross_entropy", "margin"]


def transfer_view(model: PurifiedModel, image: Tensor, generator: torch.Generator) -> Tensor:
    """The bare classifier: the attacker does not know of the purifier. Never a headline number."""
    return model.classify(image)


def bpda_view(model: PurifiedModel, image: Tensor, generator: torch.Generator) -> Tensor:
    """Through the purifier forward, as if it were the identity backward (Athalye et al. 2018)."""
    purified = model.purifier.purify(image, generator=generator)
    return model.classify(image + (purified - image).detach())


def surrogate_view(model: PurifiedModel, image: Tensor, generator: torch.Generator) -> Tensor:
    """The purifier's cheap stand-in, forward and backward: for most one denoise."""
    return model.classify(model.purifier.surrogate(image, generator=generator))


def exact_view(model: PurifiedModel, image: Tensor, generator: torch.Generator) -> Tensor:
    """The whole purifier, every step of it, with the noise it draws."""
    return model.logits(image, generator=generator, differentiable=True)


VIEWS: dict[str, View] = {
    "transfer": transfer_view,
    "bpda": bpda_view,
    "surrogate": surrogate_view,
    "exact": exact_view,
}


def cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of the true class, (B, K) to (B,)."""
    return -log_probabilities.gather(1, labels[:, None])[:, 0]


def margin(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the likeliest other class minus that of the true one, (B,): positive if misclassified."""
    others = log_probabilities.scatter(1, labels[:, None], -math.inf)
    return others.amax(1) + cross_entropy(log_probabilities, labels)


GOALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "margin": margin}


class Ascent(NamedTuple):
    """The attacker's loss of the expected prediction and its slope."""

    loss: Tensor  # (B,)
    gradient: Tensor  # (B, C, H, W)


def mean_log_probabilities(logits: Tensor, draws: int) -> Tensor:
    """Log of the mean probability over the draws, (R B, K) with one draw after the other to (B, K)."""
    logs = logits.log_softmax(1).reshape(draws, -1, logits.shape[1])
    return logs.logsumexp(0) - math.log(draws)


def expected_ascent(
    model: PurifiedModel,
    image: Tensor,
    labels: Tensor,
    *,
    view: View,
    goal: Callable[[Tensor, Tensor], Tensor],
    draws: int,
    generator: torch.Generator,
) -> Ascent:
    """Loss of the mean probability over fresh draws, and its gradient in the image (expectation over transformation).

    Parameters
    ----------
    model : PurifiedModel
        Its parameters, and the prior's, get no gradients. At most ``model.max_batch`` copies go through together.
    image : Tensor, shape (B, C, H, W)
        In physical units.
    labels : Tensor, shape (B,)
        True classes.
    view, goal
        From `VIEWS` and `GOALS`.
    draws : int
        Draws per image.
    generator : torch.Generator
        Source of the purifier's noise.

    Returns
    -------
    Ascent

    Raises
    ------
    NoGradientError
        If the classifier gives no gradient.
    SolverError
        If the gradient is not finite.

    References
    ----------
    Athalye et al. 2018, "Synthesizing robust adversarial examples".
    """
    together = max(1, model.max_batch // draws)
    parts = []
    for some, classes in zip(image.split(together), labels.split(together)):
        leaf = some.detach().requires_grad_()
        with torch.enable_grad():
            logits = view(model, leaf.repeat(draws, 1, 1, 1), generator)
            loss = goal(mean_log_probabilities(logits, draws), classes)
        if not loss.requires_grad:
            raise NoGradientError(
                "the classifier gives no gradient to its input (no_grad, detach or numpy inside): only attacks without "
                "gradients can be run, use SquareSearch"
            )
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        parts.append(Ascent(loss.detach(), gradient))
    ascent = Ascent(*(torch.cat(column) for column in zip(*parts)))
    if not torch.isfinite(ascent.gradient).all():
        raise SolverError("the gradient through the purifier is NaN or infinite; use float64 or fewer steps")
    return ascent
