r"""The affine map in front of a conditional flow: from white numbers to draws of a Gaussian posterior.

If clean images are N(m, C), data linear and noise Gaussian, then :math:`x = m(y) + P^{-1/2} u` with
:math:`P = C^{-1} + A^T V^{-1} A` and u white is the posterior itself: a flow in u starts at the exact answer for the
best Gaussian law and has only to learn what is not Gaussian. In all directions the scale of u is one, however
well or badly the data see them.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sciinstruct.inference.flowdiff_gaussian import Gaussian, item_information
from sciinstruct.inference.instrument import Instrument


class Affine(NamedTuple):
    """x = mean + root u, item by item; `root` is dense and shared (d, d), or None if `factor` stands for it."""

    mean: Tensor  # (B, d)
    root: Tensor | None  # (d, d), symmetric
    inverse: Tensor | None  # (d, d), of the root
    factor: Tensor | None  # (B, d, d): lower triangle F with F F^T = P, root = F^-T
    log_det: Tensor  # (B,)

    def push(self, u: Tensor) -> Tensor:
        """White (B, d) to draws."""
        if self.factor is None:
            assert self.root is not None
            return self.mean + u @ self.root
        return self.mean + torch.linalg.solve_triangular(self.factor.mT, u[..., None], upper=True)[..., 0]

    def pull(self, x: Tensor) -> Tensor:
        """The way back."""
        if self.factor is None:
            assert self.inverse is not None
            return (x - self.mean) @ self.inverse
        return ((x - self.mean)[:, None] @ self.factor)[:, 0]


class Start(nn.Module):
    """Gaussian posterior as an affine map of white numbers, for every measurement.

    Parameters
    ----------
    gaussian : Gaussian
        Law of the clean events, in the prior's units.
    instrument : Instrument or None
        In the same units. None: the data are not used, x = m + C^(1/2) u.
    examples : Tensor, shape (n, *range_shape)
        Measurements, at least one.
    """

    mean: Tensor
    precision: Tensor
    root: Tensor
    inverse: Tensor
    instrument: Instrument | None

    def __init__(self, gaussian: Gaussian, instrument: Instrument | None, examples: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "instrument", instrument)  # the operator is no part of the state
        real = examples.real.dtype
        precision = torch.linalg.inv(gaussian.covariance)
        self.varies = instrument is not None and bool(getattr(instrument.law, "varies", False))
        total = precision
        if instrument is not None and not self.varies:
            total = precision + item_information(instrument, examples[:1])[0][0]
        values, vectors = torch.linalg.eigh(0.5 * (total + total.T))
        self.register_buffer("mean", gaussian.mean.to(real))
        self.register_buffer("precision", precision.to(real))
        self.register_buffer("root", ((vectors * values.rsqrt()) @ vectors.T).to(real))
        self.register_buffer("inverse", ((vectors * values.sqrt()) @ vectors.T).to(real))
        self.register_buffer("log_det", (-0.5 * values.log().sum()).to(real))

    log_det: Tensor

    def condition(self, y: Tensor) -> Affine:
        """The map for measurements y (B, *range_shape)."""
        with torch.no_grad():
            if self.instrument is None:
                return Affine(self.mean.expand(len(y), -1), self.root, self.inverse, None, self.log_det.expand(len(y)))
            if self.varies:
                return self._item_by_item(y)
            at = self.mean.reshape(self.instrument.event_shape).expand(len(y), *self.instrument.event_shape)
            pulled = self.instrument.weighted(self.instrument.misfit(at, y), y).flatten(1)
            mean = self.mean + pulled @ self.root @ self.root
            return Affine(mean, self.root, self.inverse, None, self.log_det.expand(len(y)))

    def _item_by_item(self, y: Tensor) -> Affine:
        assert self.instrument is not None
        same = (y[1:] == y[:-1]).flatten(1).all(1)  # many draws of one measurement: condition on it once
        index = torch.cat([same.new_zeros(1), ~same]).long().cumsum(0)
        first = torch.cat([same.new_ones(1), ~same])
        seen, pulled = item_information(self.instrument, y[first])
        factor = torch.linalg.cholesky(self.precision + seen.to(self.precision))
        pulled = pulled.to(self.mean) - (seen.to(self.mean) @ self.mean)
        mean = self.mean + torch.cholesky_solve(pulled[..., None], factor)[..., 0]
        log_det = -factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return Affine(mean[index], None, None, factor[index], log_det[index])
