"""The No-U-Turn sampler of pyro on the exact posterior density: the gold standard where the prior has a density.

Hoffman and Gelman 2014, "The No-U-Turn sampler"; Bingham et al. 2019, "Pyro".
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Callback, InverseProblem, Posterior, SolverError, make_generator
from sciinstruct.inference.baselines.chains import FEWEST_DRAWS, chain_diagnostics, require_arviz

_BATCH = 256  # images whose gradients are taken together


@dataclass(frozen=True)
class NUTS:
    r"""Chains of Hamiltonian dynamics on :math:`\log p(x) + \log p(y | x)`, one after another, merged.

    Each chain starts from its own draw of the prior and moves in coordinates in which the density's curvature there is
    the identity: in a Gaussian mode it needs no more. Step size and a diagonal mass matrix are adapted in warm-up,
    which is thrown away.

    Parameters
    ----------
    chains : int
        Number of chains, at least 2, so that their agreement can be judged.
    warmup : int
        Steps of each chain before its first draw.
    target_accept : float
        Acceptance that the step size is adapted to, between 0 and 1.
    max_depth : int
        A step takes at most 2 to this power leapfrog steps.

    Notes
    -----
    Exact in the limit of long chains, for priors with a density, ``prior.log_prob(x)``, such as the analytic ones. In
    practice a chain does not leave the mode it starts in unless the way is short: a posterior of separate modes gets
    the weights of the prior draws' neighbourhoods, and R-hat tells (``diagnostics["warnings"]``). Draws of one chain
    are correlated: they are worth ``diagnostics["ess_bulk"]`` independent ones. The curvature takes two gradients per
    pixel and chain, and algebra of their cube.

    References
    ----------
    Hoffman and Gelman 2014, Algorithm 6.
    """

    chains: int = 4
    warmup: int = 300
    target_accept: float = 0.8
    max_depth: int = 8

    def __post_init__(self) -> None:
        if self.chains < 2:
            raise ValueError(f"chains must be at least 2, so that they can be compared, got {self.chains}")
        if self.warmup < 10:
            raise ValueError(f"warmup must be at least 10 steps, got {self.warmup}")
        if not 0 < self.target_accept < 1:
            raise ValueError(f"target_accept must lie between 0 and 1, got {self.target_accept}")
        if self.max_depth < 1:
            raise ValueError(f"max_depth must be at least 1, got {self.max_depth}")

    def run(
        self,
        problem: InverseProblem,
        n_samples: int = 256,
        *,
        generator: torch.Generator | int | None = None,
        progress: bool = False,
        callback: Callback | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Posterior:
        """Draw `n_samples` images, the same number from each chain but for rounding.

        Parameters
        ----------
        problem : InverseProblem
            The prior must have ``log_prob``; the operator may be non-linear, the likelihood of any kind.
        n_samples : int
            Number of samples; each chain draws at least 4.
        generator : torch.Generator or int, optional
            Source of randomness, on the problem's device.
        progress : bool
            Show pyro's bar for each chain.
        callback : callable, optional
            ``callback(step, {"chain": ..., "warmup": ...})`` after each step of a chain, warm-up (1.0) or not (0.0);
            steps are counted through all chains.
        dtype : torch.dtype
            Precision of the images.

        Returns
        -------
        Posterior
            In physical units; what `chain_diagnostics` says, and the number of ``divergences``, in its diagnostics.

        Raises
        ------
        TypeError
            If the prior has no density.
        ValueError
            If `n_samples` is not positive, or the prior's law is singular.
        ImportError
            Without arviz.
        SolverError
            If the density is NaN; the text names chain and step.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be positive, got {n_samples}")
        if not callable(getattr(problem.prior, "log_prob", None)):
            raise TypeError(
                f"NUTS needs a prior with a density, log_prob(x), and {type(problem.prior).__name__} has none; "
                "use an analytic prior, or a solver that needs the score alone, such as AnnealedLangevin"
            )
        require_arviz()
        began = time.perf_counter()
        source = make_generator(generator)
        starts = problem.prior.sample(self.chains, generator=source, dtype=dtype, device=source.device)  # type: ignore[operator]
        energy = _Energy(problem, callback)
        draws = max(FEWEST_DRAWS, -(-n_samples // self.chains))
        chains, divergences = [], 0
        for start in starts:
            found, lost = self._chain(energy, start, draws, source, progress)
            chains.append(found)
            divergences += lost
        together = torch.stack(chains)
        attributes = {
            "solver": "NUTS",
            "settings": asdict(self),
            "network_calls": math.ceil(2 * energy.calls / n_samples),
            "seconds": time.perf_counter() - began,
        }
        diagnostics = {**chain_diagnostics(together), "divergences": divergences}
        if divergences:
            diagnostics["warnings"].append(f"{divergences} draws ended in a divergence; raise target_accept")
        x = together.transpose(0, 1).flatten(0, 1)[:n_samples]
        return Posterior(problem.prior.to_physical(x), problem.coordinates, attributes, diagnostics)

    def _chain(
        self, energy: "_Energy", start: Tensor, draws: int, generator: torch.Generator, progress: bool
    ) -> tuple[Tensor, int]:
        """Draws (draws, *event) of one chain, and how many of them diverged."""
        from pyro.infer import MCMC
        from pyro.infer import NUTS as Kernel

        energy.begin(start)
        chain = MCMC(
            Kernel(potential_fn=energy, target_accept_prob=self.target_accept, max_tree_depth=self.max_depth),
            num_samples=draws,
            warmup_steps=self.warmup,
            initial_params={"z": start.new_zeros(start.numel())},
            hook_fn=energy.tell,
            disable_progbar=not progress,
        )
        # pyro draws from torch's global generators: seed them from ours, and leave them as they were
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng([start.device] if start.is_cuda else []):
            torch.manual_seed(seed)
            chain.run()
        return energy.image(chain.get_samples()["z"].detach()), len(chain.diagnostics()["divergences"]["chain 0"])


class _Energy:
    """Negative log-posterior of one image in a chain's own coordinates, as pyro calls it; counts calls and steps."""

    start: Tensor
    root: Tensor

    def __init__(self, problem: InverseProblem, callback: Callback | None) -> None:
        self.problem, self.callback = problem, callback
        self.calls = self.steps = 0
        self.index = -1

    def begin(self, start: Tensor) -> None:
        """Turn to the next chain, from the image `start`: x = start + root z, root root^T the inverse curvature."""
        self.index, self.start = self.index + 1, start
        values, vectors = torch.linalg.eigh(self._curvature(start.double()))
        size = values.abs()  # saddles are left as fast as minima
        self.root = (vectors * size.clamp_min(1e-8 * float(size.max())).rsqrt()).to(start.dtype)

    def _curvature(self, start: Tensor) -> Tensor:
        """Second derivatives of the density at `start`, (D, D) in float64, by differences of its gradient."""
        width = 1e-4 * float(start.std(correction=0) + start.abs().mean())
        shifts = width * torch.eye(start.numel(), dtype=start.dtype, device=start.device).reshape(-1, *start.shape)
        slopes = [self._slope(start + some) - self._slope(start - some) for some in shifts.split(_BATCH)]
        matrix = torch.cat(slopes) / (2 * width)
        if not torch.isfinite(matrix).all():
            raise SolverError(f"the density's curvature is NaN or infinite at step {self.steps}, start of a chain")
        return 0.5 * (matrix + matrix.T)

    def _slope(self, x: Tensor) -> Tensor:
        """Gradients of the negative log-posterior at images (B, *event), flattened to (B, D)."""
        leaf = x.requires_grad_()
        with torch.enable_grad():
            total = self._log_posterior(leaf).sum()
        return -torch.autograd.grad(total, leaf)[0].flatten(1)

    def _log_posterior(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        prior, data = self.problem.prior.log_prob(x), self.problem.log_likelihood(x)  # type: ignore[operator]
        if bool(torch.isnan(prior + data).any()):
            term = "prior" if bool(torch.isnan(prior).any()) else "likelihood"
            raise SolverError(f"the {term}'s log-density is NaN at step {self.steps}, in chain {self.index}")
        return prior + data

    def image(self, z: Tensor) -> Tensor:
        """Images (B, *event) at coordinates `z` (B, D)."""
        return self.start + (z @ self.root.T).reshape(-1, *self.start.shape)

    def __call__(self, values: dict[str, Tensor]) -> Tensor:
        return -self._log_posterior(self.image(values["z"][None]))[0]

    def tell(self, kernel: Any, params: object, stage: str, i: int) -> None:
        """Report a finished step; pyro's hook."""
        if self.callback is not None:
            warming = float("warm" in stage.lower())
            self.callback(self.steps, {"chain": float(self.index), "warmup": warming})
        self.steps += 1
