"""Exact posteriors of analytic priors under linear operators with Gaussian noise.

`exact_posterior` chooses among three routes: Fourier modes (fields seen through a periodic convolution), dense algebra
(up to about 32 x 32 pixels), and draws by Matheron's rule (larger images, `sciinstruct.priors.matheron`).
"""

import math

import torch
from torch import Tensor

from sciinstruct.core.likelihood import BaseLikelihood
from sciinstruct.priors.analytic import AnalyticPrior
from sciinstruct.priors.field_mixture import MixtureOfFields
from sciinstruct.priors.matheron import MatheronPosterior, matheron_posterior
from sciinstruct.priors.mixture import GaussianMixture
from sciinstruct.priors.posterior_law import ExactPosterior
from sciinstruct.priors.whitened import Whitened

DENSE_PIXELS = 1024
DENSE_NUMBERS = 2**26  # float64 numbers in all covariances together: half a gigabyte


class ClosedPosterior(ExactPosterior):
    """A posterior that is itself an analytic law.

    Parameters
    ----------
    law : AnalyticPrior
        The posterior, in the prior's units; its `denoise` is that of the diffused posterior at every noise level.
    log_evidence : float
        log p(y), nats.
    """

    def __init__(self, law: AnalyticPrior, log_evidence: float) -> None:
        self.law, self.log_evidence = law, log_evidence
        self.weights, self.means = law.weights, law.means

    def sample(self, n: int, *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
        """Draw `n` independent images, (n, *event_shape)."""
        return self.law.sample_exact(n, generator=generator, dtype=dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log p(x | y) of x (B, *event_shape), (B,)."""
        return self.law.log_prob(x)

    @property
    def std(self) -> Tensor:
        """Standard deviation of every pixel, (*event_shape)."""
        return self.law.std


def exact_posterior(prior: AnalyticPrior, likelihood: BaseLikelihood) -> ExactPosterior:
    """Exact posterior of an analytic prior, in the prior's units.

    Parameters
    ----------
    prior : AnalyticPrior
        Gaussian, field, or mixture.
    likelihood : Likelihood
        A `LinearOperator` (real or complex data), `GaussianNoise`, and the data.

    Returns
    -------
    ClosedPosterior
        For fields under a periodic convolution with constant noise, and for up to 1024 pixels.
    MatheronPosterior
        For larger images: weights, means and exact draws, without a density.

    Raises
    ------
    TypeError
        If the prior is not analytic, the operator not linear, or the noise not Gaussian.
    ValueError
        If shapes differ, or a mixture has too many pixels and too many data for exact weights.
    """
    if not isinstance(prior, AnalyticPrior):
        raise TypeError(f"prior must be an AnalyticPrior, got {type(prior).__name__}; only those have exact posteriors")
    system = Whitened(prior, likelihood)
    if isinstance(prior, MixtureOfFields) and _transfer(system) is not None:
        return circulant_posterior(prior, likelihood)
    d = math.prod(prior.event_shape)
    matrices = 1 if prior.shared_covariance else prior.n_components
    if d <= DENSE_PIXELS and matrices * d * d <= DENSE_NUMBERS:
        return dense_posterior(prior, likelihood)
    return matheron_posterior(prior, likelihood)


def dense_posterior(prior: AnalyticPrior, likelihood: BaseLikelihood) -> ClosedPosterior:
    r"""Exact posterior by dense float64 algebra: O(d^3) for d pixels, once per distinct covariance.

    With :math:`C_k = Q_k Q_k^T` and whitened data :math:`b = G x + n`, component k of the posterior has covariance
    :math:`Q_k (I + Q_k^T G^T G Q_k)^{-1} Q_k^T` and weight proportional to :math:`w_k N(b; G\mu_k, I + G C_k G^T)`.
    Raises as `exact_posterior`.
    """
    system = Whitened(prior, likelihood)
    matrix = system.matrix()
    residuals = system.data - system.apply(prior.means)
    covariances, shifts, evidences = [], [], []
    for k in range(prior.n_components):
        if k == 0 or not prior.shared_covariance:
            root, spread = _condition(prior.dense_covariance(k), matrix)
            covariances.append(root @ root.T)
        shift, evidence = _update(root, spread, matrix, residuals[k])
        shifts.append(shift.reshape(prior.event_shape))
        evidences.append(evidence)
    joint = prior.log_weights + torch.stack(evidences)
    law = GaussianMixture(prior.means + torch.stack(shifts), torch.stack(covariances), _positive(joint))
    return ClosedPosterior(law, float(torch.logsumexp(joint, 0)) - system.log_volume)


def _condition(covariance: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of the posterior covariance (d, d), and the eigenvalues of I + Q^T G^T G Q."""
    e, u = torch.linalg.eigh(covariance)
    q = u * e.clamp(min=0).sqrt()
    gq = matrix @ q
    information, v = torch.linalg.eigh(gq.T @ gq)
    spread = 1 + information.clamp(min=0)
    return (q @ v) * spread.rsqrt(), spread


def _update(root: Tensor, spread: Tensor, matrix: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Shift of the mean (d,) and log N(residual; 0, I + G C G^T), without cancellation for precise data."""
    t = root.T @ (matrix.T @ residual)
    shift = root @ t
    # residual^T (I + G C G^T)^-1 residual = |residual - G shift|^2 + |white coordinates of the shift|^2
    square = (residual - matrix @ shift).square().sum() + (t.square() / spread).sum()
    return shift, -0.5 * (square + spread.log().sum() + len(residual) * math.log(2 * math.pi))


def _positive(log_weights: Tensor) -> Tensor:
    """Weights from unnormalised logs; those that underflow are kept at the smallest number that float64 holds."""
    return log_weights.softmax(0).clamp(min=1e-300)


def _transfer(system: Whitened) -> Tensor | None:
    """Transfer function of a periodic convolution with constant real noise, None for anything else."""
    transfer = getattr(system.operator, "transfer", None)
    constant = bool((system.sigma == system.sigma.flatten()[0]).all())
    if not isinstance(transfer, Tensor) or not constant or system.complex:
        return None
    return transfer if _acts_as(system, transfer) else None


def _acts_as(system: Whitened, transfer: Tensor) -> bool:
    """Whether the operator is what its attribute says, tried on one image: a wrong guess would be a wrong posterior."""
    shape = system.event_shape
    if system.range_shape != shape or transfer.shape[-2:] != shape[-2:] or transfer.ndim not in (2, 3):
        return False
    probe = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(transfer.device)
    expected = torch.fft.ifft2(torch.fft.fft2(probe) * transfer).real
    return torch.allclose(system.operator(probe[None])[0], expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def circulant_posterior(prior: MixtureOfFields, likelihood: BaseLikelihood) -> ClosedPosterior:
    r"""Exact posterior of fields seen through a periodic convolution with constant noise: again fields, mode by mode.

    With transfer function H, noise variance :math:`r^2` and spectrum P, the mean's modes are
    :math:`\mu + P \bar H (F y - H \mu) / (|H|^2 P + r^2)`, the spectrum :math:`P r^2 / (|H|^2 P + r^2)`.

    Parameters
    ----------
    prior : MixtureOfFields
        Or a `GaussianField`.
    likelihood : Likelihood
        Its operator has an attribute ``transfer``: H on the grid of ``torch.fft.fft2``, (H, W) or (C, H, W).

    Raises
    ------
    TypeError
        If prior or operator are of another kind.
    ValueError
        If the noise is not constant.
    """
    system = Whitened(prior, likelihood)
    transfer = _transfer(system)
    if not isinstance(prior, MixtureOfFields) or transfer is None:
        raise TypeError(
            "circulant_posterior needs a field prior, an operator with a true transfer function, and constant real "
            "noise; use exact_posterior"
        )
    r2 = system.sigma.flatten()[0].square()
    y = r2.sqrt() * system.data.reshape(prior.event_shape)
    h = prior.scale * transfer.to(y.device)
    h = h[..., : y.shape[-1] // 2 + 1].expand(*y.shape[:2], -1).flatten()
    power = h.abs().square()
    total = power * prior.spectra + r2  # (K or 1, n): spectrum of the data
    misfit = prior._analyse(y[None]) - h * prior.means_hat
    means = prior._synthesise(prior.means_hat + prior.spectra * h.conj() * misfit / total)
    density = misfit.abs().square() / total + (2 * math.pi * total).log()
    joint = prior.log_weights - 0.5 * (prior.multiplicity * density).sum(1)
    spectra = prior.full_spectra(prior.spectra * r2 / total)
    law = MixtureOfFields(means, spectra if len(spectra) > 1 else spectra[0], _positive(joint))
    return ClosedPosterior(law, float(torch.logsumexp(joint, 0)))


__all__ = [
    "ClosedPosterior",
    "ExactPosterior",
    "MatheronPosterior",
    "circulant_posterior",
    "dense_posterior",
    "exact_posterior",
    "matheron_posterior",
]
