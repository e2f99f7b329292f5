"""From an equation's name to a diffusion prior of its fields, and from that to a generator of a few calls."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core import PriorError
from sciinstruct.jobs.surroundings import usable_device, writable_folder

if TYPE_CHECKING:
    from sciinstruct.inference.phys_instruct import PhysInstruct, Student
    from sciinstruct.operators.pde import Equation
    from sciinstruct.priors.network import Card, NetworkPrior

_SELF_TEST = 64  # true fields the equation is tried on before training
_REFERENCE, _HELD_OUT = 10**9, 2 * 10**9  # added to a teacher's seed; torch takes seeds modulo 2**32
_LIMITS = [
    "generated fields solve the equation roughly: see the PDE error of its samples beside that of true fields",
    "knows one law of coefficients, one grid and one set of parameters; others are outside it",
]


def train_teacher(
    pde: str,
    out: str | os.PathLike[str],
    *,
    npix: int = 32,
    parameters: Mapping[str, Any] | None = None,
    steps: int = 8000,
    n_samples: int = 20000,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    resume: bool = False,
    command: str = "",
) -> "NetworkPrior":
    """Simulate solved fields of an equation, train a diffusion prior on them, and save it in `out`.

    Noise levels go down to 0.004 of the fields' spread: the residual of an equation sees fine detail.

    Parameters
    ----------
    pde : str
        ``"burgers"``, ``"darcy"``, ``"helmholtz"``, ``"navier-stokes"`` or ``"poisson"``.
    out : path
        Folder for weights, card and checkpoint; made if missing.
    npix : int
        Nodes on a side, a multiple of 8.
    parameters : mapping, optional
        Of the equation's class besides its size, e.g. ``{"viscosity": 0.02}``.
    steps, seed : int
        Length and seed of the run.
    n_samples : int
        Fields to simulate.
    device : str
        As torch names it.
    progress : bool
        Show progress bars.
    resume : bool
        Go on from the checkpoint in `out`. False: start afresh.
    command : str
        What the card says remakes the prior.

    Returns
    -------
    NetworkPrior
        Of complete fields, one unit per channel. `sciinstruct.inference.phys_instruct.equation_from_card` rebuilds the
        equation from its card.

    Raises
    ------
    ValueError
        If there is no such equation, it does not take the parameters, or `npix` is not a multiple of 8.
    EquationError
        If the equation does not know its own data: on too coarse a grid, for instance.
    PriorError
        If the checkpoint is of another run.
    OutputError
        If `out` cannot be written.
    """
    from sciinstruct.datasets.pde import FieldFrame
    from sciinstruct.diffusion import UNetConfig
    from sciinstruct.diffusion.edm import NoiseLevels
    from sciinstruct.diffusion.training import PriorTraining
    from sciinstruct.operators.pde.named import all_parameters, make_equation, square
    from sciinstruct.priors.train import train_prior

    told = all_parameters(pde, **{**square(pde, npix), **(parameters or {})})
    equation = make_equation(pde, **told)
    channels, height, width = equation.event_shape
    if height % 8 or width % 8:
        raise ValueError(f"npix must be a multiple of 8: the network halves fields three times, got {height} x {width}")
    folder, where = writable_folder(out), usable_device(device)
    fields, scale = _fields(equation, n_samples, seed, progress)
    periodic = FieldFrame.of(equation).boundary == "periodic" and equation.axes[0] != "t"
    return train_prior(
        fields,
        PriorTraining(
            steps=steps,
            seed=seed,
            lr=2e-3,
            warmup=200,
            ema=0.9993,
            levels=NoiseLevels(sigma_min=0.002, sigma_max=80.0),  # 4 % below 0.01, where a lognormal alone has 0.2 %
        ),
        folder,
        network=UNetConfig(
            in_channels=channels,
            out_channels=channels,
            channels=32,
            multipliers=(1, 2, 2, 2),
            periodic=periodic,
            positions=periodic,  # a force may be fixed in space
        ),
        per_channel=True,
        about={
            "name": folder.name,
            "description": f"Fields {', '.join(equation.channels)} of the {pde} equation on {height} x {width} nodes",
            "data": f"{n_samples} simulated fields, seed {seed}",
            "licence": "BSD-3-Clause",
            "units": "the equation's",
            "pixel": {"equation": pde, "parameters": told, "scale": scale},
            "command": command,
            "limits": list(_LIMITS),
        },
        device=where,
        resume=resume,
        progress=progress,
    )


def _fields(equation: "Equation", n: int, seed: int, progress: bool) -> tuple[Tensor, float]:
    """True fields (n, *event_shape), float32, that have passed the self-test, and the rms of their magnitude."""
    from sciinstruct.datasets.pde import simulate_pairs
    from sciinstruct.operators.pde import magnitude_rms

    fields = simulate_pairs(equation, n, generator=torch.Generator().manual_seed(seed), progress=progress)
    equation.self_test(fields[:_SELF_TEST])
    return fields, magnitude_rms(equation, fields[:1024])


def train_student(
    teacher: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: "PhysInstruct | None" = None,
    *,
    pde: str | None = None,
    n_reference: int = 1024,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    resume: bool = False,
    command: str = "",
) -> "Student":
    """Distil a teacher into a generator of a few calls that obeys its equation, and save it in `out`.

    Parameters
    ----------
    teacher : str or path
        A packaged teacher (``"burgers-32"``) or a folder that `train_teacher` wrote; its card gives the equation.
    out : path
        Folder for weights, card and checkpoint; made if missing.
    settings : PhysInstruct, optional
        Of the distillation.
    pde : str, optional
        The equation expected of the teacher; another is refused.
    n_reference : int
        Fields to simulate, none of which the teacher has seen; the state to keep is chosen with them.
    seed, device, progress, resume, command
        As of `train_teacher`.

    Returns
    -------
    Student
        `sciinstruct.inference.phys_instruct.load_student` reads it back.

    Raises
    ------
    PriorError
        If there is no such teacher, it is none, or it is one of another equation.
    SolverError
        If a loss is not finite, or the checkpoint is of another run.
    OutputError
        If `out` cannot be written.
    """
    from sciinstruct.inference.phys_instruct import PhysInstruct, equation_from_card
    from sciinstruct.priors import zoo

    prior = zoo.load(teacher, precision="float32")
    equation = equation_from_card(prior.card)
    if pde not in (None, equation.name):
        raise PriorError(f"the teacher {prior.card.name!r} is one of {equation.name}, not of {pde}")
    folder, where = writable_folder(out), usable_device(device)
    reference = _other_fields(prior.card, n_reference, _REFERENCE, progress)
    state = folder / "training.pt"
    student = (settings or PhysInstruct()).train(
        prior,
        equation,
        reference.to(where),
        generator=torch.Generator(where).manual_seed(seed),
        progress=progress,
        checkpoint=state,
        resume=resume and state.is_file(),
        device=where,
    )
    student.card |= {"name": folder.name, "seed": seed, "reference": n_reference, "command": command}
    student.save(folder)
    return student


def held_out_fields(card: "Card", n: int, *, progress: bool = False) -> Tensor:
    """`n` true fields of a teacher's equation, (n, *event_shape), float32, that neither it nor its students have seen.

    Raises
    ------
    PriorError
        If the card is not one of a teacher.
    """
    return _other_fields(card, n, _HELD_OUT, progress)


def _other_fields(card: "Card", n: int, away: int, progress: bool) -> Tensor:
    """Fields of the teacher's law from a seed that far from its own."""
    from sciinstruct.datasets.pde import simulate_pairs
    from sciinstruct.inference.phys_instruct import equation_from_card

    rng = torch.Generator().manual_seed(card.seed + away)
    return simulate_pairs(equation_from_card(card), n, generator=rng, progress=progress)
