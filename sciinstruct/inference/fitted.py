"""A fitted variational posterior: samples, mode weights, and what to distrust."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Posterior, randn_like
from sciinstruct.inference.auxiliary import ParticleScore
from sciinstruct.inference.families import GaussianMixtureFamily
from sciinstruct.inference.modes import cluster_images, merge_components, pool
from sciinstruct.inference.run_state import RunState
from sciinstruct.inference.scale import Scale
from sciinstruct.inference.weights import WeightEstimate, settle_weights

_LAG = 0.1  # of the divergence: about 5 % of the samples' standard deviation
_FEW = 3  # dimensions up to which a kernel mixture keeps its spread


@dataclass
class FittedPosterior:
    """What `PPM.fit` returns.

    Attributes
    ----------
    problem, state : InverseProblem, RunState
        The problem and the fitted law (``state.family``).
    scale : Scale
        Draws of the prior the run started from.
    attributes : dict
        Provenance for the posterior.
    weight_rounds, groups : int
        Effort for the mode weights.
    """

    problem: InverseProblem
    state: RunState
    scale: Scale
    attributes: dict[str, Any]
    weight_rounds: int
    groups: int

    def __post_init__(self) -> None:
        self.weights = self._settle_weights()

    def posterior(self, n_samples: int) -> Posterior:
        """Draw `n_samples`, add the smallest noise (the smoothed law is the one matched) and map to physical units."""
        s = self.state
        x = s.family.sample(n_samples, s.generator)
        x = x + s.smin * randn_like(x, s.generator)
        diagnostics = self._diagnostics() | self._image_modes(x)
        if s.auxiliary is not None:
            diagnostics["auxiliary_lag"] = self._lag()
        diagnostics["warnings"] = self._warnings(x, diagnostics)
        return Posterior(self.problem.prior.to_physical(x), self.problem.coordinates, self.attributes, diagnostics)

    def _settle_weights(self) -> WeightEstimate | None:
        s, family = self.state, self.state.family
        if not isinstance(family, GaussianMixtureFamily) or family.n_components == 1 or self.weight_rounds == 0:
            return None
        return settle_weights(
            self.problem, family, self.scale, s.smin, self.weight_rounds, self.groups, s.generator, s.smax
        )

    def _diagnostics(self) -> dict[str, Any]:
        found: dict[str, Any] = {"trace": self.state.curves, "sigma_min": self.state.smin, "sigma_max": self.state.smax}
        family = self.state.family
        if self.weights is None or not isinstance(family, GaussianMixtureFamily):
            return found
        labels = merge_components(family)
        w = self.weights
        return found | {
            "mode_weights": pool(w.weights, labels).tolist(),
            "mode_weights_sd": pool(w.sd.square(), labels).sqrt().tolist(),
            "component_weights": w.weights.tolist(),
            "component_mode": labels.tolist(),
            "component_free_energy": w.cost.tolist(),
            "log_evidence_bound": float(-(w.weights * (w.cost + w.weights.clamp(min=1e-30).log())).sum()),
        }

    def _image_modes(self, x: Tensor) -> dict[str, Any]:
        """Clusters of alike samples, for laws whose components have no weights of their own."""
        if self.weights is not None or x.ndim != 4:
            return {}
        with torch.no_grad():
            blurred = self.problem.prior.to_physical(self.problem.prior.denoise(x, self.scale.sd))
        labels = cluster_images(blurred, shifted=self.problem.likelihood.shift_invariant)
        share = torch.bincount(labels).double() / len(labels)
        return {
            "mode_weights": share.tolist(),
            "sample_mode": labels.tolist(),
            "mode_weights_from": "shares of the starts kept: matching moves particles within modes only",
        }

    def _warnings(self, x: Tensor, found: dict[str, Any]) -> list[str]:
        said = []
        if max(found.get("mode_weights_sd", [0.0])) > 0.1:
            said.append("mode weights are uncertain by more than 0.1: raise weight_rounds")
        if "mode_weights_from" in found and found["mode_weights"][0] < 0.9:
            said.append(
                f"the samples form {len(found['mode_weights'])} groups; their weights are shares of the starts, "
                "which posterior matching does not settle: look at the groups one by one"
            )
        spread = float(x.var(0).mean().sqrt() / self.scale.sd)
        if spread < 0.01:
            said.append(f"the samples' spread is {spread:.1%} of the prior's: the posterior may have collapsed")
        if isinstance(self.state.auxiliary, ParticleScore) and x[0].numel() > _FEW:
            said.append(
                f"the exact score of a kernel mixture under-disperses in {x[0].numel()} dimensions: intervals are too "
                'short; use Particles(auxiliary="gaussian") or "network"'
            )
        tail = self.state.curves.get("mismatch", [])[-max(1, len(self.state.curves.get("mismatch", [])) // 10) :]
        if tail and sum(tail) / len(tail) > 0.2:
            said.append(
                f"the scores of law and posterior differ by {sum(tail) / len(tail):.2f} per axis (0 is exact, 0.2 a "
                "warning): the posterior is not Gaussian around its modes, or the run is too short"
            )
        lag = self._lag()
        if abs(lag) > _LAG:
            said.append(
                f"the auxiliary score is off by {abs(lag):.0%} of the divergence it measures, and intervals by about "
                "half of that: raise auxiliary_steps"
            )
        return said

    def _lag(self) -> float:
        """What the auxiliary score gets wrong, as a share of KL(q || p) over the last steps; 0 where within noise.

        It scales the prior's pull against the data's by 1 + lag, which changes standard deviations by half of it.
        """
        curves, last = self.state.curves, 20
        if "projection" not in curves:
            return 0.0
        mean, error, kl = (torch.tensor(curves[k][-last:]) for k in ("projection", "projection_error", "kl"))
        significant = mean.mean().abs() > 3 * error.square().sum().sqrt() / len(error)
        return float(mean.mean() / kl.mean().abs().clamp(min=1e-12)) if significant else 0.0
