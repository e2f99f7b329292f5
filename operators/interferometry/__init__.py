"""Radio interferometry: observations, visibility operators, closure likelihoods."""

from sciinstruct.operators.interferometry.likelihood import InterferometryLikelihood
from sciinstruct.operators.interferometry.observation import Observation, ObservationSummary
from sciinstruct.operators.interferometry.visibility import VisibilityOperator

__all__ = [
    "InterferometryLikelihood",
    "Observation",
    "ObservationSummary",
    "VisibilityOperator",
]
