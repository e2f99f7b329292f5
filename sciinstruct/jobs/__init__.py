"""Whole jobs, from a file to a report: what the command line, the examples and a notebook call."""

from sciinstruct.jobs.calibration import CalibrationResult, calibrate_files, calibrate_solver
from sciinstruct.jobs.demo import demo
from sciinstruct.jobs.reconstruction import (
    JobResult,
    interferometry_problem,
    reconstruct_observation,
    reconstruct_uvfits,
)
from sciinstruct.jobs.training import train_from

__all__ = [
    "CalibrationResult",
    "JobResult",
    "calibrate_files",
    "calibrate_solver",
    "demo",
    "interferometry_problem",
    "reconstruct_observation",
    "reconstruct_uvfits",
    "train_from",
]
