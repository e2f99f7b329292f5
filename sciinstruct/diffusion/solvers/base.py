"""What all diffusion solvers share: the call, the checks, the noise, the last denoise."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sciinstruct.core import Callback, SolverError, randn_like, track
from sciinstruct.diffusion.grids import check_sigmas

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma) -> D``: expectation of the clean batch; `sigma` is one float for the whole batch."""

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the batch, or one per sample, which makes sample i the same in any batch."""


def draw_noise(x: Tensor, generator: Generators) -> Tensor:
    """Draw standard normal noise like `x`, row i from generator i if a sequence is given."""
    if generator is None or isinstance(generator, torch.Generator):
        return randn_like(x, generator)
    return torch.stack([randn_like(row, g) for row, g in zip(x, generator, strict=True)])


@dataclass(frozen=True)
class DiffusionSolver(ABC):
    """Base of the solvers: hyper-parameters only, no state, so one solver serves many runs.

    A solver is called as ``solver(denoise, x, generator=g)``; subclasses write `path`.

    Parameters
    ----------
    sigmas : sequence of float or Tensor
        Noise levels, strictly falling, in units of x; see `sciinstruct.diffusion.grids`.
    denoise_final : bool
        End with ``D(x, sigmas[-1])``; otherwise the samples keep the noise of the last level.
    """

    sigmas: Sequence[float] | Tensor
    denoise_final: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", check_sigmas(self.sigmas))

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels as floats."""
        return tuple(self.sigmas)

    @property
    def steps(self) -> int:
        """Number of steps between levels."""
        return len(self.sigmas) - 1

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Calls of the denoiser one run costs."""

    @abstractmethod
    def path(self, denoise: Denoise, x: Tensor, noise: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield x at ``sigmas[1]``, ``sigmas[2]``, ..., unchecked and without the final denoise.

        Parameters
        ----------
        denoise, x
            As in the call.
        noise : callable
            ``noise() -> Tensor`` of x's shape, standard normal, asked once a step where the solver adds noise. With
            unit impulses instead, a linear denoiser's exact covariance can be read off without Monte Carlo.
        """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        *,
        generator: Generators = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Tensor:
        """Run from the largest noise level to the smallest.

        Parameters
        ----------
        denoise : callable
            ``denoise(x, sigma) -> Tensor`` of x's shape, the expectation of the clean batch; `sigma` is a float.
        x : Tensor, shape (B, ...)
            Start, already at the largest level: ``sigmas[0]`` times standard normal noise. Not changed.
        generator : torch.Generator or sequence of them, optional
            Noise of the stochastic solvers; one per sample makes sample i the same in any batch.
        progress : bool
            Show a bar.
        callback : callable, optional
            ``callback(step, info)`` after each step, `info` holds ``sigma`` and ``rms`` of x.

        Returns
        -------
        Tensor, shape of x
            In x's dtype and on its device; differentiable in x and in the denoiser's parameters unless under `no_grad`.

        Raises
        ------
        TypeError, ValueError
            If `x` is no finite floating batch, generators do not match the batch, or `denoise` changes the shape.
        SolverError
            If x stops being finite: the text says at which step.
        """
        _check_start(x, generator)
        checked = _checked(denoise)
        name, levels = type(self).__name__, self.levels
        path = self.path(checked, x, lambda: draw_noise(x, generator))
        for step, state in enumerate(track(path, progress=progress, description=name, total=self.steps), 1):
            x = state
            self._check_step(step, x)
            if callback is not None:
                callback(step, {"sigma": levels[step], "rms": float(x.detach().square().mean().sqrt())})
        return checked(x, levels[-1]) if self.denoise_final else x

    def _check_step(self, step: int, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise SolverError(
                f"{type(self).__name__}: x is not finite after step {step} of {self.steps} "
                f"(sigma = {self.levels[step]:.3g}); the denoiser returned NaN or too large values"
            )


def _check_start(x: Tensor, generator: Generators) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a real floating tensor (complex images as two channels), got {kind}")
    if x.ndim < 1 or not torch.isfinite(x).all():
        raise ValueError(f"x must be a finite batch (B, ...), got shape {tuple(x.shape)}, perhaps with NaN")
    if generator is not None and not isinstance(generator, torch.Generator) and len(generator) != len(x):
        raise ValueError(f"generator must be one torch.Generator or one per sample ({len(x)}), got {len(generator)}")


def _checked(denoise: Denoise) -> Denoise:
    """Wrap `denoise` so that an output of another shape is an error, not a silent broadcast."""

    def call(x: Tensor, sigma: float) -> Tensor:
        clean = denoise(x, sigma)
        if clean.shape != x.shape:
            raise ValueError(f"denoise must return the shape of x, {tuple(x.shape)}, got {tuple(clean.shape)}")
        return clean

    return call
