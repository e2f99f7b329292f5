"""The mixture of stationary Gaussian fields nearest to a set of images: where networks for images start from."""

import torch
from torch import Tensor

from sciinstruct.core import PriorError
from sciinstruct.priors.field_mixture import MixtureOfFields

_ROUNDS, _STARTS, _FEW = 40, 4, 1024  # from random starts, on some of the images
_LAST_ROUNDS = 10  # from the best of them, on all
_LEAST_POWER = 1e-6  # of the largest
_LEAST_SHARE = 0.01


def fit_fields(images: Tensor, components: int, generator: torch.Generator | None) -> MixtureOfFields:
    """Fit means, weights and one common power spectrum by expectation maximisation; with one component, by averages.

    Parameters
    ----------
    images : Tensor, shape (n, C, H, W)
        n well above `components`.
    components : int
        Components that fewer than 1 % of the images belong to keep that weight.

    Raises
    ------
    PriorError
        If there are fewer images than two per component, or they are all alike.
    """
    if len(images) < 2 * components:
        raise PriorError(f"fitting {components} fields needs at least {2 * components} images, got {len(images)}")
    x = images.double()
    if components == 1:
        return _maximise(x, x.new_ones(len(x), 1))
    few = x[: max(_FEW, 2 * components)]
    fits = [_from_random_start(few, components, generator) for _ in range(_STARTS)]
    best = max(fits, key=lambda fit: float(fit.log_prob(few).mean()))
    return _improve(best, x, _LAST_ROUNDS)


def _from_random_start(x: Tensor, components: int, generator: torch.Generator | None) -> MixtureOfFields:
    fit = _maximise(x, x.new_ones(len(x), 1))
    chosen = torch.randperm(len(x), generator=generator, device=x.device)[:components]
    # half-way to the mean: the noise of a single image would decide who belongs to it
    means = 0.5 * (x[chosen] + fit.means)
    return _improve(MixtureOfFields(means, fit.full_spectra(fit.spectra)[0]), x, _ROUNDS)


def _improve(fit: MixtureOfFields, x: Tensor, rounds: int) -> MixtureOfFields:
    """Rounds of expectation maximisation."""
    for _ in range(rounds):
        fit = _maximise(x, fit.responsibilities(x))
    return fit


def _maximise(x: Tensor, shares: Tensor) -> MixtureOfFields:
    """Means, weights and spectrum for given responsibilities (n, K)."""
    total = shares.sum(0)
    weights = (total / len(x)).clamp_min(_LEAST_SHARE)
    means = torch.tensordot(shares.T, x, 1) / total.clamp_min(1e-9)[:, None, None, None]
    squares = torch.fft.fft2(x, norm="ortho").abs().square().mean(0)
    centres = torch.fft.fft2(means, norm="ortho").abs().square()
    spectrum = squares - torch.tensordot(total / len(x), centres, 1)
    spectrum = spectrum * len(x) / max(1, len(x) - shares.shape[1])
    if not float(spectrum.max()) > 0:
        raise PriorError("the prior's draws are all alike: there is no spread to learn")
    return MixtureOfFields(means, spectrum.clamp_min(_LEAST_POWER * float(spectrum.max())), weights)
