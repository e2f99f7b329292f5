"""The expectation step as an interface: what follows the posterior of a prior that is still learning.

`FlowStep` follows it by a conditional flow (reverse Kullback-Leibler divergence, density in closed form);
`MatchingStep` by amortised posterior matching, whose heads hold posteriors of several modes that a flow would seek
only some of.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import SolverError
from sciinstruct.inference.amortized_run import AmortizedRun
from sciinstruct.inference.conditional import ConditionalGenerator
from sciinstruct.inference.flowdiff_learner import Learner
from sciinstruct.inference.flowdiff_posterior import FlowPosterior
from sciinstruct.inference.flowdiff_target import Target
from sciinstruct.inference.simulator import Simulator
from sciinstruct.priors.base import Prior


class Step(NamedTuple):
    """What one step leaves behind."""

    x: Tensor  # (B, *event): draws for the batch of measurements, detached
    info: dict[str, float]  # terms, nats per number of an event


class EStep(ABC):
    """A generator of posterior draws, its optimiser and its average.

    Attributes
    ----------
    network : ConditionalGenerator
    started : bool
        Whether it begins at the posterior of the Gaussian start, so that a warm-up has nothing to teach it.
    """

    network: ConditionalGenerator
    started: bool = False

    @abstractmethod
    def advance(self, y: Tensor, target: Target, progress: float, generator: torch.Generator) -> Step:
        """One step towards the posterior under `target` for measurements y; `progress` in [0, 1) of this part."""

    @abstractmethod
    def settle(self) -> None:
        """Put the average into the network: nothing is learned after that."""

    @abstractmethod
    def dump(self) -> dict[str, Any]:
        """Everything needed to go on."""

    @abstractmethod
    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `dump`."""

    @torch.no_grad()
    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """One event per measurement, (B, *event), in the prior's units."""
        return self.network.sample(y, generator)


class FlowStep(EStep):
    """Descends E_q[-log p(y|x) - log p(x) + log q(x|y)].

    Parameters
    ----------
    network : FlowPosterior
        Trained in place.
    law : Simulator
    rate, clip, ema : float
        Adam's peak learning rate, largest gradient norm, decay of the average.
    prior_weight, entropy_weight : float
        1; others target another law.
    sticking : bool
        Take the gradient of log q through x alone.
    """

    network: FlowPosterior

    def __init__(
        self,
        network: FlowPosterior,
        law: Simulator,
        *,
        rate: float,
        clip: float,
        ema: float,
        prior_weight: float,
        entropy_weight: float,
        sticking: bool,
    ) -> None:
        self.network, self.law = network, law
        self.prior_weight, self.entropy_weight, self.sticking = prior_weight, entropy_weight, sticking
        self.started = network.start.instrument is not None
        self.learner = Learner(network, rate=rate, clip=clip, ema=ema)

    def terms(self, y: Tensor, target: Target, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Draws and the three terms of the objective, each (B,) in nats."""
        x, log_prob = self.network.draw_with_log_prob(y, generator)
        if not torch.isfinite(x).all():
            raise SolverError("the posterior's draws became NaN or infinite")
        if self.sticking:
            log_prob = self.network.log_prob(x, y, frozen=True)
        data = -self.law.log_prob(y, target.prior.to_physical(x))
        return x, {"data": data, "prior": target.neg_log_prob(x, generator), "entropy": log_prob}

    def advance(self, y: Tensor, target: Target, progress: float, generator: torch.Generator) -> Step:
        """One Adam step; raises SolverError on a term that is not finite, with the network as it was."""
        x, parts = self.terms(y, target, generator)
        for name, value in parts.items():
            if not torch.isfinite(value).all():
                raise SolverError(f"the {name} term became NaN or infinite")
        loss = (parts["data"] + self.prior_weight * parts["prior"] + self.entropy_weight * parts["entropy"]).mean()
        norm = self.learner.descend(loss, progress)
        pixels = x[0].numel()
        info = {name: float(value.detach().mean()) / pixels for name, value in parts.items()}
        return Step(x.detach(), info | {"objective": float(loss.detach()) / pixels, "flow_gradient": norm})

    def settle(self) -> None:
        """Averaged weights."""
        self.learner.settle()

    def dump(self) -> dict[str, Any]:
        """Weights, optimiser, average."""
        return self.learner.dump()

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `dump`."""
        self.learner.restore(saved)


class MovingPrior(Prior):
    """Whatever prior is at hand, under one name.

    Parameters
    ----------
    inner : Prior
        To begin with; assign another of the same units.
    """

    def __init__(self, inner: Prior) -> None:
        super().__init__()
        object.__setattr__(self, "inner", inner)  # trained elsewhere
        self.event_shape, self.sigma_range = inner.event_shape, inner.sigma_range
        self.scale, self.shift = inner.scale, inner.shift

    inner: Prior

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The inner prior's."""
        return self.inner.denoise(x, sigma)


class MatchingStep(EStep):
    """Amortised posterior matching under whatever prior is at hand.

    Parameters
    ----------
    run : AmortizedRun
        On the measurements, its prior a `MovingPrior`.
    """

    def __init__(self, run: AmortizedRun) -> None:
        self.run, self.network = run, run.network
        assert isinstance(run.source.prior, MovingPrior)
        self.prior = run.source.prior

    def advance(self, y: Tensor, target: Target, progress: float, generator: torch.Generator) -> Step:
        """One step of matching, on measurements it draws itself; then a draw for each of y."""
        object.__setattr__(self.prior, "inner", target.prior)
        info = self.run.advance()
        return Step(self.draw(y, generator), {k: info[k] for k in ("data", "kl", "projection", "objective")})

    def settle(self) -> None:
        """Averaged weights."""
        self.run.average.copy_to(self.network)

    def dump(self) -> dict[str, Any]:
        """The state of the matching."""
        return self.run.dump()

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `dump`."""
        self.run.restore(saved)
