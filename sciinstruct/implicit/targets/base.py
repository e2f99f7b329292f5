"""What a sampler is trained on: a log density up to a constant, on all of R^d, and its gradient."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Target(nn.Module, ABC):
    """An unnormalised density of points in R^d.

    A density on a constrained set is seen through a bijection from R^d, Jacobian included: `log_prob` and `score` are
    of the unconstrained coordinates u, `constrain` maps them to the parameters x. For a density on R^d both are one.

    Parameters
    ----------
    dim : int
        Unconstrained coordinates.
    name : str
        How reports call it.

    Attributes
    ----------
    log_normalizer : float or None
        Log of the integral of exp(log_prob), where it is known.
    modes, mode_weights : Tensor or None
        Centres (K, dim) and weights (K,) of separate modes, where they are known.
    exact : bool
        Whether `sample` gives exact draws.
    names : tuple of str or None
        Of the parameters, in the order of `constrain`, where they have any.
    """

    exact: bool = False
    names: tuple[str, ...] | None = None

    def __init__(self, dim: int, name: str) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim, self.name = dim, name
        self.log_normalizer: float | None = None
        self.modes: Tensor | None = None
        self.mode_weights: Tensor | None = None

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of the unconstrained coordinates up to a constant, (B, dim) -> (B,), row by row."""

    def score(self, x: Tensor, *, create_graph: bool = False) -> Tensor:
        """Gradient of `log_prob`, (B, dim); with a graph to `x` if `create_graph`.

        Raises
        ------
        ValueError
            If `log_prob` has no gradient, or, with `create_graph`, no second one.
        """
        with torch.enable_grad():
            leaf = x if create_graph and x.requires_grad else x.detach().requires_grad_(True)
            value = self.log_prob(leaf)
            if not value.requires_grad:
                raise ValueError(
                    f"log_prob of {self.name!r} has no gradient in x (numpy, no_grad or detach inside): "
                    "write it with differentiable torch functions"
                )
            return torch.autograd.grad(value.sum(), leaf, create_graph=create_graph)[0]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of the unconstrained coordinates, (n, dim), where ``exact`` is true."""
        raise NotImplementedError(f"target {self.name!r} has no exact draws; use tempered_smc or long chains instead")

    def constrain(self, u: Tensor) -> Tensor | dict[str, Tensor]:
        """Parameters of unconstrained coordinates."""
        return u

    def unconstrain(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        """Inverse of `constrain`."""
        if not isinstance(x, Tensor):
            raise TypeError(f"target {self.name!r} takes a tensor, got {type(x).__name__}")
        return x


def set_modes(target: Target, modes: Tensor, weights: Sequence[float] | Tensor) -> None:
    """Note the separate modes of a target."""
    target.modes = modes
    target.mode_weights = torch.as_tensor(weights, dtype=modes.dtype)
