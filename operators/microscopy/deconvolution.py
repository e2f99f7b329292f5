"""Deconvolution without a prior: the Richardson-Lucy iteration and the Wiener filter, baselines of every comparison."""

from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core.checks import check_event, check_finite
from sciinstruct.core.operator import LinearOperator

_SMALL = 1e-12  # of the largest value: below it a division is 0/0


def richardson_lucy(
    y: Tensor,
    operator: LinearOperator,
    *,
    iterations: int,
    background: Tensor | float = 0.0,
    total_variation: float = 0.0,
    start: Tensor | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    r"""Most likely non-negative image under Poisson noise, by expectation maximisation, stopped early.

    .. math::
        x \leftarrow \frac{x}{A^T 1 - \mu\, \operatorname{div}(\nabla x/|\nabla x|)}\; A^T \frac{y}{A x + b}

    Parameters
    ----------
    y : Tensor, shape (B, *range_shape)
        Electrons, zero or more.
    operator : LinearOperator
        Blur A with non-negative weights: any boundary, down-sampling or mask.
    iterations : int
        Updates; noise grows with them, so they are the regularisation where `total_variation` is zero.
    background : float or Tensor
        Electrons b that light from the image does not explain, broadcasting to `y`.
    total_variation : float
        Weight mu of the total variation in log-likelihood per unit of image; 0.002 to 0.02 is usual.
    start : Tensor, shape (B, *domain_shape), optional
        First image; what is zero or less in it stays zero. Default: flat, of the data's own flux above the background.
    callback : callable, optional
        ``callback(iteration, x)`` after each update, counted from 1.

    Returns
    -------
    Tensor, shape (B, *domain_shape)
        Non-negative image in the unit of `y` over that of the operator.

    Raises
    ------
    ValueError
        If `y` has another shape than the operator's range, is negative or not finite, or an argument is out of range.

    Notes
    -----
    Camera data z fall below zero by their read noise r. Add its variance to both sides, ``y = (z + r**2).clamp(min=0)``
    and ``background + r**2``, which is the shifted Poisson law. Without total variation the likelihood never falls, and
    with no background the flux of :math:`A x` is that of `y` after every update. With it the step is the one-step-late
    rule of Dey et al. 2006 (Microscopy Research and Technique 69, 260), whose denominator is held above a tenth of
    :math:`A^T 1`.

    References
    ----------
    Richardson 1972 (JOSA 62, 55); Lucy 1974 (AJ 79, 745); Shepp and Vardi 1982 for the proof.
    """
    background = _check(y, operator, iterations, background, total_variation)
    seen = operator.adjoint(torch.ones_like(y))
    if start is not None:
        check_event("start", start, operator.domain_shape)
        x = start.clamp(min=0)
    else:
        axes = tuple(range(1, seen.ndim))
        flux = (y - background).clamp(min=0).flatten(1).sum(1)
        flux = torch.where(flux > 0, flux, y.flatten(1).sum(1))
        x = (flux.reshape(-1, *[1] * len(axes)) / seen.sum(axes, keepdim=True).clamp(min=_SMALL)).expand_as(seen)
    blind = seen <= _SMALL * seen.max()
    for iteration in range(1, iterations + 1):
        cost = seen
        if total_variation:
            cost = torch.maximum(seen + total_variation * _variation_slope(x), 0.1 * seen)
        prediction = operator(x) + background
        rounding = torch.finfo(y.dtype).eps * prediction.amax()  # an FFT's zeros, of either sign: no light to compare
        ratio = torch.where(prediction > rounding, y / prediction.clamp(min=rounding), 0.0)
        gain = operator.adjoint(ratio).clamp(min=0) / cost.clamp(min=_SMALL)
        x = torch.where(blind, x, x * gain)
        if callback is not None:
            callback(iteration, x)
    return x


def _check(
    y: Tensor, operator: LinearOperator, iterations: int, background: Tensor | float, total_variation: float
) -> Tensor:
    """Refuse what has no answer; the background as a tensor."""
    check_event("y", y, operator.range_shape)
    check_finite("y", y)
    if (y < 0).any():
        raise ValueError(
            f"y must be zero or more, its smallest value is {y.min():.3g}: add the read noise's variance to y and to "
            "the background, then clip what is left with .clamp(min=0)"
        )
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
    if not 0 <= total_variation < float("inf"):
        raise ValueError(f"total_variation must be zero or more, got {total_variation}")
    background = torch.as_tensor(background, dtype=y.dtype, device=y.device)
    check_finite("background", background)
    if (background < 0).any():
        raise ValueError(f"background must be zero or more, its smallest value is {background.min():.3g}")
    return background


def _variation_slope(x: Tensor) -> Tensor:
    """Gradient of the total variation over all axes of space, minus the divergence of the unit gradient."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        axes = range(2, x.ndim)
        steps = [torch.diff(leaf, dim=d, append=leaf.narrow(d, leaf.shape[d] - 1, 1)) for d in axes]
        rounding = 1e-6 * float(leaf.detach().mean()) + torch.finfo(x.dtype).tiny
        length = torch.stack([s.square() for s in steps]).sum(0).add(rounding**2).sqrt()
        return torch.autograd.grad(length.sum(), leaf)[0]


def wiener(y: Tensor, blur: LinearOperator, *, noise_to_signal: Tensor | float) -> Tensor:
    r"""Linear estimate of least squared error for a stationary scene behind a periodic blur.

    :math:`\hat x = F^{-1} \frac{\bar H}{|H|^2 + N/S}\, F y`; subtract a known background first.

    Parameters
    ----------
    y : Tensor, shape (B, *range_shape)
        Data, any sign.
    blur : LinearOperator
        Periodic convolution, the same for every channel.
    noise_to_signal : float or Tensor
        Power of the noise over that of the scene: one number, or a spectrum over the frequencies of
        ``torch.fft.fftn`` of one channel. The mean of a scene has great power: a number that fits its structure
        pulls the flux down by the factor 1/(1 + N/S).

    Returns
    -------
    Tensor, shape (B, *domain_shape)

    Raises
    ------
    ValueError
        If `blur` is not a periodic convolution, `y` has another shape or is not finite, or `noise_to_signal` is not
        positive.
    """
    check_event("y", y, blur.range_shape)
    check_finite("y", y)
    ratio = torch.as_tensor(noise_to_signal, dtype=y.dtype, device=y.device)
    check_finite("noise_to_signal", ratio)
    if not (ratio > 0).all():
        raise ValueError(f"noise_to_signal must be positive, its smallest value is {ratio.min():.3g}")
    axes = tuple(range(-len(blur.domain_shape) + 1, 0))
    transfer = torch.fft.fftn(_impulse_response(blur, y), dim=axes)
    return torch.fft.ifftn(
        transfer.conj() / (transfer.abs().square() + ratio) * torch.fft.fftn(y, dim=axes), dim=axes
    ).real


def _impulse_response(blur: LinearOperator, like: Tensor) -> Tensor:
    """Image of a point at the first pixel, checked against that of a point elsewhere."""
    points = like.new_zeros(2, *blur.domain_shape)
    middle = tuple(n // 2 for n in blur.domain_shape[1:])
    points[0].flatten(1)[:, 0] = 1
    points[1] = points[0].roll(middle, tuple(range(1, len(middle) + 1)))
    first, second = blur(points)
    moved = first.roll(middle, tuple(range(1, first.ndim))) if first.shape == points.shape[1:] else None
    if moved is None or (moved - second).abs().max() > 1e-4 * first.abs().max():
        raise ValueError(
            "blur must be a periodic convolution, the same everywhere and with data of the image's shape: "
            "use richardson_lucy for other boundaries, down-sampling and masks"
        )
    return first
