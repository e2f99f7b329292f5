r"""The Gaussian law of clean images that explains corrupted ones best: what joint training starts from.

With linear data :math:`y_i = A_i x + b_i + n_i` and x ~ N(m, C), expectation maximisation has closed steps: every
image's posterior N(m_i, P_i), then :math:`m = \overline{m_i}` and :math:`C = \overline{P_i} + \mathrm{cov}(m_i)`.
Directions that the data see poorly hardly move from where they began (they contract by :math:`1 - (1 - l)^2` a round, l
their share of variance that the data leave): images begin from the smooth stationary field that is likeliest, not from
noise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import PriorError
from sciinstruct.inference.instrument import Instrument
from sciinstruct.inference.simulator import Simulator
from sciinstruct.priors.base import Prior
from sciinstruct.priors.field import matern
from sciinstruct.priors.gaussian import GaussianPrior

DENSE = 1024  # numbers in an event up to which covariances are formed
DENSE_VARYING = 400  # the same where every item has an instrument of its own, and a factorisation each step
_ROUNDS, _SMALL = 60, 400  # of expectation maximisation; up to this many numbers, 4 times as many
_ITEMS, _ITEMS_ROUNDS = 96, 20  # per round, and rounds, where items differ
_LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)  # pixels: correlation lengths tried
_LEAST = 1e-6  # of the largest eigenvalue of the covariance
_NO_SIGNAL = (
    "the measurements vary no more than their noise alone would make them: the noise level is claimed too large, or "
    "all show the same"
)


class Gaussian(NamedTuple):
    """Mean and covariance of flattened events, float64, in physical units."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d)


class LinearView(NamedTuple):
    """One instrument for all items, as a matrix, with data and rows over the noise's standard deviation."""

    matrix: Tensor  # (m, d)
    data: Tensor  # (n, m), offset taken off


def unit_prior(event_shape: tuple[int, ...]) -> Prior:
    """A prior in physical units: for instruments seen without one."""
    d = torch.Size(event_shape).numel()
    return GaussianPrior(torch.zeros(event_shape), torch.eye(d).double())


def real_rows(x: Tensor) -> Tensor:
    """Batches (B, ...) as real rows (B, n)."""
    return (torch.view_as_real(x) if x.is_complex() else x).flatten(1)


def fit_gaussian(law: Simulator, y: Tensor, generator: torch.Generator | None) -> Gaussian:
    """Fit by expectation maximisation.

    Parameters
    ----------
    law : AffineSimulator
        Whose data are affine in the image, with noise that states its variance.
    y : Tensor, shape (n, *range_shape)
        All measurements.

    Raises
    ------
    TypeError, PriorError
        If the law is of another kind, or the data vary no more than their noise.
    """
    d = torch.Size(law.domain_shape).numel()
    instrument = physical_instrument(law, y)
    if not getattr(law, "varies", False):
        view = linear_view(instrument, y)
        rounds = _ROUNDS * (4 if d <= _SMALL else 1)
        return _fit_shared(view, starts(law.domain_shape), rounds)
    return _fit_varying(instrument, y, law.domain_shape, generator)


def physical_instrument(law: Simulator, y: Tensor) -> Instrument:
    """The instrument in physical units, its noise taken where a constant image fits the data (n, ...) best."""
    like = torch.zeros(1, *law.domain_shape, dtype=y.real.dtype, device=y.device)
    prior, few = unit_prior(law.domain_shape), y[:_ITEMS]
    dark = Instrument(prior, law, like[0], few)
    zero = like.expand(len(few), *law.domain_shape)
    pulled, response = dark.pull(dark.misfit(zero, few), few), dark.predict(zero + 1, few) - dark.predict(zero, few)
    level = float(pulled.sum() / response.abs().square().sum().clamp_min(1e-30))
    return Instrument(prior, law, like[0] + level, few)


def linear_view(instrument: Instrument, y: Tensor) -> LinearView:
    """Matrix and whitened data of an instrument that is the same for all items."""
    shape, d = instrument.event_shape, torch.Size(instrument.event_shape).numel()
    eye = torch.eye(d, dtype=y.real.dtype, device=y.device).reshape(d, *shape)
    one = y[:1]
    offset = instrument.predict(torch.zeros_like(eye[:1]), one)
    rows = instrument.predict(eye, one.expand(d, *one.shape[1:])) - offset
    mean = y.mean(0, keepdim=True)
    precision = instrument.precision(mean).expand(1, *offset.shape[1:])
    if offset.is_complex():
        precision = precision[..., None].expand(*precision.shape, 2)
    root = precision.flatten(1).double().sqrt()
    matrix = (real_rows(rows).double() * root).T
    return LinearView(matrix, real_rows(instrument.law.observed(y) - offset).double() * root)


def starts(event_shape: tuple[int, ...]) -> list[Tensor]:
    """Covariances of unit variance to begin from: smooth fields for images, white for vectors."""
    d = torch.Size(event_shape).numel()
    white = torch.eye(d, dtype=torch.float64)
    if len(event_shape) != 3:
        return [white]
    c, h, w = event_shape
    points = torch.eye(h * w, dtype=torch.float64).reshape(h * w, h, w)
    found = [white]
    for length in _LENGTHS:
        power = matern((h, w), length, 1.5)
        field = torch.fft.ifft2(torch.fft.fft2(points) * power).real.reshape(h * w, h * w)
        found.append(torch.block_diag(*[0.5 * (field + field.T)] * c))
    return found


def _fit_shared(view: LinearView, shapes: list[Tensor], rounds: int) -> Gaussian:
    """Best start by marginal likelihood, then expectation maximisation on the data's first two moments."""
    a, t = view
    centre = t.mean(0)
    spread = (t - centre).T @ (t - centre) / max(1, len(t) - 1)
    excess = float(spread.diagonal().sum()) - len(centre)
    if not excess > 0:
        raise PriorError(_NO_SIGNAL)
    begun = [shape * (excess / float(((a @ shape) * a).sum())) for shape in shapes]
    covariance = max(begun, key=lambda c: _log_marginal(a @ c @ a.T, spread))
    mean = torch.zeros_like(a[0])
    eye = torch.eye(len(centre), dtype=a.dtype, device=a.device)
    for _ in range(rounds):
        gain = torch.linalg.solve(a @ covariance @ a.T + eye, a @ covariance).T
        mean = mean + gain @ (centre - a @ mean)
        covariance = covariance - gain @ (a @ covariance) + gain @ spread @ gain.T
        covariance = 0.5 * (covariance + covariance.T)
    return Gaussian(mean, _lifted(covariance))


def _log_marginal(signal: Tensor, spread: Tensor) -> float:
    """Twice the Gaussian log-likelihood per item of data of covariance `spread`, noise of unit variance."""
    total = signal + torch.eye(len(signal), dtype=signal.dtype, device=signal.device)
    chol = torch.linalg.cholesky(total)
    return float(-2 * chol.diagonal().log().sum() - torch.cholesky_solve(spread, chol).diagonal().sum())


def _fit_varying(
    instrument: Instrument, y: Tensor, shape: tuple[int, ...], generator: torch.Generator | None
) -> Gaussian:
    """Expectation maximisation on batches, whose statistics are averaged with falling weight."""
    first = y[torch.randperm(len(y), generator=generator, device=y.device)[:_ITEMS]]
    mean, covariance = _varying_start(instrument, first, shape)
    second = covariance + torch.outer(mean, mean)
    for step in range(_ITEMS_ROUNDS):
        index = torch.randint(len(y), (_ITEMS,), generator=generator, device=y.device)
        seen, pulled = item_information(instrument, y[index])
        inverse = torch.linalg.inv(covariance)
        posterior = torch.linalg.inv(inverse + seen)
        means = (posterior @ (pulled + inverse @ mean)[..., None])[..., 0]
        weight = 2 / (step + 3)
        second = torch.lerp(second, posterior.mean(0) + means.T @ means / len(means), weight)
        mean = torch.lerp(mean, means.mean(0), weight)
        covariance = _lifted(second - torch.outer(mean, mean))
    return Gaussian(mean, covariance)


def _varying_start(instrument: Instrument, y: Tensor, shape: tuple[int, ...]) -> Gaussian:
    """Mean by least squares, covariance by the likeliest of `starts`, of the variance that the data's excess needs."""
    seen, pulled = item_information(instrument, y)
    total = seen.sum(0)
    ridge = 1e-3 * float(total.diagonal().mean()) * torch.eye(len(total), dtype=total.dtype, device=total.device)
    mean = torch.linalg.solve(total + ridge, pulled.sum(0))
    pulled = pulled - seen @ mean
    at = mean.to(y.real.dtype).reshape(shape).expand(len(y), *shape)
    misfit = real_rows(instrument.misfit(at, y) * instrument.precision(y).sqrt()).double()
    excess = float(misfit.square().sum()) - float((instrument.precision(y) > 0).sum()) * (1 + y.is_complex())
    if not excess > 0:
        raise PriorError(_NO_SIGNAL)
    power = excess / float(seen.diagonal(dim1=1, dim2=2).sum())
    return Gaussian(mean, max((s * power for s in starts(shape)), key=lambda c: _log_evidence(c, seen, pulled)))


def item_information(instrument: Instrument, y: Tensor) -> tuple[Tensor, Tensor]:
    """A_i^T V_i^-1 A_i (n, d, d) and A_i^T V_i^-1 (y_i - b_i) (n, d) of every item, float64."""
    shape = instrument.event_shape
    d, n = torch.Size(shape).numel(), len(y)
    eye = torch.eye(d, dtype=y.real.dtype, device=y.device).reshape(d, *shape)
    zero = eye.new_zeros(n, *shape)
    pulled = instrument.weighted(instrument.misfit(zero, y), y).flatten(1).double()
    circular = instrument.law.circular_information(y)  # type: ignore[attr-defined]
    if circular is not None:
        kernel = torch.fft.irfft2(circular, s=shape[-2:]).double().expand(n, *shape)  # one for all channels, or each
        return _circulant(kernel * float(instrument.prior.scale) ** 2), pulled
    ones = instrument.information(y[:1].expand(d, *y.shape[1:]))(eye).flatten(1)
    if torch.equal(ones, ones.diagonal().diag()):  # pixel by pixel: the answer to ones is the diagonal
        return instrument.information(y)(torch.ones_like(zero)).flatten(1).double().diag_embed(), pulled
    rows = [instrument.information(one[None].expand(d, *one.shape))(eye).flatten(1) for one in y]
    full = torch.stack(rows).double()
    return 0.5 * (full + full.mT), pulled


def _circulant(kernel: Tensor) -> Tensor:
    """Matrices (n, d, d) of periodic convolutions with symmetric kernels (n, C, H, W), channel by channel."""
    n, c, h, w = kernel.shape
    row, column = torch.arange(h, device=kernel.device), torch.arange(w, device=kernel.device)
    down, across = (row[:, None] - row) % h, (column[:, None] - column) % w
    blocks = kernel[:, :, down[:, None, :, None], across[None, :, None, :]].reshape(n, c, h * w, h * w)
    full = kernel.new_zeros(n, c, h * w, c, h * w)
    index = torch.arange(c, device=kernel.device)
    full[:, index, :, index] = blocks.transpose(0, 1)
    return full.reshape(n, c * h * w, c * h * w)


def _log_evidence(covariance: Tensor, seen: Tensor, pulled: Tensor) -> float:
    """Twice the sum of log p(y_i), up to what does not depend on the covariance; zero mean."""
    total = torch.linalg.inv(covariance) + seen
    chol = torch.linalg.cholesky(total)
    fit = (pulled * torch.cholesky_solve(pulled[..., None], chol)[..., 0]).sum()
    volume = 2 * chol.diagonal(dim1=1, dim2=2).log().sum() + len(seen) * torch.logdet(covariance)
    return float(fit - volume)


def _lifted(covariance: Tensor) -> Tensor:
    """Eigenvalues kept above `_LEAST` of the largest."""
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    return (vectors * values.clamp_min(_LEAST * float(values[-1]))) @ vectors.T
