"""A network as an energy, held together by a broad Gaussian."""

import math
import os
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import SolverError
from sciinstruct.core.checks import check_positive
from sciinstruct.core.weights_folder import read_card, read_weights, write_folder
from sciinstruct.implicit.networks import mlp
from sciinstruct.implicit.targets import Target

_WHAT = "an energy model"
_GAIN = 3.0  # of the network's inputs: smooth networks learn structure finer than their inputs' spread very late


class EnergyModel(Target):
    r"""Density :math:`q(x) \propto e^{-E(x)}` with :math:`E(x) = f(3z) + |z|^2 / (2 w^2)`, z = (x - centre)/scale.

    The Gaussian of width w, in units of the data's spread, keeps the normaliser finite: f grows linearly at most.

    Parameters
    ----------
    event_shape : tuple of int
        Of one datum; points of the target are flattened.
    width, depth : int
        Hidden units and layers of f, a multilayer perceptron with smooth activations.
    centre : float or Tensor
        Of the data, per coordinate or one number.
    scale : float
        Of the data.
    hold : float
        w.
    name : str

    Raises
    ------
    ValueError
        If scale or hold is not positive, or depth is 0.
    """

    centre: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 3,
        centre: float | Tensor = 0.0,
        scale: float = 1.0,
        hold: float = 3.0,
        name: str = "energy model",
    ) -> None:
        super().__init__(math.prod(event_shape), name)
        check_positive("scale", scale)
        check_positive("hold", hold)
        if depth < 1 or width < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        self.event_shape, self.scale, self.hold = tuple(event_shape), float(scale), float(hold)
        self.width, self.depth = width, depth
        self.net = mlp(self.dim, 1, width, depth)
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).flatten().expand(self.dim).clone())

    def energy(self, x: Tensor) -> Tensor:
        """Energy (B,) of points (B, dim) or (B, *event_shape), in their dtype."""
        z = (x.reshape(len(x), self.dim).to(self.centre) - self.centre) / self.scale
        return (self.net(_GAIN * z)[:, 0] + 0.5 * (z / self.hold).square().sum(1)).to(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Minus the energy."""
        return -self.energy(x)

    def base_draws(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws (n, dim) of a Gaussian of the data's centre and scale: where chains without data begin."""
        z = torch.randn(n, self.dim, generator=generator, dtype=self.centre.dtype, device=self.centre.device)
        return self.centre + self.scale * z

    def constrain(self, u: Tensor) -> Tensor:
        """Points in the shape of the data."""
        return u.reshape(len(u), *self.event_shape)

    def unconstrain(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        """Inverse of `constrain`."""
        return super().unconstrain(x).reshape(len(x), self.dim)

    def save(self, folder: str | os.PathLike[str], card: dict[str, Any] | None = None) -> None:
        """Write weights and card into `folder`; `card` adds to what it says.

        Raises
        ------
        SolverError
            If a weight is not finite.
        OutputError
            If writing fails.
        """
        keys = ("event_shape", "width", "depth", "scale", "hold", "name")
        architecture = {k: getattr(self, k) for k in keys}
        write_folder(folder, self, {**(card or {}), "kind": "energy model", "architecture": architecture}, half=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "EnergyModel":
        """Read what `save` wrote; raises SolverError if it is missing, damaged or something else."""
        card = read_card(folder, _WHAT)
        if card.get("kind") != "energy model":
            raise SolverError(f"the card in {folder} is not one of {_WHAT}")
        settings = dict(card["architecture"])
        model = cls(tuple(settings.pop("event_shape")), **settings)
        try:
            model.load_state_dict(read_weights(folder, card, _WHAT))
        except RuntimeError as error:
            raise SolverError(f"the weights in {folder} do not fit: {str(error).splitlines()[0]}") from error
        return model.requires_grad_(False).eval()
