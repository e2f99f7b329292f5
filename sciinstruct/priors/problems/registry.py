"""Every exact problem by name."""

from collections.abc import Callable
from functools import partial

from sciinstruct.priors.problems.base import ExactProblem
from sciinstruct.priors.problems.fields import INSTRUMENTS, gaussian_problem, mixture_problem
from sciinstruct.priors.problems.nonlinear import closure_phases, phase_retrieval
from sciinstruct.priors.problems.plane import mixture_2d

PROBLEMS: dict[str, Callable[[int], ExactProblem]] = {
    "2-D mixture": mixture_2d,
    "phase retrieval": phase_retrieval,
    "closure phases": closure_phases,
    **{f"{side}x{side} {kind}": partial(mixture_problem, kind, side) for side in (16, 32, 64) for kind in INSTRUMENTS},
    **{
        f"{side}x{side} Gaussian {kind}": partial(gaussian_problem, kind, side)
        for side in (32, 64)
        for kind in INSTRUMENTS
    },
}
"""Problem name -> maker, a function of the seed: truths, data and instruments of two seeds are independent."""


def make_problem(name: str, seed: int = 0) -> ExactProblem:
    """Make one problem of `PROBLEMS`.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in PROBLEMS:
        raise ValueError(f"no problem named {name!r}; there are: {', '.join(PROBLEMS)}")
    return PROBLEMS[name](seed)
