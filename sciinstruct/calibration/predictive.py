"""Posterior-predictive checks: do the samples explain the data, no more and no less? No truth needed."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import BaseLikelihood

MAX_REPLICATES = 256
CHUNK = 64


class PredictiveTerm(NamedTuple):
    """One data term seen from the posterior."""

    chi2: Tensor  # (S,) reduced chi-square of the data at each sample
    replicated: Tensor  # (R,) the same for data simulated from the first R samples
    p: float  # share of samples whose chi2 is no larger than their own replicate's, (count + 1) / (R + 2)
    n: int | None  # independent real data behind the term, None if the likelihood does not tell

    @property
    def standard_error(self) -> float:
        """Standard deviation of the chi-square of one data set at its own sample."""
        return float(self.replicated.std())


def data_counts(likelihood: BaseLikelihood, image: Tensor) -> Mapping[str, int]:
    """Residuals per chi-square term: the likelihood's ``counts``, or all of them where there is a single term."""
    counts: Mapping[str, int] | None = getattr(likelihood, "counts", None)
    if counts is not None:
        return counts
    try:
        names = list(likelihood.chi2(image[:1]))
        return {names[0]: likelihood.residuals(image[:1]).shape[1]} if len(names) == 1 else {}
    except NotImplementedError:
        return {}


def chi2_per_sample(likelihood: BaseLikelihood, samples: Tensor) -> dict[str, Tensor]:
    """Reduced chi-square of every sample, each (S,), in chunks of 64 images."""
    with torch.no_grad():
        parts = [likelihood.chi2(chunk) for chunk in samples.split(CHUNK)]
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}


def predictive_check(
    likelihood: BaseLikelihood, samples: Tensor, generator: torch.Generator | None = None
) -> dict[str, PredictiveTerm]:
    r"""Compare :math:`T(x_s, y)` with :math:`T(x_s, A(x_s) + \text{noise})`, T each term's reduced chi-square.

    Under the joint law the two are exchangeable: the mean of T is 1 and the predictive p is not extreme. Below 1 the
    samples overfit. (The posterior *mean* always has a chi-square below 1: that is no overfit.)

    Parameters
    ----------
    likelihood : BaseLikelihood
    samples : Tensor, shape (S, *event_shape)
        In the likelihood's units. The first 256 are replicated.

    Returns
    -------
    dict of PredictiveTerm
        One per term of ``likelihood.chi2``.
    """
    observed = chi2_per_sample(likelihood, samples)
    n_replicates = min(len(samples), MAX_REPLICATES)
    replicated: dict[str, list[Tensor]] = {name: [] for name in observed}
    with torch.no_grad():
        for i in range(n_replicates):
            image = samples[i : i + 1]
            for name, value in likelihood.simulate(image, generator).chi2(image).items():
                replicated[name].append(value)
    counts = data_counts(likelihood, samples)
    terms = {}
    for name, chi2 in observed.items():
        repeats = torch.cat(replicated[name]).double().cpu()
        inside = int((chi2[:n_replicates] <= repeats).sum())
        terms[name] = PredictiveTerm(chi2, repeats, (inside + 1) / (n_replicates + 2), counts.get(name))
    return terms


def mean_residuals(likelihood: BaseLikelihood, samples: Tensor) -> Tensor | None:
    """Whitened residuals averaged over samples, (n,), or None where the likelihood has none."""
    try:
        with torch.no_grad():
            total = sum(likelihood.residuals(chunk).sum(0) for chunk in samples.split(CHUNK))
    except NotImplementedError:
        return None
    return (total / len(samples)).cpu()  # type: ignore[union-attr]
