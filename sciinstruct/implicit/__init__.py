"""Neural implicit samplers: draws from an unnormalised density in one pass of a network."""

from sciinstruct.implicit.nuts import Chains, run_nuts
from sciinstruct.implicit.pilot import Particles, refine, tempered_smc
from sciinstruct.implicit.sampler import Sampler
from sciinstruct.implicit.targets import (
    ZOO,
    DistributionTarget,
    FunctionTarget,
    GaussianMixture,
    LogisticRegression,
    PyroTarget,
    RingTarget,
    Target,
    check_target,
    make_target,
)
from sciinstruct.implicit.training import ImplicitSampler

__all__ = [
    "ZOO",
    "Chains",
    "DistributionTarget",
    "FunctionTarget",
    "GaussianMixture",
    "ImplicitSampler",
    "LogisticRegression",
    "Particles",
    "PyroTarget",
    "RingTarget",
    "Sampler",
    "Target",
    "check_target",
    "make_target",
    "refine",
    "run_nuts",
    "tempered_smc",
]
