"""Radio interferometry: observations, visibility operators, closure likelihoods."""

from sciinstruct.operators.interferometry.arrays import StationArray, benchmark9, eht2017
from sciinstruct.operators.interferometry.closures import count_closures, triangle_phases
from sciinstruct.operators.interferometry.fits import (
    SkyFrame,
    SkyImages,
    read_image_fits,
    write_image_fits,
    write_posterior_fits,
)
from sciinstruct.operators.interferometry.gains import (
    GainFit,
    GainVisibilityTerm,
    apply_gains,
    fit_gains,
    self_calibrate,
)
from sciinstruct.operators.interferometry.inversebench import inversebench_metrics
from sciinstruct.operators.interferometry.likelihood import InterferometryLikelihood
from sciinstruct.operators.interferometry.metrics import align, blur, match, nxcorr, shift_image
from sciinstruct.operators.interferometry.observation import Observation, ObservationSummary
from sciinstruct.operators.interferometry.ring import RingParameters, extract_ring
from sciinstruct.operators.interferometry.ring_summary import RingSummary, summarise_rings
from sciinstruct.operators.interferometry.rml import Entropy, GaussianField
from sciinstruct.operators.interferometry.simulation import (
    GainModel,
    Gains,
    Schedule,
    SimulatedObservation,
    plan_benchmark9,
    plan_observation,
    simulate_observation,
)
from sciinstruct.operators.interferometry.sources import Disc, Gaussian, MRing, Source, crescent
from sciinstruct.operators.interferometry.uvfits import read_uvfits, read_uvfits_bands
from sciinstruct.operators.interferometry.uvfits_writer import write_uvfits
from sciinstruct.operators.interferometry.visibility import VisibilityOperator

__all__ = [
    "Disc",
    "Entropy",
    "GainFit",
    "GainModel",
    "GainVisibilityTerm",
    "Gains",
    "Gaussian",
    "GaussianField",
    "InterferometryLikelihood",
    "MRing",
    "Observation",
    "ObservationSummary",
    "RingParameters",
    "RingSummary",
    "Schedule",
    "SimulatedObservation",
    "SkyFrame",
    "SkyImages",
    "Source",
    "StationArray",
    "VisibilityOperator",
    "align",
    "apply_gains",
    "benchmark9",
    "blur",
    "count_closures",
    "crescent",
    "eht2017",
    "extract_ring",
    "fit_gains",
    "inversebench_metrics",
    "match",
    "nxcorr",
    "plan_benchmark9",
    "plan_observation",
    "read_image_fits",
    "read_uvfits",
    "read_uvfits_bands",
    "self_calibrate",
    "shift_image",
    "simulate_observation",
    "summarise_rings",
    "triangle_phases",
    "write_image_fits",
    "write_posterior_fits",
    "write_uvfits",
]
