"""Classifiers trained plainly, or against an attacker: the comparison that every purifier must stand."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from sciinstruct.core import SolverError, make_generator, track
from sciinstruct.purification.attacks.budget import Budget
from sciinstruct.purification.attacks.pgd import PGD
from sciinstruct.purification.choice import check_labels
from sciinstruct.purification.model import PurifiedModel
from sciinstruct.purification.simple import Identity

N = TypeVar("N", bound=nn.Module)
_ATTACK_STEPS, _ATTACK_STEP = 7, 0.3


def train_classifier(
    network: N,
    image: Tensor,
    labels: Tensor,
    *,
    budget: Budget | None = None,
    data_range: tuple[float, float] | None = None,
    steps: int = 600,
    batch: int = 64,
    learning_rate: float = 1e-3,
    generator: torch.Generator | int | None = None,
    progress: bool = False,
) -> N:
    """Train a classifier by cross-entropy; with a budget, on images attacked at every step.

    Parameters
    ----------
    network : nn.Module
        Maps (B, C, H, W) to logits (B, K). Changed in place.
    image : Tensor, shape (N, C, H, W)
        In physical units.
    labels : Tensor, shape (N,)
        Classes.
    budget : Budget, optional
        What the attacker may change, by default nothing. Seven steps of ascent per training step.
    data_range : tuple of float, optional
        Smallest and largest value of an attacked image.
    steps, batch : int
        Adam's steps, and images per step.
    learning_rate : float
        Adam's.
    generator : torch.Generator or int, optional
        Source of the batches and of the attacker's starts, on the images' device.
    progress : bool
        Show a bar.

    Returns
    -------
    nn.Module
        `network`, in eval mode and frozen.

    Raises
    ------
    TypeError, ValueError
        If images and labels do not fit.
    SolverError
        If the loss is not finite.

    References
    ----------
    Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks".
    """
    check_labels(image, labels)
    source = make_generator(generator, image.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    attack = None if budget is None else PGD(budget, steps=_ATTACK_STEPS, draws=1, step=_ATTACK_STEP)
    model = PurifiedModel(Identity(data_range=data_range), lambda x: network(x))  # as it is now, in any mode
    for step in track(range(steps), progress=progress, description="classifier"):
        some = torch.randint(0, len(image), (batch,), generator=source, device=image.device)
        shown, classes = image[some], labels[some]
        if attack is not None:
            network.eval()
            shown = attack.attack(model, shown, classes, generator=source).image
        network.train()
        loss = nn.functional.cross_entropy(network(shown), classes)
        if not torch.isfinite(loss):
            raise SolverError(f"the classifier's loss became NaN or infinite at step {step}; lower learning_rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)
