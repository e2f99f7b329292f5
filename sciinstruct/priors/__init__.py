"""Diffusion priors: analytic, trained, wrapped, packaged."""

from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.base import Prior
from sciinstruct.priors.exact import ExactPosterior, exact_posterior
from sciinstruct.priors.field import GaussianField, from_images, matern, power_law
from sciinstruct.priors.field_mixture import MixtureOfFields
from sciinstruct.priors.gaussian import GaussianPrior
from sciinstruct.priors.mixture import GaussianMixture, IsotropicMixture
from sciinstruct.priors.network import Card, NetworkPrior
from sciinstruct.priors.tiled import TiledPrior
from sciinstruct.priors.train import train_prior
from sciinstruct.priors.wrappers import DenoiserPrior, EpsPrior, FlowPrior, ScorePrior, VPrior, from_diffusers
from sciinstruct.priors.zoo import available, card, load

__all__ = [
    "AnalyticPrior",
    "Card",
    "DenoiserPrior",
    "EpsPrior",
    "ExactPosterior",
    "FlowPrior",
    "GaussianField",
    "GaussianMixture",
    "GaussianPrior",
    "IsotropicMixture",
    "MixtureOfFields",
    "NetworkPrior",
    "Prior",
    "ScorePrior",
    "TiledPrior",
    "VPrior",
    "available",
    "card",
    "exact_posterior",
    "from_diffusers",
    "from_images",
    "load",
    "matern",
    "power_law",
    "train_prior",
]
