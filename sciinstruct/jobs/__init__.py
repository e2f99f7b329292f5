"""Whole jobs, from a file to a report: what the command line, the examples and a notebook call."""

from sciinstruct.jobs.calibration import CalibrationResult, calibrate_files, calibrate_solver
from sciinstruct.jobs.demo import demo
from sciinstruct.jobs.exposure import Exposure, expose
from sciinstruct.jobs.flowdiff_training import Microscope, train_flowdiff
from sciinstruct.jobs.microscopy import MicrographResult, reconstruct_micrograph
from sciinstruct.jobs.pde_training import held_out_fields, train_student, train_teacher
from sciinstruct.jobs.purification import FluxChange, PurifyResult, purify_files
from sciinstruct.jobs.reconstruction import (
    JobResult,
    interferometry_problem,
    reconstruct_observation,
    reconstruct_uvfits,
)
from sciinstruct.jobs.reconstructor_training import train_reconstructor
from sciinstruct.jobs.stack import StackResult, reconstruct_stack
from sciinstruct.jobs.stack_plane import plane_seed
from sciinstruct.jobs.surroundings import local_cluster
from sciinstruct.jobs.training import train_from

__all__ = [
    "CalibrationResult",
    "Exposure",
    "FluxChange",
    "JobResult",
    "MicrographResult",
    "Microscope",
    "PurifyResult",
    "StackResult",
    "calibrate_files",
    "calibrate_solver",
    "demo",
    "expose",
    "held_out_fields",
    "interferometry_problem",
    "local_cluster",
    "plane_seed",
    "purify_files",
    "reconstruct_micrograph",
    "reconstruct_observation",
    "reconstruct_stack",
    "reconstruct_uvfits",
    "train_flowdiff",
    "train_from",
    "train_reconstructor",
    "train_student",
    "train_teacher",
]
