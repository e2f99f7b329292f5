"""Posterior samples for scientific inverse problems under diffusion priors, with reports on how far to trust them."""

from sciinstruct import _checkout

_checkout.enable()

from sciinstruct.core import (  # noqa: E402
    InverseProblem,
    Likelihood,
    LinearOperator,
    Operator,
    Posterior,
    SciinstructError,
)
from sciinstruct.priors.base import Prior  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "InverseProblem",
    "Likelihood",
    "LinearOperator",
    "Operator",
    "Posterior",
    "Prior",
    "SciinstructError",
    "__version__",
]
