"""The distilled generator: samples in one call or a few, its law as a denoiser, its files."""

import os
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, PriorError, SolverError
from sciinstruct.core.checks import check_event
from sciinstruct.core.weights_folder import read_card, read_weights, write_folder
from sciinstruct.diffusion.edm import EDMPrecond, Precision
from sciinstruct.diffusion.unet import UNetConfig, make_unet
from sciinstruct.inference.phys_instruct.auxiliary import CallAuxiliary
from sciinstruct.inference.phys_instruct.generator import draw_latents, generate
from sciinstruct.inference.phys_instruct.push_forward import PushForward
from sciinstruct.inference.phys_instruct.selection import Measured
from sciinstruct.inference.phys_instruct.teacher import copy_of
from sciinstruct.operators.pde.equation import Equation
from sciinstruct.operators.pde.errors import pde_error
from sciinstruct.priors.network import Card, NetworkPrior

_WHAT = "a student"


class Student:
    """A generator of physical fields in k calls of one network, and what is known of it.

    Attributes
    ----------
    network : Denoiser
        The generator, frozen, in the teacher's units; `sciinstruct.inference.phys_instruct.generate` unrolls it.
    auxiliary : CallAuxiliary
        What was fitted to the generator's fields; `denoiser` takes from it the law after k calls.
    equation : Equation
        What the fields obey.
    levels : tuple of float
        Noise levels of the calls.
    card : dict
        Settings, what was measured of the state kept, floors of the true data, versions.
    curves : dict
        One value per iteration of the run that made it; empty for a loaded student.
    history : tuple of Measured
        What was measured along the run.
    """

    def __init__(
        self,
        network: Denoiser,
        auxiliary: CallAuxiliary,
        equation: Equation,
        levels: tuple[float, ...],
        card: dict[str, Any],
        curves: dict[str, list[float]] | None = None,
        history: tuple[Measured, ...] = (),
    ) -> None:
        self.network, self.auxiliary, self.equation = network, auxiliary, equation
        self.levels, self.card, self.curves, self.history = levels, card, curves or {}, history
        self._early = copy_of(network, next(network.parameters()).device, "auto", trainable=False)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one field."""
        return tuple(self.network.event_shape)

    def denoiser(self, k: int | None = None) -> Denoiser:
        """Denoiser of the student's samples after `k` calls (all, by default) at every noise level: a prior."""
        return self.auxiliary.after(len(self.levels) if k is None else k)

    def to_physical(self, x: Tensor) -> Tensor:
        """From the teacher's units to physical fields that meet the boundary condition."""
        return self.equation.impose_boundary(self.network.to_physical(x))

    def from_physical(self, field: Tensor) -> Tensor:
        """From physical fields to the teacher's units."""
        return self.network.from_physical(field)

    def sample(self, n: int, k: int = 1, *, generator: torch.Generator | None = None, batch: int = 256) -> Tensor:
        """Draw `n` physical fields, (n, *event_shape), with `k` calls of the network each.

        Field i depends on the generator alone, not on `batch`, the number of fields that go through the network
        together; the latents of fewer calls are the first of those of more. Where the processor is faster in bfloat16
        all calls but the last use it; the last is in float32 and takes the rounding off.
        """
        if n < 1 or batch < 1:
            raise ValueError(f"n and batch must be at least 1, got {n} and {batch}")
        device = next(self.network.parameters()).device
        z, noise = draw_latents(n, max(k, 1), self.event_shape, generator, device)
        with torch.no_grad():
            parts = [
                self.to_physical(self._generate(k, a, noise[:, i : i + batch]))
                for i, a in ((i, z[i : i + batch]) for i in range(0, n, batch))
            ]
        return torch.cat(parts)

    def _generate(self, k: int, z: Tensor, noise: Tensor) -> Tensor:
        early = self._early.to(z.device)
        return generate(self.network.denoise, k, z, noise, self.levels, early=early.denoise).x

    def push_forward(self, k: int, seed: int | None = None) -> PushForward:
        """The differentiable map from latents to physical fields, as an operator.

        Parameters
        ----------
        k : int
            Calls.
        seed : int, optional
            Fix the noise between the calls: the latent is then one field z, (*event_shape,), instead of z and the
            k - 1 noises, (k, *event_shape).
        """
        return PushForward(self.network, self.to_physical, k, self.levels, seed)

    def pde_error(self, k: int = 1, n: int = 1000, *, generator: torch.Generator | None = None) -> float:
        """Own-scale PDE error of `n` fields; ``card["data_floor"]`` is that of true data."""
        return pde_error(self.equation, self.sample(n, k, generator=generator))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights (float32 safetensors) and card into `folder`.

        Raises
        ------
        PriorError
            If the networks are not those of a `NetworkPrior`.
        OutputError
            If writing fails.
        """
        network, law = self.network, self.auxiliary.law
        if not (isinstance(network, NetworkPrior) and isinstance(law, NetworkPrior)):
            raise PriorError(
                f"only students of a NetworkPrior can be saved; the teacher was a {type(network).__name__}"
            )
        card = self.card | {
            "levels": list(self.levels),
            "equation": describe(self.equation),
            "teacher": asdict(network.card),
            "history": [m._asdict() for m in self.history],
        }
        write_folder(folder, torch.nn.ModuleDict({"generator": network, "auxiliary": self.auxiliary}), card, half=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], equation: Equation) -> "Student":
        """Read what `save` wrote.

        Parameters
        ----------
        equation : Equation
            The one the student was trained with.

        Raises
        ------
        SolverError
            If a file is missing, damaged, or of another kind.
        PriorError
            If `equation` differs from the card's, or the weights do not fit the card.
        """
        card = read_card(folder, _WHAT)
        if card.get("kind") != "student":
            raise SolverError(f"the card in {folder} is not one of a student")
        _check_equation(describe(equation), card["equation"])
        weights = read_weights(folder, card, _WHAT)
        network, auxiliary = _networks(card, weights)
        history = tuple(Measured(**_tuples(row)) for row in card.pop("history"))
        return cls(network, auxiliary, equation, tuple(card["levels"]), card, history=history)

    def check(self, field: Tensor) -> None:
        """Raise a clear error unless `field` is a batch of this student's fields."""
        check_event("field", field, self.event_shape)


def describe(equation: Equation) -> dict[str, Any]:
    """What tells one equation from another: name, grid, and every number and word it was built with."""
    named = {k: _plain(getattr(equation, k)) for k in ("name", "channels", "axes", "event_shape", "spacing", "scale")}
    own = {
        k: _plain(v)
        for k, v in vars(equation).items()
        if not k.startswith("_") and k != "training" and isinstance(v, int | float | str | bool | tuple)
    }
    return named | {"class": type(equation).__name__} | own


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}


def _check_equation(given: dict[str, Any], saved: dict[str, Any]) -> None:
    wrong = [
        f"{name} {given.get(name)} (the student's: {saved.get(name)})"
        for name in sorted(given.keys() | saved.keys())
        if given.get(name) != saved.get(name)
    ]
    if wrong:
        raise PriorError(f"the equation is not the one the student was trained with: {', '.join(wrong)}")


def _networks(card: dict[str, Any], weights: dict[str, Tensor]) -> tuple[NetworkPrior, CallAuxiliary]:
    """Generator and auxiliary denoiser as the card describes them, with `weights`."""
    learned = any("log_variance" in name for name in weights)

    def blank(precision: Precision) -> NetworkPrior:
        about = Card(**card["teacher"])
        network = make_unet(UNetConfig(**about.architecture))
        return NetworkPrior(EDMPrecond(network, about.sigma_data, precision=precision, learned_variance=learned), about)

    try:
        network, auxiliary = blank("float32"), CallAuxiliary(blank("auto"), len(card["levels"]))
        torch.nn.ModuleDict({"generator": network, "auxiliary": auxiliary}).load_state_dict(weights)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise PriorError(f"the student's weights do not fit its card: {str(error).splitlines()[0]}") from error
    return network, auxiliary.requires_grad_(False)
