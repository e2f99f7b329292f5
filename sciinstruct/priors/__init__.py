"""Diffusion priors: analytic, trained, wrapped, packaged."""

from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.base import Prior
from sciinstruct.priors.field import GaussianField, from_images, matern, power_law
from sciinstruct.priors.field_mixture import MixtureOfFields
from sciinstruct.priors.gaussian import GaussianPrior
from sciinstruct.priors.mixture import GaussianMixture, IsotropicMixture

__all__ = [
    "AnalyticPrior",
    "GaussianField",
    "GaussianMixture",
    "GaussianPrior",
    "IsotropicMixture",
    "MixtureOfFields",
    "Prior",
    "from_images",
    "matern",
    "power_law",
]
