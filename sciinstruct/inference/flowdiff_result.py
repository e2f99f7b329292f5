"""What joint training hands over: a prior, an amortised posterior, and what the data could not tell."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Likelihood, Posterior, SolverError, make_generator
from sciinstruct.core.weights_folder import read_card, read_weights
from sciinstruct.flows.image_flow import ConditionalImageFlow
from sciinstruct.flows.vector_flow import ConditionalVectorFlow
from sciinstruct.inference.blueprints import zeros_like_measurement
from sciinstruct.inference.conditional import ConditionalGenerator
from sciinstruct.inference.flowdiff_checks import chi2_warning, chi_square
from sciinstruct.inference.flowdiff_gaussian import Gaussian
from sciinstruct.inference.flowdiff_identifiability import Identifiability
from sciinstruct.inference.flowdiff_posterior import FlowPosterior, make_posterior
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA, LearnedPrior
from sciinstruct.inference.reconstructor import Reconstructor
from sciinstruct.inference.simulator import Simulator, as_simulator
from sciinstruct.priors.base import Prior
from sciinstruct.priors.network import NetworkPrior

PRIOR, POSTERIOR = "prior", "reconstructor"
_COVERAGE_DRAWS = 19  # the smallest and largest of 19 draws enclose 90 %


@dataclass(frozen=True)
class FlowDiffResult:
    """A law of clean events learned from corrupted ones, and its posteriors.

    Parameters
    ----------
    prior : Prior
        With averaged weights; usable wherever priors are. For images a `NetworkPrior`.
    reconstructor : Reconstructor
        Posterior samples, one pass each.
    law : Simulator
        Of the measurements.
    identifiability : Identifiability or None
        What the data can teach; None where the instrument is not affine, or too large for dense algebra.
    curves : dict
        One value per step: terms in nats per number of an event, ``chi2``, ``denoising``.
    warnings : list of str
        Red flags.
    """

    prior: Prior
    reconstructor: Reconstructor
    law: Simulator
    identifiability: Identifiability | None
    curves: dict[str, list[float]] = field(repr=False)
    warnings: list[str]

    def posterior(
        self, y: Tensor, n_samples: int = 256, *, generator: torch.Generator | int | None = None
    ) -> Posterior:
        """Samples for one measurement (*range_shape), with the training's warnings."""
        return self.reconstructor.posterior(y, n_samples, generator=generator)

    @torch.no_grad()
    def log_prob(self, image: Tensor, y: Tensor) -> Tensor:
        """Log-density (B,) of the amortised posterior at physical events (B, *event_shape) given y (B, *range_shape).

        Raises
        ------
        TypeError
            If the posterior is no flow.
        """
        network = self.reconstructor.network
        if not isinstance(network, FlowPosterior):
            raise TypeError("only posteriors of the flow have a density; draw samples instead")
        scale = torch.as_tensor(self.prior.scale).double().abs().log()
        jacobian = float(scale.mean()) * image[0].numel()
        return network.log_prob(self.prior.from_physical(image), y) - jacobian

    def report(
        self, y: Tensor, truth: Tensor | None = None, *, generator: torch.Generator | int | None = None
    ) -> dict[str, Any]:
        """Chi-square of posterior draws; with the truth (n, *event_shape) also coverage and errors, where data tell.

        Parameters
        ----------
        y : Tensor, shape (n, *range_shape)
            Measurements not trained on.
        truth : Tensor, optional
            Physical events behind them. Null directions are projected out of truth and draws alike.

        Returns
        -------
        dict
            ``chi2``, ``bound_nats_per_number``, ``identifiability``, ``warnings``; with a truth ``coverage_90`` and
            ``psnr_mean`` in dB.
        """
        g = make_generator(generator, y.device)
        draws = self.reconstructor.sample(y, _COVERAGE_DRAWS, generator=g)
        found: dict[str, Any] = {"warnings": list(self.warnings)}
        chi2 = chi_square(self.law, y, draws[:, 0])
        if chi2 is not None:
            found["chi2"] = float(chi2.mean())
            said = chi2_warning(found["chi2"])
            found["warnings"] += [said] if said is not None and said not in found["warnings"] else []
        with torch.no_grad():
            x = self.prior.from_physical(draws[:, 0])
            bound = self.prior.neg_log_bound(x, sigma_data=SIGMA_DATA, full=True, generator=g)
        found["bound_nats_per_number"] = float(bound.mean()) / draws[0, 0].numel()
        if self.identifiability is not None:
            found["identifiability"] = self.identifiability.summary()
        return found if truth is None else found | self._against(truth, draws)

    def _against(self, truth: Tensor, draws: Tensor) -> dict[str, float]:
        if self.identifiability is not None and not self.identifiability.identifiable:
            truth = self.identifiability.seen(truth)
            draws = self.identifiability.seen(draws.flatten(0, 1)).reshape(draws.shape)
        inside = (truth > draws.amin(1)) & (truth < draws.amax(1))
        error = float((draws.mean(1) - truth).square().mean())
        peak = float(truth.max() - truth.min())
        return {"coverage_90": float(inside.double().mean()), "psnr_mean": 10 * math.log10(peak**2 / error)}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the prior (``folder/prior``, as ``--prior`` takes it) and the posterior (``folder/reconstructor``)."""
        assert isinstance(self.prior, NetworkPrior | LearnedPrior)
        self.prior.save(Path(folder) / PRIOR)
        self.reconstructor.save(Path(folder) / POSTERIOR)


def load_prior(folder: str | os.PathLike[str]) -> Prior:
    """Read the prior that `FlowDiffResult.save` wrote into ``folder/prior``.

    Raises
    ------
    SciinstructError
        If a file is missing, damaged or foreign.
    """
    where = Path(folder) / PRIOR
    return LearnedPrior.load(where) if "settings" in read_card(where, "a learned prior") else NetworkPrior.load(where)


def load_reconstructor(
    folder: str | os.PathLike[str],
    simulator: Simulator | Likelihood,
    *,
    network: ConditionalGenerator | None = None,
) -> Reconstructor:
    """Read the posterior that `FlowDiffResult.save` wrote into ``folder/reconstructor``.

    Parameters
    ----------
    simulator : Simulator or Likelihood
        The one of the training: the start computes with it.
    network : ConditionalGenerator, optional
        For a flow of your own: a network of the same layers, copied.

    Raises
    ------
    SciinstructError
        If a file is missing, damaged, or belongs to another instrument or network.
    """
    law, prior, where = as_simulator(simulator), load_prior(folder), Path(folder) / POSTERIOR
    card = read_card(where)
    settings = card["attributes"].get("flow")
    if network is None and settings:
        network = _rebuilt(settings, card, read_weights(where, card), law, prior)
    return Reconstructor.load(where, prior, law, network=network)


def _rebuilt(
    settings: dict[str, Any], card: dict[str, Any], state: dict[str, Tensor], law: Simulator, prior: Prior
) -> FlowPosterior:
    """A network of the shape of the saved one; its weights are still to be read."""
    kind = ConditionalVectorFlow if "dim" in settings else ConditionalImageFlow
    y = zeros_like_measurement(tuple(card["range_shape"]), card["measured"])
    if tuple(law.range_shape) != tuple(y.shape[1:]):
        raise SolverError(f"the reconstructor is for measurements {tuple(y.shape[1:])}, not {law.range_shape}")
    gaussian = Gaussian(state["start.mean"].double(), torch.linalg.inv(state["start.precision"].double()))
    affine = bool(card["attributes"]["affine"])
    return make_posterior(law, gaussian, prior, y.expand(2, *y.shape[1:]), affine, kind(**settings))
