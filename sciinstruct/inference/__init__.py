"""Posterior inference: principled posterior matching, and the methods it is compared with."""

from sciinstruct.inference.amortized import AmortizedPPM
from sciinstruct.inference.annealing import AnnealedGaussNewton
from sciinstruct.inference.families.configs import Generator, Mixture, Particles
from sciinstruct.inference.image_annealing import ImageAnnealing
from sciinstruct.inference.ppm import PPM

__all__ = ["AnnealedGaussNewton", "ImageAnnealing", "PPM", "AmortizedPPM", "Generator", "Mixture", "Particles"]
