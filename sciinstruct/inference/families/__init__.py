"""Variational laws for posterior matching."""

from sciinstruct.inference.families.base import ClosedFormFamily, Draw, Family
from sciinstruct.inference.families.configs import Generator, Law, Mixture, Particles
from sciinstruct.inference.families.mixture import FullGaussianMixture, GaussianMixtureFamily, LowRankGaussianMixture
from sciinstruct.inference.families.particles import GeneratorFamily, ParticleFamily

__all__ = [
    "ClosedFormFamily",
    "Draw",
    "Family",
    "FullGaussianMixture",
    "GaussianMixtureFamily",
    "LowRankGaussianMixture",
    "Generator",
    "GeneratorFamily",
    "Law",
    "Mixture",
    "ParticleFamily",
    "Particles",
]
