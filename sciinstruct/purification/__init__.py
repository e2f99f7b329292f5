"""Purification: images moved to where a prior puts its mass, before a frozen model sees them.

A stress test and a repair of structured artefacts, not a guarantee: an attacker who knows the purifier takes most of
its robustness away, and what is rare is moved to what is common.
"""

from sciinstruct.purification.base import Calls, DenoiserPurifier, NoGradientError, Purifier
from sciinstruct.purification.choice import CleanCost, SigmaChoice, choose_sigma
from sciinstruct.purification.diffused import DiffPure, Diffused, PurifyPP
from sciinstruct.purification.evaluation import describe, evaluate
from sciinstruct.purification.filters import Filter, MedianFilter, TotalVariation, Wavelet
from sciinstruct.purification.model import Classifier, Outcome, Predictions, PurifiedModel
from sciinstruct.purification.protocol import Protocol
from sciinstruct.purification.score_opt import ScoreOpt, optimise_image
from sciinstruct.purification.simple import GRADUAL_TIMES, Identity, NoiseOnly, OneShot, Rounds
from sciinstruct.purification.small_prior import train_small_prior
from sciinstruct.purification.training import train_classifier

__all__ = [
    "GRADUAL_TIMES",
    "Calls",
    "Classifier",
    "CleanCost",
    "DenoiserPurifier",
    "DiffPure",
    "Diffused",
    "Filter",
    "Identity",
    "MedianFilter",
    "NoGradientError",
    "NoiseOnly",
    "OneShot",
    "Outcome",
    "Predictions",
    "Protocol",
    "PurifiedModel",
    "Purifier",
    "PurifyPP",
    "Rounds",
    "ScoreOpt",
    "SigmaChoice",
    "TotalVariation",
    "Wavelet",
    "choose_sigma",
    "describe",
    "evaluate",
    "optimise_image",
    "train_classifier",
    "train_small_prior",
]
