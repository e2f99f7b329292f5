"""Samples that come as Markov chains, arviz objects among them: how many independent draws they are worth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import Posterior, SciinstructError

if TYPE_CHECKING:
    import xarray

MAX_ENTRIES = 64  # entries of an event that are diagnosed one by one
RHAT_GOOD = 1.01


class ChainNumbers(NamedTuple):
    """Worst over all entries looked at."""

    rhat: float  # rank-normalised split R-hat; 1 when chains agree
    ess: float  # effective sample size, the smaller of bulk and tail
    mcse: float  # Monte Carlo error of the mean over the standard deviation
    entries: int  # how many were looked at, their mean included


def chain_numbers(chains: Tensor) -> ChainNumbers:
    """R-hat, effective sample size and Monte Carlo error of chains of images, by `chain_diagnostics`.

    Parameters
    ----------
    chains : Tensor, shape (C, D, *event_shape)
        C chains of D draws. Up to 64 entries of the event, evenly spread, those that never vary left out, and the mean
        of all are looked at. A single chain is halved.

    Returns
    -------
    ChainNumbers

    Raises
    ------
    SciinstructError
        If arviz is not installed.
    ValueError
        With fewer than 4 draws, 8 of a single chain.
    """
    from sciinstruct.inference.baselines.chains import FEWEST_DRAWS, chain_diagnostics  # brings every baseline

    least = FEWEST_DRAWS if len(chains) > 1 else 2 * FEWEST_DRAWS
    if chains.shape[1] < least:
        raise ValueError(
            f"chains must have at least {FEWEST_DRAWS} draws each, {2 * FEWEST_DRAWS} if there is but one, got "
            f"{len(chains)} of {chains.shape[1]}; give no chains if the samples are independent"
        )
    flat = chains.detach().cpu().double().flatten(2)
    entries = flat[..., :: -(-flat.shape[2] // MAX_ENTRIES)]
    moving = entries.flatten(0, 1).var(0) > 0
    entries = torch.cat([entries[..., moving], flat.mean(2, keepdim=True)], 2)
    if len(chains) == 1:  # its halves stand for two, an odd draw left out
        entries = entries[0, chains.shape[1] % 2 :].unflatten(0, (2, -1))
    try:
        found = chain_diagnostics(entries)
    except ImportError as error:
        raise SciinstructError("chains need arviz: pip install 'sciinstruct[chains]'") from error
    ess = min(found["ess_bulk"], found["ess_tail"])
    return ChainNumbers(found["r_hat"], ess, found["mcse_mean"], entries.shape[2])


def independent_draws(chains: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Thin the chains of N observations to as many draws as the worst of them is worth.

    Correlated samples make ranks that are not uniform even for a perfect sampler.

    Parameters
    ----------
    chains : Tensor, shape (N, C, D, *event_shape)

    Returns
    -------
    tuple
        Samples (N, S, *event_shape), evenly spaced along the chains, and the worst numbers over observations.

    References
    ----------
    Talts et al. 2018, section 5.1, for the thinning.
    """
    found = [chain_numbers(one) for one in chains]
    n, c, d = chains.shape[:3]
    kept = max(1, min(c * d, int(min(number.ess for number in found))))
    pick = torch.linspace(0, c * d - 1, kept).round().long()
    numbers = {
        "chains": c,
        "draws": d,
        "rhat": max(number.rhat for number in found),
        "ess": min(number.ess for number in found),
        "mcse": max(number.mcse for number in found),
        "thinned_to": kept,
    }
    return chains.flatten(1, 2)[:, pick.to(chains.device)], numbers


def posterior_from_arviz(data: Any, variable: str | None = None) -> Posterior:
    """Turn an arviz object into a `Posterior`, with its chains' numbers among the diagnostics.

    Parameters
    ----------
    data : arviz.InferenceData, xarray.DataTree or xarray.Dataset
        With a ``posterior`` group (or being it), dims ``chain`` and ``draw`` first.
    variable : str, optional
        The variable to take; by default all of them, side by side, unless there is one only.

    Returns
    -------
    Posterior
        All draws, chain after chain. R-hat above 1.01, or an effective size under 100 per chain, is a warning that the
        report shows in red.

    Raises
    ------
    ValueError
        If there is no posterior, or no such variable.
    """
    chains, coordinates = _chains_of(data, variable)
    numbers = chain_numbers(chains)
    warnings = []
    if numbers.rhat > RHAT_GOOD:
        warnings.append(f"the chains disagree: R-hat {numbers.rhat:.3f}, above {RHAT_GOOD}")
    if numbers.ess < 100 * len(chains):
        warnings.append(f"the chains are worth {numbers.ess:.0f} independent draws, fewer than 100 per chain")
    diagnostics = {
        "rhat": numbers.rhat,
        "effective_sample_size": numbers.ess,
        "mcse_over_sd": numbers.mcse,
        "warnings": warnings,
    }
    attributes = {"solver": "chains", "chains": chains.shape[0], "draws": chains.shape[1]}
    return Posterior(chains.flatten(0, 1), coordinates, attributes, diagnostics)


def stack_arviz(objects: Sequence[Any], variable: str | None = None) -> Tensor:
    """Chains (N, C, D, *event_shape) of N arviz objects, one per observation; all of one shape."""
    found = [_chains_of(one, variable)[0] for one in objects]
    shapes = {tuple(chains.shape) for chains in found}
    if len(shapes) > 1:
        raise ValueError(f"all observations must have as many chains and draws, got {sorted(shapes)}")
    return torch.stack(found)


def per_observation(data: Any) -> list[Any]:
    """Cut an arviz object along its dim ``observation``; ValueError if it has none."""
    group = _posterior_group(data)
    if "observation" not in group.dims:
        raise ValueError(
            "an arviz object must have a dim 'observation', or come in a list with one per observation; "
            f"its dims are {', '.join(map(str, group.dims))}"
        )
    return [group.isel(observation=i) for i in range(group.sizes["observation"])]


def is_arviz(data: object) -> bool:
    """Whether `data` holds a posterior group."""
    return hasattr(data, "posterior") or (hasattr(data, "dims") and {"chain", "draw"} <= set(data.dims))


def _chains_of(data: Any, variable: str | None) -> tuple[Tensor, dict[str, tuple[Any, str]]]:
    dataset = _posterior_group(data)
    names = list(dataset.data_vars) if variable is None else [variable]
    missing = [name for name in names if name not in dataset]
    if missing or not names:
        raise ValueError(f"the posterior has no variable {variable!r}; it has {', '.join(map(str, dataset.data_vars))}")
    arrays = [dataset[name].transpose("chain", "draw", ...) for name in names]
    tensors = [torch.as_tensor(array.values.copy()) for array in arrays]
    if len(tensors) == 1 and tensors[0].ndim > 2:
        return tensors[0], _coordinates(arrays[0])
    return torch.cat([tensor.flatten(2) if tensor.ndim > 2 else tensor[..., None] for tensor in tensors], 2), {}


def _posterior_group(data: Any) -> "xarray.Dataset":
    group = getattr(data, "posterior", data)
    group = group.to_dataset() if not hasattr(group, "data_vars") or type(group).__name__ == "DataTree" else group
    if not {"chain", "draw"} <= set(group.dims):
        raise ValueError(f"samples must have dims chain and draw, got {', '.join(map(str, group.dims)) or 'none'}")
    return group


def _coordinates(array: "xarray.DataArray") -> dict[str, tuple[Any, str]]:
    """Coordinates of the image axes, where they are named."""
    found: Mapping[str, Any] = {axis: array[axis] for axis in ("y", "x") if axis in array.coords}
    return {axis: (values.values, str(values.attrs.get("units", "pixel"))) for axis, values in found.items()}
