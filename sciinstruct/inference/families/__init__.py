"""Variational laws for posterior matching."""

from sciinstruct.inference.families.base import ClosedFormFamily, Draw, Family
from sciinstruct.inference.families.configs import Mixture
from sciinstruct.inference.families.mixture import FullGaussianMixture, GaussianMixtureFamily, LowRankGaussianMixture

__all__ = [
    "ClosedFormFamily",
    "Draw",
    "Family",
    "FullGaussianMixture",
    "GaussianMixtureFamily",
    "LowRankGaussianMixture",
    "Mixture",
]
