"""What a variational law must offer to posterior matching."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Draw(NamedTuple):
    """Draws from a variational law, one group per noise level."""

    x0: Tensor  # (G, M, *event), graph to the law's parameters kept
    weight: Tensor  # (M,), what each draw of a group counts, sums to 1
    component: Tensor  # (M,), int64, index of the mixture component (0 where there is one)


class Family(nn.Module, ABC):
    """A law q of images that can be drawn from with gradients to its parameters.

    Attributes
    ----------
    event_shape : tuple of int
        Shape of one image.
    n_components : int
        Components whose weights are estimated; 1 for laws without.
    """

    event_shape: tuple[int, ...]
    n_components: int = 1

    @property
    def dim(self) -> int:
        """Numbers in one image."""
        return torch.Size(self.event_shape).numel()

    @abstractmethod
    def draw(self, groups: int, per_group: int, generator: torch.Generator | None) -> Draw:
        """Reparameterised draws: `groups` times at least `per_group` images, every component in every group."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Equally weighted images (n, *event_shape)."""

    @property
    def weights(self) -> Tensor:
        """Component weights, (n_components,)."""
        return torch.ones(1)

    def rescale(self, gradient: Tensor) -> Tensor:
        """Precondition a parameter's gradient; mixtures undo each component's weight, so that light ones learn too."""
        return gradient


class ClosedFormFamily(Family):
    """A law whose diffused score is known exactly: no auxiliary network."""

    @abstractmethod
    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Noise prediction of the diffused law; `x` (G, M, *event), `sigma` (G,); differentiable in everything."""

    @abstractmethod
    def update_weights(self, cost: Tensor, rate: float) -> None:
        """Mirror-descent step on the component weights against the per-component cost (n_components,), in nats."""
