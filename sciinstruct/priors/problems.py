"""Inverse problems whose posterior is known exactly: the rulers of `benchmarks/exact_posteriors.py`.

Truths, operators and data are drawn from a seed, so a study is a loop over seeds and its truths come from the prior:
averaged over seeds, an exact posterior covers them at every level.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import InverseProblem, Likelihood, LinearOperator
from sciinstruct.core.checks import check_finite
from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.interferometry.observation import MICROARCSECOND
from sciinstruct.operators.interferometry.visibility import VisibilityOperator
from sciinstruct.operators.mask import PixelMask
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.exact import ClosedPosterior, exact_posterior
from sciinstruct.priors.field import power_law
from sciinstruct.priors.field_mixture import MixtureOfFields
from sciinstruct.priors.mixture import GaussianMixture

FIELD_KINDS = ("mask", "blur", "visibilities")

_SIDE = 16
_CENTRES = ((5.5, 5.5), (5.5, 10.0), (10.0, 6.0), (10.0, 10.5))  # row, column of each class's bump
_ROWS = (((0.3, 1.0),), ((0.0, 1.0),), ((0.6, 0.8),), ((-0.5, 1.0),))
_FOV_UAS = 128.0
_VISIBILITIES = 32
_VISIBILITY_NOISE = 12.0


class ExactProblem(NamedTuple):
    """An inverse problem and its answer; prior and likelihood share their units."""

    problem: InverseProblem
    truth: Tensor  # (1, *event_shape), float64: the image the data were simulated from
    posterior: ClosedPosterior  # exact: weights, means, sample, log_prob, std, responsibilities of its law


class MatrixOperator(LinearOperator):
    """Product of a matrix with a vector, (B, n) -> (B, m).

    Parameters
    ----------
    matrix : Tensor, shape (m, n)
        Real.

    Raises
    ------
    ValueError
        If `matrix` has another number of axes or is not finite.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        if matrix.ndim != 2:
            raise ValueError(f"matrix must have shape (m, n), got {tuple(matrix.shape)}")
        check_finite("matrix", matrix)
        self.register_buffer("matrix", matrix.detach().double())
        self.range_shape, self.domain_shape = (len(matrix),), (matrix.shape[1],)

    def apply(self, x: Tensor) -> Tensor:
        """Data, (B, n) -> (B, m)."""
        return x @ self.matrix.T.to(x.dtype)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Product with the transpose, (B, m) -> (B, n)."""
        return y @ self.matrix.to(y.dtype)


def reference_mixture() -> GaussianMixture:
    """Three Gaussians in the plane: .4 N((-2,-1), diag(.15,.25)), .35 N((2,-1), diag(.25,.15)), .25 N((0,2), .2 I)."""
    means = torch.tensor([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    variances = torch.tensor([[0.15, 0.25], [0.25, 0.15], [0.2, 0.2]], dtype=torch.float64)
    return GaussianMixture(means, torch.diag_embed(variances), torch.tensor([0.4, 0.35, 0.25]))


def mixture_2d(seed: int) -> ExactProblem:
    """One number measured of two: y = a . x + 0.5 n under `reference_mixture`; the posterior has one to three modes.

    Parameters
    ----------
    seed : int
        Chooses the row a among four, the truth and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    row = int(torch.randint(len(_ROWS), (1,), generator=generator))
    operator = MatrixOperator(torch.tensor(_ROWS[row], dtype=torch.float64))
    return _simulated(reference_mixture(), operator, 0.5, generator, f"2-D mixture, seed {seed}")


def bump_fields() -> MixtureOfFields:
    """Four classes of 16x16 images: a bump (amplitude 2, sd 1.5 pixels) at one of four places, in a k^-3 field.

    The field has pixel variance 0.25; the classes weigh .35, .3, .2, .15.
    """
    at = torch.arange(_SIDE, dtype=torch.float64)
    y, x = torch.tensor(_CENTRES, dtype=torch.float64).T[..., None]
    profile_y, profile_x = ((-0.5 * ((at - centre) / 1.5).square()).exp() for centre in (y, x))
    means = 2 * profile_y[:, None, :, None] * profile_x[:, None, None, :]
    weights = torch.tensor([0.35, 0.3, 0.2, 0.15])
    return MixtureOfFields(means, power_law((_SIDE, _SIDE), 3.0, 0.25), weights)


def fields_16(kind: str, seed: int) -> ExactProblem:
    """`bump_fields` seen through one of three instruments; the class is left uncertain by some of the data.

    Parameters
    ----------
    kind : {'mask', 'blur', 'visibilities'}
        'mask' hides rows and columns 4 to 12, where the bumps are (noise 0.1); 'blur' is Gaussian, sd 3 pixels (noise
        0.1); 'visibilities' are 32 complex ones, uniform within 4 cycles per field of view along each axis (noise 12
        per part, the bump's total flux is 28).
    seed : int
        Chooses truth, noise and baselines.

    Raises
    ------
    ValueError
        If `kind` is unknown.
    """
    if kind not in FIELD_KINDS:
        raise ValueError(f"kind must be one of {FIELD_KINDS}, got {kind!r}")
    generator = torch.Generator().manual_seed(seed)
    operator, noise = _instrument(kind, generator)
    return _simulated(bump_fields(), operator, noise, generator, f"16x16 {kind}, seed {seed}")


def _instrument(kind: str, generator: torch.Generator) -> tuple[LinearOperator, float]:
    if kind == "mask":
        seen = torch.ones(_SIDE, _SIDE, dtype=torch.bool)
        seen[4:13, 4:13] = False
        return PixelMask(seen), 0.1
    if kind == "blur":
        return GaussianBlur(3.0, (_SIDE, _SIDE)), 0.1
    cycles = (2 * torch.rand(2, _VISIBILITIES, generator=generator, dtype=torch.float64) - 1) * _SIDE / 4
    u, v = cycles / (_FOV_UAS * MICROARCSECOND)
    return VisibilityOperator(u, v, _SIDE, _FOV_UAS, pulse="delta"), _VISIBILITY_NOISE


def _simulated(
    prior: AnalyticPrior, operator: LinearOperator, noise: float, generator: torch.Generator, name: str
) -> ExactProblem:
    truth = prior.sample_exact(1, generator=generator, dtype=torch.float64)
    blank = torch.zeros_like(operator(truth))
    likelihood = Likelihood(operator, noise, blank).simulate(truth, generator)
    posterior = exact_posterior(prior, likelihood)
    assert isinstance(posterior, ClosedPosterior)  # few pixels: dense algebra or Fourier modes
    return ExactProblem(InverseProblem(prior, likelihood, name=name), truth, posterior)
