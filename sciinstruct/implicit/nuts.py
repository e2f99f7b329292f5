"""The gold reference: pyro's No-U-Turn sampler on any target, with what its draws cost."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import SolverError, make_generator
from sciinstruct.core.checks import check_event, check_finite
from sciinstruct.implicit.targets import Target


class Chains(NamedTuple):
    """What `run_nuts` returns."""

    x: Tensor  # (chains, draws, d), unconstrained coordinates, in order
    divergences: int  # draws that ended in one
    evaluations: int  # gradients of the target, warm-up included
    warmup_seconds: float
    seconds: float  # of the draws, without warm-up


class _Potential:
    """Minus the log density of one point, as pyro calls it; counts calls and notes when the draws begin."""

    def __init__(self, target: Target) -> None:
        self.target, self.calls, self.drawing_since = target, 0, 0.0

    def __call__(self, values: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        value = -self.target.log_prob(values["u"][None])[0]
        if bool(value.isnan()):
            raise SolverError(f"log_prob of {self.target.name!r} is NaN where a chain went; mend it")
        return value

    def tell(self, kernel: Any, params: object, stage: str, i: int) -> None:
        """Pyro's hook after every step."""
        if "warmup" in stage.lower():
            self.drawing_since = time.perf_counter()


def run_nuts(
    target: Target,
    *,
    chains: int = 4,
    draws: int = 1000,
    warmup: int = 500,
    start: Tensor | None = None,
    target_accept: float = 0.8,
    max_depth: int = 10,
    generator: torch.Generator | int | None = None,
    progress: bool = False,
) -> Chains:
    """Run chains one after another, each with its own step size and full mass matrix.

    Parameters
    ----------
    target : Target
    chains, draws, warmup : int
        At least 2 chains of 4 draws, so that their agreement can be judged; 10 steps of warm-up.
    start : Tensor, shape (chains, dim), optional
        Where chains begin, in unconstrained coordinates; its dtype is that of the chains. N(0, 1) draws in float64 by
        default.
    target_accept : float
        Acceptance that the step size is adapted to.
    max_depth : int
        A step takes at most 2 to this power leapfrog steps.
    generator : torch.Generator or int, optional
        On the target's device.
    progress : bool
        Show pyro's bar for every chain.

    Returns
    -------
    Chains
        `sciinstruct.calibration.chains.chain_numbers` of ``chains.x`` gives R-hat and effective sample size.

    Raises
    ------
    ValueError
        If a count is too small or `start` does not fit.
    SolverError
        If log_prob is NaN.

    Notes
    -----
    A chain does not leave the mode it starts in unless the way is short: over separate modes R-hat is large and the
    draws tell where the chains began, not what the modes weigh.

    References
    ----------
    Hoffman and Gelman 2014, Algorithm 6.
    """
    if chains < 2 or draws < 4 or warmup < 10:
        raise ValueError(f"needs 2 chains, 4 draws, 10 steps of warm-up at least, got {chains}, {draws}, {warmup}")
    g = make_generator(generator)
    if start is None:
        start = torch.randn(chains, target.dim, generator=g, dtype=torch.float64, device=g.device)
    check_event("start", start, (target.dim,))
    check_finite("start", start)
    if len(start) != chains:
        raise ValueError(f"start must hold one point per chain, {chains}, got {len(start)}")
    potential = _Potential(target)
    found, divergences, times = [], 0, [0.0, 0.0]
    for point in start:
        kernel = {"target_accept_prob": target_accept, "max_tree_depth": max_depth, "full_mass": True}
        x, lost, spent = _one_chain(potential, point, draws, warmup, kernel, g, progress)
        found.append(x)
        divergences += lost
        times = [a + b for a, b in zip(times, spent)]
    return Chains(torch.stack(found), divergences, potential.calls, *times)


def _one_chain(
    potential: _Potential,
    point: Tensor,
    draws: int,
    warmup: int,
    kernel: dict[str, Any],
    generator: torch.Generator,
    progress: bool,
) -> tuple[Tensor, int, tuple[float, float]]:
    """Draws (draws, d), how many diverged, and the seconds of warm-up and draws."""
    from pyro.infer import MCMC, NUTS

    mcmc = MCMC(
        NUTS(potential_fn=potential, **kernel),
        num_samples=draws,
        warmup_steps=warmup,
        initial_params={"u": point.detach().clone()},
        hook_fn=potential.tell,
        disable_progbar=not progress,
    )
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    began = potential.drawing_since = time.perf_counter()
    with torch.random.fork_rng([point.device] if point.is_cuda else []):
        torch.manual_seed(seed)  # pyro draws from the global source only
        mcmc.run()
    ended = time.perf_counter()
    divergences = len(mcmc.diagnostics()["divergences"]["chain 0"])
    spent = (potential.drawing_since - began, ended - potential.drawing_since)
    return mcmc.get_samples()["u"].detach(), divergences, spent
