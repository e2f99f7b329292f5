"""Targets of implicit samplers: wrappers around a scientist's density, and densities to test samplers on."""

from collections.abc import Callable

from sciinstruct.implicit.targets import curved, energies, mixtures
from sciinstruct.implicit.targets.base import Target
from sciinstruct.implicit.targets.check import check_target
from sciinstruct.implicit.targets.constraints import Support
from sciinstruct.implicit.targets.logistic import LogisticRegression
from sciinstruct.implicit.targets.mixtures import GaussianMixture
from sciinstruct.implicit.targets.pyro_model import PyroTarget
from sciinstruct.implicit.targets.ring import RingTarget
from sciinstruct.implicit.targets.wrappers import DistributionTarget, FunctionTarget

ZOO: dict[str, Callable[[], Target]] = {
    maker.__name__: maker
    for maker in (
        mixtures.gaussian,
        mixtures.mog2,
        mixtures.mog8,
        mixtures.mog8w,
        mixtures.mog40,
        curved.rosenbrock,
        curved.banana,
        curved.squiggle,
        curved.narrow_squiggle,
        curved.donut,
        curved.thin_donut,
        curved.funnel,
        curved.wide_funnel,
        curved.double_well,
        energies.u1,
        energies.u2,
        energies.u3,
        energies.u4,
        curved.funnel10,
        curved.many_well,
    )
}


def make_target(name: str) -> Target:
    """A target of the zoo by name; ``ZOO`` lists them.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in ZOO:
        raise ValueError(f"no target {name!r} in the zoo; there are {', '.join(ZOO)}")
    return ZOO[name]()


__all__ = [
    "ZOO",
    "DistributionTarget",
    "FunctionTarget",
    "GaussianMixture",
    "LogisticRegression",
    "PyroTarget",
    "RingTarget",
    "Support",
    "Target",
    "check_target",
    "make_target",
]
