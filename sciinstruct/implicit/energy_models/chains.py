"""Langevin chains: the slow way to draw from an energy, and the negatives of contrastive divergence."""

import torch
from torch import Tensor

from sciinstruct.core import randn_like
from sciinstruct.core.checks import check_positive
from sciinstruct.implicit.targets import Target


def langevin(target: Target, x: Tensor, *, steps: int, step: float, generator: torch.Generator) -> Tensor:
    r"""Take unadjusted Langevin steps, every row a chain: :math:`x \leftarrow x + \frac{h}{2} s(x) + \sqrt h\,\xi`.

    Parameters
    ----------
    target : Target
    x : Tensor, shape (B, dim)
        Starts; not changed.
    steps : int
    step : float
        h, in squared units of x; draws are wider than the target by a share of order h.
    generator : torch.Generator

    Returns
    -------
    Tensor, shape (B, dim)

    Raises
    ------
    ValueError
        If `steps` is negative or `step` not positive.
    """
    check_positive("step", step)
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    x = x.detach()
    for _ in range(steps):
        x = x + 0.5 * step * target.score(x) + step**0.5 * randn_like(x, generator)
    return x
