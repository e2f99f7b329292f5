"""Noise levels of divergence estimates: any density over log sigma, with its reciprocal as weight."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive


class Levels(NamedTuple):
    """Noise levels, and weights under which a mean over them is an integral over log sigma."""

    sigma: Tensor  # (B,)
    weight: Tensor  # (B,), one over the density of log sigma


class LevelLaw(ABC):
    """A density of noise levels on a range [lo, hi] that may change from call to call.

    A subclass gives the quantile function and, as the weight in `Levels`, its derivative, so that the integral over
    log sigma that a weighted mean estimates is the same for every law.
    """

    @abstractmethod
    def quantile(self, u: Tensor, lo: float, hi: float) -> Levels:
        """Levels at probabilities `u` in [0, 1] (float64), increasing, with d(log sigma)/du as weight."""

    def sample(
        self,
        n: int,
        lo: float,
        hi: float,
        *,
        generator: torch.Generator | None = None,
        like: Tensor | None = None,
    ) -> Levels:
        """Draw `n` levels, one in each n-th of the law (stratified), in random order; dtype and device of `like`.

        Raises
        ------
        ValueError
            Unless 0 < lo < hi, both finite.
        """
        if not 0 < lo < hi < math.inf:
            raise ValueError(f"levels need 0 < lo < hi, finite, got lo = {lo} and hi = {hi}")
        like = torch.empty(0) if like is None else like
        order = torch.randperm(n, generator=generator, device=like.device)
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=like.device)
        sigma, weight = self.quantile((order + u) / n, lo, hi)
        return Levels(sigma.to(like.dtype), weight.to(like.dtype))


@dataclass(frozen=True)
class LogUniform(LevelLaw):
    """Uniform in log sigma: the weight is the constant log(hi/lo)."""

    def quantile(self, u: Tensor, lo: float, hi: float) -> Levels:
        """Geometric interpolation."""
        span = math.log(hi / lo)
        return Levels(lo * torch.exp(span * u), torch.full_like(u, span))


@dataclass(frozen=True)
class LogNormal(LevelLaw):
    """Normal in log sigma, cut off at the range: the training density of Karras et al. 2022.

    Parameters
    ----------
    mean, std : float
        Of log sigma, before the cut. Keep the range within about three `std` of `mean`: beyond, the reciprocal weights
        explode.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        check_positive("std", self.std)

    def quantile(self, u: Tensor, lo: float, hi: float) -> Levels:
        """Inverse normal distribution function between the two cuts, taken in the tail where it is exact."""
        ends = (torch.tensor([lo, hi], dtype=u.dtype, device=u.device).log() - self.mean) / self.std
        sign = -1.0 if ends.sum() > 0 else 1.0  # the normal law is symmetric: work in its lower tail
        a, b = torch.special.ndtr(sign * ends)
        z = sign * torch.special.ndtri(a + (b - a) * u)
        density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
        return Levels(torch.exp(self.mean + self.std * z), self.std * (b - a).abs() / density)


@dataclass(frozen=True)
class Karras(LevelLaw):
    """Uniform in sigma^(1/rho): the generator levels of SiD and Uni-Instruct (Karras et al. 2022, eq. 5).

    Parameters
    ----------
    rho : float
        7 in those papers; large values approach the log-uniform law.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)

    def quantile(self, u: Tensor, lo: float, hi: float) -> Levels:
        """Linear interpolation of sigma^(1/rho)."""
        a, b = lo ** (1 / self.rho), hi ** (1 / self.rho)
        root = a + (b - a) * u
        return Levels(root**self.rho, self.rho * (b - a) / root)
