"""Posterior samples for scientific inverse problems under diffusion priors, with reports on how far to trust them."""

from typing import Any

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


def _write_report(posterior: Any, folder: Any, **options: Any) -> Any:
    from sciinstruct.calibration.report import write_report

    return write_report(posterior, folder, **options)


Posterior.report_writer = staticmethod(_write_report)

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
