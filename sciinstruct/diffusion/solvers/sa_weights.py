r"""Weights of SA-Solver's steps, in float64 whatever the tensors' dtype.

The weight of evaluation j over a step of length h in :math:`\lambda` is
:math:`b_j = \int_0^h a e^{-a(h-u)} L_j(u)\,du` with :math:`a = 1 + \tau^2` and :math:`L_j` the Lagrange polynomial of
the nodes. It is found by Gauss-Legendre quadrature: the closed forms cancel badly for short steps.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class StepWeights(NamedTuple):
    """One step ``x <- decay * x + noise * z + sum_j w_j D_j``; evaluations are counted newest first."""

    decay: float
    noise: float
    predictor: tuple[float, ...]
    corrector: tuple[float, ...]


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]; 24 points are exact to 1e-12 for h <= 3, tau <= 2, orders 1 to 4."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return 0.5 * (nodes + 1), 0.5 * weights


def adams_weights(nodes: Sequence[float], h: float, tau: float) -> tuple[float, ...]:
    r"""Weights :math:`b_j` of evaluations at `nodes` for a step of length `h`.

    Parameters
    ----------
    nodes : sequence of float
        :math:`\lambda` of the evaluations relative to the step's start: 0 is the start, `h` the end, past negative.
    h : float
        Length of the step.
    tau : float
        Noise strength over the step.

    Returns
    -------
    tuple of float
        One weight per node; they sum to :math:`1 - e^{-a h}`.
    """
    a = 1 + tau**2
    points, weights = _quadrature()
    u = h * points
    kernel = h * weights * a * np.exp(-a * (h - u))
    result = []
    for j, node in enumerate(nodes):
        basis = np.ones_like(u)
        for k, other in enumerate(nodes):
            if k != j:
                basis *= (u - other) / (node - other)
        result.append(float(kernel @ basis))
    return tuple(result)


def simple_weights(nodes: Sequence[float], h: float, tau: float) -> tuple[float, ...]:
    r"""Order-2 weights with the slope's integral :math:`\int a e^{-a(h-u)} u\,du` replaced by :math:`a h^2 / 2`."""
    a = 1 + tau**2
    first, second = nodes
    total = -math.expm1(-a * h)
    slope = (0.5 * a * h**2 - first * total) / (second - first)
    return total - slope, slope


@lru_cache(maxsize=64)
def plan(
    sigmas: tuple[float, ...], taus: tuple[float, ...], predictor: int, corrector: int, simple_order2: bool
) -> tuple[StepWeights, ...]:
    """Weights of every step of a grid; orders rise from 1 at the start and fall to 1 (corrector 2) at the end.

    Parameters
    ----------
    sigmas : tuple of float
        The n noise levels.
    taus : tuple of float
        Noise strength of the n-1 steps.
    predictor, corrector : int
        Highest orders; 0 for no corrector.
    simple_order2 : bool
        Use `simple_weights` wherever the order is 2.
    """
    lam = [-math.log(s) for s in sigmas]
    steps = len(sigmas) - 1

    def weights(nodes: list[float], h: float, tau: float) -> tuple[float, ...]:
        rule = simple_weights if simple_order2 and len(nodes) == 2 else adams_weights
        return rule(nodes, h, tau)

    result = []
    for i, tau in enumerate(taus, start=1):
        h = lam[i] - lam[i - 1]
        past = [lam[k] - lam[i - 1] for k in range(i - 1, -1, -1)]
        order = min(predictor, i, steps - i + 1)
        order_c = min(corrector, i + 1, steps - i + 2)
        result.append(
            StepWeights(
                decay=math.exp(-(1 + tau**2) * h),
                noise=sigmas[i] * math.sqrt(-math.expm1(-2 * tau**2 * h)),
                predictor=weights(past[:order], h, tau),
                corrector=weights([h, *past[: order_c - 1]], h, tau) if corrector else (),
            )
        )
    return tuple(result)
