"""Who runs in `benchmarks.bench`: every solver of the package, and the peers that are installed."""

import importlib.util
import math

import torch

from benchmarks.exact_posteriors import FIELD_PPM, PLANE_PPM
from sciinstruct.core import LinearOperator, Solver
from sciinstruct.inference import baselines
from sciinstruct.inference.annealing import AnnealedGaussNewton
from sciinstruct.inference.baselines.red_diff import RedDiff
from sciinstruct.inference.image_annealing import ImageAnnealing
from sciinstruct.priors.problems import ExactProblem

_PRINTED = {"RedDiff": "RED-diff", "PnPDM": "PnP-DM", "AnnealedLangevin": "annealed Langevin"}


def is_plane(exact: ExactProblem) -> bool:
    """Whether the problem has two parameters rather than pixels."""
    return tuple(exact.problem.prior.event_shape) == (2,)


def sizes(exact: ExactProblem) -> tuple[int, torch.dtype]:
    """Number of samples asked of every solver, and their precision."""
    if is_plane(exact):
        linear = isinstance(exact.problem.likelihood.operator, LinearOperator)
        return 1000 if linear else 500, torch.float64
    return {16: 500, 32: 256}.get(exact.problem.prior.event_shape[-1], 128), torch.float32


def table(exact: ExactProblem) -> dict[str, Solver]:
    """Printed name -> solver, for one problem; the package's baselines at their defaults."""
    found: dict[str, Solver] = {
        "PPM": PLANE_PPM if is_plane(exact) else FIELD_PPM,
        "annealed Gauss-Newton": AnnealedGaussNewton(),
    }
    if not is_plane(exact) and not exact.problem.likelihood.y.is_complex():
        found["image annealing"] = ImageAnnealing()
    for name in baselines.__all__:
        kind = getattr(baselines, name)
        if isinstance(kind, type) and hasattr(kind, "run"):
            found[_PRINTED.get(name, name)] = kind()
    found["RED-diff, published"] = RedDiff(weight=0.25, level_power=1.0)
    found["PiGDM, published"] = baselines.PiGDM(spread=1.0)
    found["DAPS, published"] = baselines.DAPS(spread=math.inf, ode_steps=5)
    return found | peers(exact)


def peers(exact: ExactProblem) -> dict[str, Solver]:
    """Samplers of deepinv, where it is installed and its physics can hold the problem."""
    if importlib.util.find_spec("deepinv") is None:
        return {}
    from benchmarks.peers.deepinv_samplers import samplers

    return samplers(exact.problem)
