"""What every exact posterior offers."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class ExactPosterior(ABC):
    r"""Exact posterior of a mixture prior, :math:`\sum_k w_k N(m_k, S_k)`, in the prior's units.

    Attributes
    ----------
    weights : Tensor, shape (K,)
        Posterior component weights.
    means : Tensor, shape (K, *event_shape)
        Posterior component means.
    log_evidence : float
        log p(y) in nats; NaN where it is not computed.
    """

    weights: Tensor
    means: Tensor
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """Posterior mean, (*event_shape)."""
        return torch.tensordot(self.weights, self.means, 1)

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw `n` independent images, (n, *event_shape)."""
