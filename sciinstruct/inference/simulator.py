"""Measurements in batches: what amortised inference needs of a likelihood, for many data sets at once."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sciinstruct.core import Likelihood, NoiseModel, Operator


class Simulator(nn.Module, ABC):
    """p(y | image) as a law one can draw from and evaluate, a different y for every image.

    Whatever changes from one measurement to the next (mask, noise level, point-spread function) belongs into y, so that
    networks see it.

    Attributes
    ----------
    domain_shape, range_shape : tuple of int
        Shape of one image and of one measurement.
    """

    domain_shape: tuple[int, ...]
    range_shape: tuple[int, ...]

    @abstractmethod
    def simulate(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw one measurement (B, *range_shape) per image (B, *domain_shape), in physical units."""

    @abstractmethod
    def log_prob(self, y: Tensor, image: Tensor) -> Tensor:
        """Log p(y_i | image_i), (B,), summed over the data; differentiable in the image."""


class OperatorSimulator(Simulator):
    """A fixed operator and noise model.

    Parameters
    ----------
    operator : Operator
        Maps images to predictions.
    noise : NoiseModel
        Law of the data given the prediction.
    """

    def __init__(self, operator: Operator, noise: NoiseModel) -> None:
        super().__init__()
        self.operator, self.noise = operator, noise
        self.domain_shape, self.range_shape = tuple(operator.domain_shape), tuple(operator.range_shape)

    def simulate(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise added to A(image)."""
        with torch.no_grad():
            return self.noise.sample(self.operator(image), generator)

    def log_prob(self, y: Tensor, image: Tensor) -> Tensor:
        """Log-density of the noise model around A(image)."""
        return self.noise.log_prob(y, self.operator(image))


def as_simulator(law: Simulator | Likelihood) -> Simulator:
    """Return simulators as they are; of a `Likelihood` take operator and noise, not its data.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(law, Simulator):
        return law
    if isinstance(law, Likelihood):
        return OperatorSimulator(law.operator, law.noise)
    raise TypeError(
        f"simulator must be a Simulator or a Likelihood, got {type(law).__name__}; subclass "
        "sciinstruct.inference.simulator.Simulator for likelihoods of another kind"
    )
