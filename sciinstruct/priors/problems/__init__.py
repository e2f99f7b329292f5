"""Inverse problems whose posterior is known exactly: the rulers of the benchmarks and of the calibration tests.

Truths, instruments and data are drawn from a seed, so a study is a loop over seeds and its truths come from the prior:
averaged over seeds, an exact posterior covers them at every level. `PROBLEMS` holds all makers by name.
"""

from sciinstruct.priors.problems.base import ExactProblem, MatrixOperator, mode_labels, mode_shares
from sciinstruct.priors.problems.fields import (
    FIELD_KINDS,
    INSTRUMENTS,
    bump_fields,
    fields_16,
    gaussian_field,
    gaussian_problem,
    mixture_problem,
)
from sciinstruct.priors.problems.grid import GridPosterior
from sciinstruct.priors.problems.nonlinear import BinaryClosurePhases, Magnitudes, closure_phases, phase_retrieval
from sciinstruct.priors.problems.plane import mixture_2d, reference_mixture
from sciinstruct.priors.problems.registry import PROBLEMS, make_problem

__all__ = [
    "FIELD_KINDS",
    "INSTRUMENTS",
    "PROBLEMS",
    "BinaryClosurePhases",
    "ExactProblem",
    "GridPosterior",
    "Magnitudes",
    "MatrixOperator",
    "bump_fields",
    "closure_phases",
    "fields_16",
    "gaussian_field",
    "gaussian_problem",
    "make_problem",
    "mixture_2d",
    "mixture_problem",
    "mode_labels",
    "mode_shares",
    "phase_retrieval",
    "reference_mixture",
]
