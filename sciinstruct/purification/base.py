"""What all purifiers share: the verb, the checks at the door, the units, the graph."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, PriorError, make_generator
from sciinstruct.core.checks import check_finite
from sciinstruct.diffusion.solvers import Generators, draw_noise

Seeds = Generators | int
"""One generator or seed for the batch, or one generator per image, which makes image i the same in any batch."""

_ROUNDING = 1e-5  # of the range's width: how far outside an image may lie that was computed in float32


class NoGradientError(ValueError):
    """A purifier or classifier cannot be differentiated: only attacks that ask for predictions alone are left."""


class Calls(NamedTuple):
    """What one purification costs per image, in evaluations of the denoiser."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Purifier(ABC):
    """Base of the purifiers: settings only, no state; ``purify(image)`` is the verb.

    Parameters
    ----------
    data_range : tuple of float, optional
        Smallest and largest value an image can have, in physical units. Given, images outside are refused and results
        are clipped to it; by default values are free.

    Raises
    ------
    ValueError
        If the range does not rise.
    """

    data_range: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.data_range is not None and not self.data_range[0] < self.data_range[1]:
            raise ValueError(f"data_range must rise, got {self.data_range}")

    @property
    @abstractmethod
    def calls(self) -> Calls:
        """What one purification costs."""

    @abstractmethod
    def _run(self, image: Tensor, generator: Generators, differentiable: bool) -> Tensor:
        """Purified images, unclipped; a graph is recorded exactly if `differentiable`."""

    def purify(self, image: Tensor, *, generator: Seeds = None, differentiable: bool = False) -> Tensor:
        """Move images towards what is likely, one fresh draw of the purifier's noise each.

        Parameters
        ----------
        image : Tensor, shape (B, C, H, W)
            In physical units. Not changed.
        generator : torch.Generator, int, or sequence of torch.Generator, optional
            Source of randomness, on the image's device; one per image makes image i the same in any batch.
        differentiable : bool
            Keep the graph from the result to `image`, through every step, also where the caller disabled gradients.
            Otherwise the result has none.

        Returns
        -------
        Tensor, shape (B, C, H, W)
            In physical units, dtype and device of `image`, inside `data_range`.

        Raises
        ------
        TypeError
            If `image` is no floating tensor.
        ValueError
            If it is no batch of images, holds NaN, lies outside `data_range`, or generators do not match the batch.
        PriorError
            If the prior knows another number of channels or another size.
        SolverError
            If the purifier itself turns NaN; the text names the step.
        """
        self.check(image)
        source = _source(generator, image)
        with torch.set_grad_enabled(differentiable):
            clean = self._run(image if differentiable else image.detach(), source, differentiable)
            return self._clip(clean.to(image.dtype))

    def surrogate(self, image: Tensor, *, generator: Seeds = None) -> Tensor:
        """Cheap stand-in with a gradient, for attacks: here the image itself; shape of `image`."""
        return image

    def check(self, image: Tensor) -> None:
        """Raise a clear error unless `image` is a batch this purifier can take."""
        if not isinstance(image, Tensor):
            raise TypeError(f"image must be a torch.Tensor, got {type(image).__name__}")
        if not image.is_floating_point():
            raise TypeError(f"image must be a real floating tensor, got {image.dtype}; convert it with .float()")
        if image.ndim != 4:
            raise ValueError(f"image must have shape (batch, channels, height, width), got {tuple(image.shape)}")
        check_finite("image", image)
        self._check_range(image)

    def _check_range(self, image: Tensor) -> None:
        if self.data_range is None or image.numel() == 0:
            return
        low, high = self.data_range
        slack = _ROUNDING * (high - low)
        least, most = float(image.detach().min()), float(image.detach().max())
        if least < low - slack or most > high + slack:
            raise ValueError(
                f"image must lie in data_range [{low:g}, {high:g}], its values go from {least:.4g} to {most:.4g}; "
                "rescale the images or give the range they have"
            )

    def _clip(self, image: Tensor) -> Tensor:
        return image if self.data_range is None else image.clamp(*self.data_range)


@dataclass(frozen=True)
class DenoiserPurifier(Purifier):
    """Base of the purifiers that ask a prior; subclasses write `_purify`, in the prior's units.

    Parameters
    ----------
    prior : Denoiser
        Only evaluated: its weights are never changed. A graph reaches them too if they are not frozen.
    sigma : float
        Noise level, in the prior's units.
    data_range : tuple of float, optional
        As `Purifier`.

    Raises
    ------
    TypeError
        If `prior` is no `Denoiser`.
    ValueError
        If `sigma` is outside the prior's range of noise levels.
    """

    prior: Denoiser
    sigma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.prior, Denoiser):
            raise TypeError(
                f"prior must be a Denoiser, got {type(self.prior).__name__}; wrap a network with sciinstruct.priors"
            )
        self._check_level("sigma", self.sigma)

    def _check_level(self, name: str, sigma: float) -> None:
        low, high = self.prior.sigma_range
        if not low <= sigma <= high:
            raise ValueError(f"{name} must lie in the prior's noise levels, {low:.3g} to {high:.3g}, got {sigma:.3g}")

    @abstractmethod
    def _purify(self, x: Tensor, generator: Generators, differentiable: bool) -> Tensor:
        """Purified images in the prior's units, from images in the prior's units."""

    def _run(self, image: Tensor, generator: Generators, differentiable: bool) -> Tensor:
        return self.prior.to_physical(self._purify(self.prior.from_physical(image), generator, differentiable))

    def surrogate(self, image: Tensor, *, generator: Seeds = None) -> Tensor:
        """One denoise of the image with noise of level `sigma` added, with its graph; shape of `image`."""
        self.check(image)
        with torch.enable_grad():
            clean = self._one_shot(self.prior.from_physical(image), _source(generator, image))
            return self._clip(self.prior.to_physical(clean).to(image.dtype))

    def _one_shot(self, x: Tensor, generator: Generators) -> Tensor:
        return self.prior.denoise(x + self.sigma * draw_noise(x, generator), self.sigma)

    def check(self, image: Tensor) -> None:
        """Raise a clear error unless `image` is a batch of the prior's images."""
        super().check(image)
        expected, got = tuple(self.prior.event_shape), tuple(image.shape[1:])
        if expected == got:
            return
        if len(expected) == 3 and expected[0] != got[0]:
            raise PriorError(
                f"image has {got[0]} channels but the prior knows images of {expected[0]}; purify each channel with a "
                "prior of one, or choose a prior of these channels"
            )
        raise PriorError(
            f"image has shape {got} but the prior makes images of shape {expected}; crop or resample the image, choose "
            "a prior of that size, or spread this one over the field with sciinstruct.priors.TiledPrior"
        )


def _source(generator: Seeds, image: Tensor) -> Generators:
    """Generators to draw from; a fresh one, never torch's global state, where none is given."""
    if isinstance(generator, Sequence):
        if len(generator) != len(image):
            raise ValueError(f"generator must be one, or one per image ({len(image)}), got {len(generator)}")
        return generator
    return make_generator(generator, image.device)
