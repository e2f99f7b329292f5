"""Whole jobs, from a file to a report: what the command line, the examples and a notebook call."""

from sciinstruct.jobs.demo import demo
from sciinstruct.jobs.reconstruction import (
    JobResult,
    interferometry_problem,
    reconstruct_observation,
    reconstruct_uvfits,
)
from sciinstruct.jobs.training import train_from

__all__ = [
    "JobResult",
    "demo",
    "interferometry_problem",
    "reconstruct_observation",
    "reconstruct_uvfits",
    "train_from",
]
