"""Radio interferometry: observations, visibility operators, closure likelihoods."""

from sciinstruct.operators.interferometry.observation import Observation, ObservationSummary

__all__ = [
    "Observation",
    "ObservationSummary",
]
