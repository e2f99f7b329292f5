"""Where training begins: the pilot's particles, the whitening they give, and whether they form separate modes."""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_event, check_finite
from sciinstruct.implicit.clusters import Clusters, assign, find_clusters
from sciinstruct.implicit.pilot import covariance_root, tempered_smc
from sciinstruct.implicit.settle import settle
from sciinstruct.implicit.targets import Target
from sciinstruct.implicit.whitened import WhitenedTarget

if TYPE_CHECKING:
    from sciinstruct.implicit.training import ImplicitSampler

_LONGEST = 100.0  # norm of a whitened score, per root of ten dimensions
_BENT = 0.5  # Fisher divergence of the whitened target from N(0, I), per coordinate, above which it is not near it
_FEWEST = 32  # given draws
_CLUSTERED = 512  # particles that clusters are found from


class Start(NamedTuple):
    """What the pilot found."""

    particles: Tensor  # (P, d), target's coordinates
    mean: Tensor
    root: Tensor
    clusters: Clusters  # of the first 512 whitened particles
    seeded: bool  # whether the latents start from particles
    log_normalizer: float  # the pilot's estimate; NaN where particles were given
    evaluations: int
    seconds: float = 0.0  # of the pilot and the search for modes

    @property
    def white(self) -> Tensor:
        """Whitened particles."""
        return torch.linalg.solve_triangular(self.root, (self.particles - self.mean).T, upper=False).T

    @property
    def base_particles(self) -> Tensor | None:
        """Whitened particles of the latents' law, where it has any."""
        return self.white if self.seeded else None

    @property
    def longest(self) -> float:
        """Norm that whitened scores are cut at: far above the typical one, the root of the dimension."""
        return _LONGEST * max(1.0, (len(self.mean) / 10) ** 0.5)

    def dump(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {**self._asdict(), "clusters": tuple(self.clusters)}


def make_start(
    settings: "ImplicitSampler",
    target: Target,
    generator: torch.Generator,
    like: Tensor,
    given: Tensor | None,
    saved: dict[str, Any] | None,
) -> Start:
    """Run the pilot, or take the particles that are given or saved."""
    if saved is not None:
        return _moved(saved["start"], like.device)
    log_z, evaluations, began = float("nan"), 0, time.perf_counter()
    if given is None:
        pilot = tempered_smc(target, settings.particles, scale=settings.start_scale, generator=generator, like=like)
        log_z = pilot.log_normalizer
        x, more = settle(target, pilot.x, generator)
        evaluations = pilot.evaluations + more
    else:
        check_event("start", given, (target.dim,))
        check_finite("start", given)
        if len(given) < _FEWEST:
            raise ValueError(f"start must hold at least {_FEWEST} draws of the target, got {len(given)}")
        x = given.to(like)
    x = x[torch.randperm(len(x), generator=generator, device=x.device)]  # resampled siblings lie side by side
    mean, root = x.mean(0), covariance_root(x)
    white = WhitenedTarget(target, mean, root, _LONGEST)
    points = white.from_target(x)
    few = points[:_CLUSTERED]
    clusters = find_clusters(few, white.log_prob, lambda w: white.score(w).value)
    clusters = clusters._replace(masses=assign(points, few, clusters))
    s_few = white.score(few).value
    bent = float((s_few + few).square().mean()) > _BENT
    seeded = settings.base == "particles" or (settings.base == "auto" and (clusters.several or bent))
    spent = time.perf_counter() - began
    return Start(x, mean, root, clusters, seeded, log_z, evaluations + white.evaluations, spent)


def _moved(found: dict[str, Any], device: torch.device) -> Start:
    """What `Start.dump` wrote, on a device."""
    labels, masses, stray = found["clusters"]
    moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in found.items()}
    moved["clusters"] = Clusters(labels.to(device), masses.to(device), stray)
    return Start(**moved)
