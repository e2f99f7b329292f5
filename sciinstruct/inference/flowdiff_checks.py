"""What joint training refuses at the door, and the number that shows a wrong noise level."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sciinstruct.core import Likelihood
from sciinstruct.core.checks import check_finite
from sciinstruct.inference.simulator import AffineSimulator, OperatorSimulator, Simulator, as_simulator

_CHI2_OFF = 0.15
_FEWEST = 16


def admit(measurements: Tensor | Sequence[Tensor], simulator: Simulator | Likelihood) -> tuple[Simulator, Tensor]:
    """The law and the measurements (n, *range_shape) that a prior can be learned from.

    Raises
    ------
    TypeError, ValueError
        As `as_simulator`, `as_measurements` and `check_differentiable`.
    """
    law = as_simulator(simulator)
    y = as_measurements(measurements, law)
    probe = torch.full((1, *law.domain_shape), 0.1, dtype=y.real.dtype, device=y.device)
    check_differentiable(law, y[:1], probe)
    return law, y


def as_measurements(measurements: Tensor | Sequence[Tensor], law: Simulator) -> Tensor:
    """Measurements as one tensor (n, *range_shape).

    Raises
    ------
    TypeError
        If they are no floating or complex tensors.
    ValueError
        If their shapes differ from each other or from the simulator's, one is not finite, all are constant or the
        same, or there are fewer than 16.
    """
    if not isinstance(measurements, Tensor):
        shapes = sorted({tuple(m.shape) for m in measurements})
        if len(shapes) > 1:
            raise ValueError(
                f"measurements must share one shape, got {', '.join(map(str, shapes[:4]))}; crop or pad them, or train "
                "one prior per shape"
            )
        measurements = torch.stack(list(measurements))
    if not (measurements.is_floating_point() or measurements.is_complex()):
        raise TypeError(f"measurements must be floating or complex, got {measurements.dtype}; convert with .float()")
    if tuple(measurements.shape[1:]) != tuple(law.range_shape):
        raise ValueError(f"measurements must have shape (n, *{law.range_shape}), got {tuple(measurements.shape)}")
    if len(measurements) < _FEWEST:
        raise ValueError(f"{len(measurements)} measurements are too few to learn a law from: at least {_FEWEST}")
    check_finite("measurements", measurements)
    data = law.observed(measurements) if isinstance(law, AffineSimulator) else measurements
    if not float((data - data[:1]).abs().max()) > 0:
        raise ValueError("measurements are constant: all are the same, there is no law to learn")
    return measurements


def check_differentiable(law: Simulator, y: Tensor, image: Tensor) -> None:
    """Raise ValueError unless log p(y | image) has a finite gradient in the image (B, *domain_shape), not zero."""
    leaf = image.detach().clone().requires_grad_()
    reason = "has no gradient"
    try:
        (slope,) = torch.autograd.grad(law.log_prob(y, leaf).sum(), leaf)
        if not torch.isfinite(slope).all():
            reason = "has a gradient that is not finite"
        elif float(slope.abs().max()) > 0:
            return
        else:
            reason = "has a gradient that is zero everywhere, as rounding and thresholds have"
    except RuntimeError as error:
        reason += f" ({str(error).splitlines()[0]})"
    raise ValueError(
        f"the simulator's log_prob {reason}: the operator must be differentiable in the image; write it in torch "
        "without numpy, item() or detach()"
    )


def check_shapes(prior_shape: Sequence[int], clean: Tensor | None) -> None:
    """Raise ValueError unless clean images, if any, are finite and of the prior's shape."""
    if clean is None:
        return
    if tuple(clean.shape[1:]) != tuple(prior_shape):
        raise ValueError(f"clean_images must have shape (n, *{tuple(prior_shape)}), got {tuple(clean.shape)}")
    check_finite("clean_images", clean)


@torch.no_grad()
def chi_square(law: Simulator, y: Tensor, image: Tensor) -> Tensor | None:
    """Mean squared residual in standard deviations of the noise, (B,), of physical images; None if no scale is known.

    Over data and draws of the right posteriors under the right prior its mean is 1.
    """
    if not isinstance(law, AffineSimulator):
        return None
    prediction = law.predict(image, y)
    try:
        precision = law.precision(y, prediction)
    except NotImplementedError:
        if not isinstance(law, OperatorSimulator):
            return None
        return law.noise.whiten(y, prediction).square().mean(1)
    misfit = law.observed(y) - prediction
    parts = 2 if misfit.is_complex() else 1
    square = (misfit.abs().square() * precision).flatten(1).sum(1)
    return square / (parts * (precision > 0).expand_as(misfit).flatten(1).sum(1).clamp_min(1))


def chi2_warning(chi2: float) -> str | None:
    """What a mean chi-square far from 1 means."""
    if abs(chi2 - 1) <= _CHI2_OFF:
        return None
    claim = "smaller" if chi2 < 1 else "larger"
    return (
        f"chi-square is {chi2:.2f}, where right priors and posteriors give 1: the noise is {claim} than claimed, the "
        "operator is wrong, or training was too short; the learned law makes up for it"
    )
