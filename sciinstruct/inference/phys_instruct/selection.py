"""Which state of a run to keep: measured on held-out true fields, guarded against fields that merely shrink."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import Denoiser
from sciinstruct.core.wasserstein import sliced_w2
from sciinstruct.inference.phys_instruct.generator import Network, draw_latents, generate
from sciinstruct.inference.phys_instruct.metrics import amplitude_ratio
from sciinstruct.operators.pde.equation import Equation
from sciinstruct.operators.pde.errors import pde_error

_FARTHEST = 1.5  # times the smallest distance of the run
_ALIKE = 1.05  # ratio of errors that says nothing
_AMPLITUDE = (0.95, 1.05)
_PROJECTIONS = 500
_ROWS = 128  # fields that go through the network together


class Measured(NamedTuple):
    """One evaluation; entry k - 1 of each tuple belongs to k calls."""

    step: int
    pde_error: tuple[float, ...]  # own-scale
    swd: tuple[float, ...]  # sliced Wasserstein-2 from the reference, in the teacher's units
    amplitude: tuple[float, ...]  # ratio of standard deviations to the reference's, of the channel furthest from one


class Examiner:
    """Measures a generator, always with the same latents and directions, so that states of a run compare.

    Parameters
    ----------
    teacher : Denoiser
        For its units.
    equation : Equation
    reference : Tensor, shape (n, *event_shape)
        True fields in physical units that nothing was trained on.
    levels : sequence of float
        Of the generator.
    samples, seed : int
        Fields per evaluation, and what draws them.
    """

    def __init__(
        self,
        teacher: Denoiser,
        equation: Equation,
        reference: Tensor,
        levels: tuple[float, ...],
        samples: int,
        seed: int,
    ) -> None:
        self.teacher, self.equation, self.levels, self.samples, self.seed = teacher, equation, levels, samples, seed
        self.reference = teacher.from_physical(reference).float()
        self.data_floor = pde_error(equation, reference)

    @property
    def swd_floor(self) -> float:
        """Distance between two halves of the reference: what is left for equal laws and half as many fields."""
        half = len(self.reference) // 2
        return self._swd(self.reference[:half], self.reference[half : 2 * half])

    def measure(self, network: Network, step: int) -> Measured:
        """Examine a generator as it stands."""
        rng = torch.Generator(self.reference.device).manual_seed(self.seed)
        k, shape = len(self.levels), self.reference.shape[1:]
        z, noise = draw_latents(self.samples, k, shape, rng, self.reference.device)
        with torch.no_grad():
            parts = [
                generate(network, k, z[i : i + _ROWS], noise[:, i : i + _ROWS], self.levels).prefixes
                for i in range(0, self.samples, _ROWS)
            ]
        return self.judge([torch.cat(prefix) for prefix in zip(*parts)], step)

    def judge(self, sets: Sequence[Tensor], step: int) -> Measured:
        """Measure sets of fields (n, *event_shape) in the teacher's units, one after the other."""
        errors, distances, amplitudes = zip(*map(self._row, sets))
        return Measured(step, errors, distances, amplitudes)

    def _row(self, x: Tensor) -> tuple[float, float, float]:
        physical = self.equation.impose_boundary(self.teacher.to_physical(x))
        x = self.teacher.from_physical(physical)
        ratio = amplitude_ratio(x, self.reference)
        worst = float(ratio[(ratio.log().abs()).argmax()])
        return pde_error(self.equation, physical), self._swd(x, self.reference), worst

    def _swd(self, a: Tensor, b: Tensor) -> float:
        rng = torch.Generator(a.device).manual_seed(self.seed)
        return float(sliced_w2(a, b, _PROJECTIONS, rng))


@dataclass
class Selection:
    """States that may still turn out the best: none is kept that another beats in both error and distance.

    Parameters
    ----------
    k : int
        Number of calls whose measurements decide.
    """

    k: int
    history: list[Measured] = field(default_factory=list)
    kept: dict[int, dict[str, Any]] = field(default_factory=dict)  # by step

    def add(self, measured: Measured, state: dict[str, Any]) -> None:
        """Take in an evaluation and the state it is of, and forget states that can no longer win."""
        self.history.append(measured)
        self.kept[measured.step] = state
        rows = {m.step: m for m in self.history if m.step in self.kept}
        least = self._least()
        for step, row in rows.items():
            beaten = any(self._beats(other, row) for other in rows.values())
            if beaten or not self._sound(row) or self._of(row.swd) > _FARTHEST * least:
                del self.kept[step]

    def best(self) -> tuple[Measured, dict[str, Any]] | None:
        """The lowest error among states near enough to the reference and of the right amplitude, or None.

        Of errors that differ by no more than 5 % the one nearest to the reference is taken. Warns if none qualifies.
        """
        rows = [m for m in self.history if m.step in self.kept]
        if rows:
            least = min(self._of(m.pde_error) for m in rows)
            alike = [m for m in rows if self._of(m.pde_error) <= _ALIKE * least]
            chosen = min(alike, key=lambda m: self._of(m.swd))
            return chosen, self.kept[chosen.step]
        if self.history:
            last = self.history[-1]
            warnings.warn(
                f"no state of the run passed the selection at k = {self.k} (amplitude ratio within {_AMPLITUDE}, "
                f"distance at most {_FARTHEST} times the least); the last is returned, with amplitude ratio "
                f"{self._of(last.amplitude):.3g}, distance {self._of(last.swd):.3g} and pde_error "
                f"{self._of(last.pde_error):.3g}. Lower lam or the learning rate",
                stacklevel=3,
            )
        return None

    def _of(self, values: tuple[float, ...]) -> float:
        return values[self.k - 1]

    def _least(self) -> float:
        return min(self._of(m.swd) for m in self.history)

    def _sound(self, m: Measured) -> bool:
        return _AMPLITUDE[0] <= self._of(m.amplitude) <= _AMPLITUDE[1]

    def _beats(self, a: Measured, b: Measured) -> bool:
        return (
            a.step != b.step
            and self._sound(a)
            and self._of(a.pde_error) <= self._of(b.pde_error)
            and self._of(a.swd) <= self._of(b.swd)
        )
