"""What parallel chains say about their own convergence, computed by arviz."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from types import ModuleType

FEWEST_DRAWS = 4  # arviz halves the chains and needs two draws in each half
_R_HAT = 1.01
_ESS = 400
_STUCK = {"r_hat": float("inf"), "ess_bulk": 1.0, "ess_tail": 1.0, "mcse_mean": 1.0}


def chain_diagnostics(chains: Tensor) -> dict[str, Any]:
    """Convergence of `chains`: of all entries of an image, the one that fares worst.

    Parameters
    ----------
    chains : Tensor, shape (chains, draws, *event)
        Draws in order, without warm-up; at least 2 chains of 4 draws.

    Returns
    -------
    dict
        ``r_hat`` (rank-normalised and split, largest), ``ess_bulk`` and ``ess_tail`` (smallest, draws), ``mcse_mean``
        (Monte Carlo standard error of the mean over the entry's standard deviation, largest), ``chains``, ``draws``,
        and ``warnings`` (list of str; empty if r_hat is at most 1.01 and both sample sizes at least 400). If a chain
        never moved in some entry, r_hat is infinite and the sample sizes are 1.

    Raises
    ------
    ValueError
        With fewer chains or draws.
    ImportError
        Without arviz.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, "Rank-normalization, folding, and localization".
    """
    if chains.ndim < 3 or len(chains) < 2 or chains.shape[1] < FEWEST_DRAWS:
        raise ValueError(
            f"chains must have shape (at least 2, at least {FEWEST_DRAWS}, *event), got {tuple(chains.shape)}"
        )
    arviz = require_arviz()
    values = chains.detach().double().flatten(2).cpu().numpy()
    stuck = bool((values == values[:, :1]).all(1).any())  # a chain stood still: ranks and variances say nothing
    worst = _STUCK if stuck else _worst(arviz, values)
    return {**worst, "chains": len(chains), "draws": chains.shape[1], "warnings": _warnings(worst)}


def _worst(arviz: "ModuleType", values: np.ndarray) -> dict[str, float]:
    data = arviz.convert_to_dataset({"x": values})
    deviation = values.std((0, 1), ddof=1)
    return {
        "r_hat": float(arviz.rhat(data, method="rank")["x"].max()),
        "ess_bulk": float(arviz.ess(data, method="bulk")["x"].min()),
        "ess_tail": float(arviz.ess(data, method="tail")["x"].min()),
        "mcse_mean": float((arviz.mcse(data, method="mean")["x"].values / deviation).max()),
    }


def _warnings(worst: dict[str, float]) -> list[str]:
    said = []
    if not worst["r_hat"] <= _R_HAT:
        said.append(f"chains disagree: R-hat is {worst['r_hat']:.3g}, above {_R_HAT}; run longer, or with more chains")
    smallest = min(worst["ess_bulk"], worst["ess_tail"])
    if not smallest >= _ESS:
        said.append(f"the chains are worth {smallest:.0f} independent draws, fewer than {_ESS}; run longer")
    return said


def require_arviz() -> "ModuleType":
    """Import arviz; ImportError says what to install."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it announces of its next release
            import arviz
    except ImportError as error:
        raise ImportError("diagnostics of chains need arviz: pip install 'arviz>=0.20,<1'") from error
    return arviz
