"""One step of posterior matching, for laws with a closed-form score and for laws without."""

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, SolverError, randn_like
from sciinstruct.divergences import Divergence
from sciinstruct.divergences.terms import summarise
from sciinstruct.inference.families import ClosedFormFamily, GaussianMixtureFamily
from sciinstruct.inference.levels import draw_levels
from sciinstruct.inference.matching import component_cost, match, match_score
from sciinstruct.inference.run_state import RunState

_WEIGHT_RATE = 0.02  # of the component weights while modes form


def level_step(
    problem: InverseProblem, state: RunState, lo: float, groups: int, batch: int, rate: float
) -> dict[str, float]:
    """Step on the integral over noise levels with an exact score: pulls from afar, moves weights as modes form."""
    family, g = state.family, state.generator
    assert isinstance(family, ClosedFormFamily)
    draw = family.draw(groups, batch // groups, g)
    levels = draw_levels(lo, state.smax, groups, g, draw.x0)
    terms = match(problem, draw, family.eps, levels, state.smin, attached=True, generator=g)
    _check(state.step, prior=terms.prior, data=terms.data)
    norm = state.descend(((terms.prior + terms.data) * draw.weight).sum(1).mean(), rate)
    family.update_weights(component_cost(terms.cost, draw, family.n_components), _WEIGHT_RATE)
    data = (terms.data.detach() * draw.weight).sum(1).mean()
    return {"kl": levels.span * float(terms.gap.mean()), "data": float(data), "gradient_norm": norm}


def score_step(problem: InverseProblem, state: RunState, groups: int, batch: int, rate: float) -> dict[str, float]:
    """Step on the scores at the lowest level: no noise at the optimum, and no pass back through the prior."""
    family = state.family
    assert isinstance(family, GaussianMixtureFamily)
    draw = family.draw(groups, batch // groups, state.generator)
    terms = match_score(problem, draw, family.eps, family.whiten, state.smin, state.generator)
    _check(state.step, prior=terms.loss, data=terms.data)
    weight = draw.weight.detach()
    norm = state.descend((terms.loss * weight).sum(1).mean(), rate)
    mismatch = float((terms.mismatch * weight).sum(1).mean()) / family.dim
    return {"mismatch": mismatch, "data": float((terms.data * weight).sum(1).mean()), "gradient_norm": norm}


def auxiliary_step(
    problem: InverseProblem, state: RunState, divergence: Divergence, lo: float, batch: int, rate: float
) -> dict[str, float]:
    """Let the auxiliary score follow the law, then step on the pair of terms of Theorem 1."""
    g, auxiliary = state.generator, state.auxiliary
    assert auxiliary is not None
    fit = auxiliary.update(state.family, lo, state.smax, g)
    draw = state.family.draw(1, batch, g)
    x0 = draw.x0[0]
    prior = divergence.generator_loss(x0, problem.prior.denoise, auxiliary.denoise, lo, state.smax, generator=g)
    data = -problem.log_likelihood(x0 + state.smin * randn_like(x0, g))
    _check(state.step, prior=prior.terms.loss, data=data)
    norm = state.descend(prior.loss + data.mean(), rate)
    seen = summarise(prior.terms)
    values = {"kl": seen.kl, "data": float(data.detach().mean()), "auxiliary_loss": fit, "gradient_norm": norm}
    return values | {"projection": seen.projection, "projection_error": seen.projection_error}


def _check(step: int, **terms: Tensor) -> None:
    for name, value in terms.items():
        if not torch.isfinite(value).all():
            raise SolverError(
                f"the {name} term became NaN or infinite at step {step}; lower learning_rate, "
                "or check that data and prior are in the units they claim"
            )
