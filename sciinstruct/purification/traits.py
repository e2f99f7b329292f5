"""What a purified model lets an attacker do, found by trying."""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import make_generator
from sciinstruct.purification.attacks.gradients import VIEWS, expected_ascent, margin
from sciinstruct.purification.base import NoGradientError
from sciinstruct.purification.model import PurifiedModel

_PROBED, _DRAWS = 8, 4
_SEED, _OTHER_SEED = 0, 1


class Traits(NamedTuple):
    """What a few images show of a model."""

    classes: int
    random: bool  # two purifications of an image differ
    changes: bool  # the purifier is not the identity
    classifier_gradient: bool  # the bare classifier has a gradient that is not zero
    purifier_gradient: bool  # so has the whole pipeline
    likeness: float  # cosine of the exact gradient with that of an identity in the purifier's place; 0 if unknown


def probe(model: PurifiedModel, image: Tensor, labels: Tensor) -> Traits:
    """Try a purified model on the first few of `image` (B, C, H, W) with classes `labels` (B,)."""
    some, classes = image[:_PROBED].detach(), labels[:_PROBED]
    first, second = (
        model.purifier.purify(some, generator=make_generator(s, some.device)) for s in (_SEED, _OTHER_SEED)
    )
    bare = _gradient(model, some, classes, "transfer")
    whole = _gradient(model, some, classes, "exact") if bare is not None else None
    likeness = 0.0
    if whole is not None:
        bent = _gradient(model, some, classes, "bpda")
        if bent is not None:
            likeness = float(torch.nn.functional.cosine_similarity(whole.flatten(1), bent.flatten(1)).mean())
    with torch.no_grad():
        number = model.classify(first).shape[1]
    return Traits(
        number,
        not torch.equal(first, second),
        not torch.equal(first, some),
        bare is not None,
        whole is not None,
        likeness,
    )


def _gradient(model: PurifiedModel, image: Tensor, labels: Tensor, view: str) -> Tensor | None:
    """Gradient of the expected margin, (B, C, H, W); None if there is none, or it is zero."""
    noise = make_generator(_SEED, image.device)
    try:
        found = expected_ascent(
            model, image, labels, view=VIEWS[view], goal=margin, draws=_DRAWS, generator=noise
        ).gradient
    except NoGradientError:
        return None
    return found if bool((found != 0).any()) else None
