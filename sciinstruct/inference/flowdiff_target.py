r"""The prior term of joint training: -log p(x) of the Gaussian start, or the diffusion's bound on that of the learner.

The bound is an average over noise levels and noise, and so is its gradient. For the Gaussian start the average is known
in closed form: the same levels and noise are put to it as well, its estimate is taken off and its average put back.
Whatever both denoisers have in common leaves no noise.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sciinstruct.inference.flowdiff_gaussian import Gaussian
from sciinstruct.inference.flowdiff_prior import SIGMA_DATA
from sciinstruct.priors.base import Prior
from sciinstruct.priors.gaussian import GaussianPrior


class Target(ABC):
    """What q(x | y) is pulled towards besides the data.

    Attributes
    ----------
    prior : Prior
        As a denoiser.
    """

    prior: Prior

    @abstractmethod
    def neg_log_prob(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """-log p(x) or an unbiased estimate of a bound on it, (B,), up to what does not depend on x (B, *event)."""


class GaussianTarget(Target):
    """The Gaussian start, smoothed as the diffusion's levels do.

    Parameters
    ----------
    gaussian : Gaussian
        In the prior's units.
    event_shape : tuple of int
    sigma_range : tuple of float
    scale, shift : float
        To physical units.
    """

    def __init__(
        self,
        gaussian: Gaussian,
        event_shape: tuple[int, ...],
        sigma_range: tuple[float, float],
        scale: float | Tensor,
        shift: float | Tensor,
    ) -> None:
        self.prior = GaussianPrior(gaussian.mean.reshape(event_shape), gaussian.covariance, sigma_range=sigma_range)
        self.prior.scale, self.prior.shift = scale, shift
        low, high = sigma_range
        values, vectors = torch.linalg.eigh(gaussian.covariance)
        self._mean, self._vectors, self._start = gaussian.mean, vectors, SIGMA_DATA**2 + high**2
        self._weights = 1 / (values + low**2) - 1 / (values + high**2)

    def neg_log_prob(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The bound's average, exact: no random number is drawn."""
        flat = x.flatten(1)
        modes = (flat - self._mean.to(x)) @ self._vectors.to(x)
        return 0.5 * (modes.square() @ self._weights.to(x) + flat.square().sum(1) / self._start)


class LearnedTarget(Target):
    """The diffusion's bound, with the Gaussian start taking noise out of it.

    Parameters
    ----------
    prior : Prior
        The learner.
    reference : GaussianTarget
    n_t : int
        Noise levels per event.
    through_network : bool
        Whether the gradient passes through the denoiser, as it should.
    """

    def __init__(self, prior: Prior, reference: GaussianTarget, n_t: int, through_network: bool = True) -> None:
        self.prior, self.reference, self.n_t, self.through_network = prior, reference, n_t, through_network

    def neg_log_prob(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """An estimate whose mean is the bound's."""
        if not self.through_network:
            return self._bound(self.prior, x, generator)
        twin = torch.Generator(x.device)
        twin.set_state((generator or torch.default_generator).get_state())
        own, known = self._bound(self.prior, x, generator), self._bound(self.reference.prior, x, twin)
        return own - known + self.reference.neg_log_prob(x)

    def _bound(self, prior: Prior, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return prior.neg_log_bound(
            x, self.n_t, sigma_data=SIGMA_DATA, through_network=self.through_network, generator=generator
        )
