"""Radio interferometry: observations, visibility operators, closure likelihoods."""

from sciinstruct.operators.interferometry.arrays import StationArray, benchmark9, eht2017
from sciinstruct.operators.interferometry.likelihood import InterferometryLikelihood
from sciinstruct.operators.interferometry.observation import Observation, ObservationSummary
from sciinstruct.operators.interferometry.simulation import (
    GainModel,
    Gains,
    Schedule,
    SimulatedObservation,
    plan_benchmark9,
    plan_observation,
    simulate_observation,
)
from sciinstruct.operators.interferometry.uvfits import read_uvfits, read_uvfits_bands
from sciinstruct.operators.interferometry.uvfits_writer import write_uvfits
from sciinstruct.operators.interferometry.visibility import VisibilityOperator

__all__ = [
    "GainModel",
    "Gains",
    "InterferometryLikelihood",
    "Observation",
    "ObservationSummary",
    "Schedule",
    "SimulatedObservation",
    "StationArray",
    "VisibilityOperator",
    "benchmark9",
    "eht2017",
    "plan_benchmark9",
    "plan_observation",
    "read_uvfits",
    "read_uvfits_bands",
    "simulate_observation",
    "write_uvfits",
]
