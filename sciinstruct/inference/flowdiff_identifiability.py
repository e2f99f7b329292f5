r"""What corrupted data can tell of the clean law, before anything is trained.

A direction in which a posterior keeps the share l of the prior's variance is learned at the pace of expectation
maximisation: its mean's error falls by the factor l a sweep over the data, its variance's by :math:`1 - (1 - l)^2`.
Where l = 1 the data say nothing: whatever a learned law does there comes from its start and its networks. A direction
is called null if data would remove less than 1e-4 of the variance even of events that vary in it as much as on average:
that is the instrument's doing, whereas l near 1 may also come from a law that hardly varies there.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core import Likelihood
from sciinstruct.inference.flowdiff_checks import as_measurements
from sciinstruct.inference.flowdiff_gaussian import (
    DENSE,
    DENSE_VARYING,
    Gaussian,
    fit_gaussian,
    item_information,
    physical_instrument,
)
from sciinstruct.inference.simulator import Simulator, as_simulator

_NULL = 1e-4  # share of an average variance that data remove, below which they are said to say nothing
_SLOW = 0.9  # share left from which on a direction takes 100 sweeps and more
_NAMED = 8  # directions described
_ALONE = 0.999  # share of a pixel's unit vector within the null space from which on the pixel itself is unseen
_ITEMS = 64  # whose instruments are averaged where they differ


@dataclass(frozen=True)
class Identifiability:
    """How much of the clean law measurements of a kind can teach.

    Parameters
    ----------
    shares : Tensor, shape (d,)
        l, the share of the prior's variance a posterior keeps, falling; over independent directions.
    directions : Tensor, shape (d, *event_shape)
        Those directions as changes of an event, of unit norm.
    rates : Tensor, shape (d,)
        Factor by which the error of the variance falls in one sweep over the data.
    sweeps : Tensor, shape (d,)
        Sweeps that takes by a factor e, about 1 / (1 - l)^2; infinite in null directions.
    null_directions : Tensor, shape (k, *event_shape)
        Directions the data say nothing about, orthonormal.
    varies : bool
        Whether instruments differ, and the numbers are averages over items.
    """

    shares: Tensor
    directions: Tensor
    rates: Tensor
    sweeps: Tensor
    null_directions: Tensor
    varies: bool

    @property
    def null_share(self) -> float:
        """Share of the directions the data say nothing about."""
        return len(self.null_directions) / len(self.shares)

    @property
    def identifiable(self) -> bool:
        """Whether the data see all directions."""
        return len(self.null_directions) == 0

    def seen(self, x: Tensor) -> Tensor:
        """Part of events (B, *event_shape) that the data tell of: null directions projected out."""
        basis = self.null_directions.flatten(1).to(x).T
        flat = x.flatten(1)
        return (flat - (flat @ basis) @ basis.T).reshape(x.shape)

    def names(self) -> list[str]:
        """Null directions in words, at most eight: single numbers of an event first, then what else there is."""
        shape = self.null_directions.shape[1:]
        basis = self.null_directions.flatten(1).T
        alone = basis.square().sum(1) > _ALONE
        found = [e.reshape(shape) for e in torch.eye(len(basis), dtype=basis.dtype, device=basis.device)[alone]]
        rest = torch.where(alone[:, None], torch.zeros_like(basis), basis)
        values, vectors = torch.linalg.eigh(rest.T @ rest)
        others = (rest @ vectors[:, values > 0.5]).T.reshape(-1, *shape)
        return list(dict.fromkeys(describe(v) for v in [*found, *others[: 4 * _NAMED]]))[:_NAMED]

    def warnings(self) -> list[str]:
        """What a user of the learned law must know."""
        said = []
        if not self.identifiable:
            said.append(
                f"{self.null_share:.1%} of the directions leave no trace in the data: {'; '.join(self.names())}. "
                "Nothing is claimed there: what the learned prior holds of them comes from its start and its networks"
            )
        slow = int((self.shares >= _SLOW).sum()) - len(self.null_directions)
        if slow > 0:
            said.append(
                f"{slow} more of {len(self.shares)} directions keep over {_SLOW:.0%} of their variance given the data "
                "and take over 100 sweeps to learn: expect them near where they started"
            )
        return said

    def summary(self) -> dict[str, Any]:
        """Numbers and words for a card or a report."""
        finite = self.sweeps[torch.isfinite(self.sweeps)]
        return {
            "null_share": self.null_share,
            "null_directions": self.names(),
            "largest_share_left": float(self.shares[0]),
            "median_share_left": float(self.shares.median()),
            "slowest_rate": float(self.rates.max()),
            "median_sweeps": float(finite.median()) if len(finite) else None,
            "instruments_vary": self.varies,
            "warnings": self.warnings(),
        }


def identifiability_report(
    simulator: Simulator | Likelihood,
    measurements: Tensor,
    *,
    gaussian: Gaussian | None = None,
    generator: torch.Generator | None = None,
) -> Identifiability:
    """What measurements of this kind can teach, from the instrument and the best Gaussian law.

    Parameters
    ----------
    simulator : AffineSimulator or Likelihood
        With data affine in the image and noise that states its variance.
    measurements : Tensor, shape (n, *range_shape)
    gaussian : Gaussian, optional
        Law of the clean events, physical units; by default the one that explains the measurements best.

    Raises
    ------
    TypeError, PriorError
        If the simulator is of another kind.
    ValueError
        On bad measurements, or events too large for dense algebra (1024 numbers; 400 where instruments differ).
    """
    law = as_simulator(simulator)
    y = as_measurements(measurements, law)
    varies = bool(getattr(law, "varies", False))
    d, most = torch.Size(law.domain_shape).numel(), DENSE_VARYING if varies else DENSE
    if d > most:
        raise ValueError(f"events must hold at most {most} numbers for dense algebra, got {d}; report on a crop")
    known = fit_gaussian(law, y, generator) if gaussian is None else gaussian
    information = item_information(physical_instrument(law, y), y[: _ITEMS if varies else 1])[0]
    return analyse(information, known.covariance.double(), tuple(law.domain_shape), varies)


def analyse(information: Tensor, covariance: Tensor, event_shape: tuple[int, ...], varies: bool) -> Identifiability:
    """Report for Fisher informations (n, d, d) and a covariance (d, d)."""
    chol = torch.linalg.cholesky(covariance)
    eye = torch.eye(len(chol), dtype=chol.dtype, device=chol.device)
    left = torch.linalg.inv(eye + chol.T @ information.to(chol) @ chol)  # whitened posterior covariances
    shares, vectors = torch.linalg.eigh(left.mean(0))
    shares, vectors = shares.flip(0).clamp(0, 1), vectors.flip(1)
    removed = 1 - torch.einsum("di,nde,ei->ni", vectors, left, vectors)
    gain = removed.square().mean(0)
    sweeps = torch.where(gain < _NULL**2, torch.full_like(gain, float("inf")), 1 / gain.clamp_min(1e-12))
    directions = (chol @ vectors).T  # changes of an event, not functionals of it
    directions = directions / directions.norm(dim=1, keepdim=True)
    return Identifiability(
        shares,
        directions.reshape(-1, *event_shape),
        1 - gain,
        sweeps,
        _null_space(information.mean(0).to(chol), float(covariance.diagonal().mean())).reshape(-1, *event_shape),
        varies,
    )


def _null_space(information: Tensor, variance: float) -> Tensor:
    """Orthonormal directions (k, d) in which events of that variance lose next to nothing of it to the data."""
    values, vectors = torch.linalg.eigh(0.5 * (information + information.T))
    removed = variance * values / (1 + variance * values.clamp_min(0))
    return vectors[:, removed < _NULL].T


def describe(direction: Tensor) -> str:
    """A direction in words: weights of a vector's entries, or of an image's channels, pixel or wave."""
    v = direction / direction.norm()
    if v.ndim != 3:
        flat = v.flatten()
        top = flat.abs().topk(min(4, len(flat))).indices.sort().values
        return " ".join(f"{float(flat[i]):+.2f} x[{int(i)}]" for i in top if abs(float(flat[i])) > 0.05)
    weights = v.square().sum((1, 2))
    largest = v.abs().flatten().argmax()
    if float(v.flatten()[largest].square()) > 0.9:
        c, row, column = (int(i) for i in torch.unravel_index(largest, v.shape))
        return f"pixel ({row}, {column})" + (f" of channel {c}" if len(v) > 1 else "")
    power = torch.fft.rfft2(v).abs().square().sum(0)
    row, column = (int(i) for i in torch.unravel_index(power.argmax(), power.shape))
    ky = torch.fft.fftfreq(v.shape[1])[row]
    wave = f"waves around ({float(ky):+.2f}, {column / v.shape[2]:.2f}) cycles per pixel"
    if len(v) == 1:
        return wave
    signs = v.flatten(1)[:, v.abs().sum(0).flatten().argmax()].sign()
    mix = " ".join(f"{float(s * w.sqrt()):+.2f} c{i}" for i, (s, w) in enumerate(zip(signs, weights)))
    return f"channels {mix}, {wave}"
