"""Score divergences: one family for posterior matching, distillation and physics-instructed generators."""

from sciinstruct.divergences.divergence import Divergence, GeneratorLoss
from sciinstruct.divergences.levels import Karras, LevelLaw, Levels, LogNormal, LogUniform
from sciinstruct.divergences.ratios import F_DIVERGENCES, FWeights, RatioRule
from sciinstruct.divergences.terms import Band, Diagnostics, Terms, summarise

__all__ = [
    "F_DIVERGENCES",
    "Band",
    "Diagnostics",
    "Divergence",
    "FWeights",
    "GeneratorLoss",
    "Karras",
    "LevelLaw",
    "Levels",
    "LogNormal",
    "LogUniform",
    "RatioRule",
    "Terms",
    "summarise",
]
