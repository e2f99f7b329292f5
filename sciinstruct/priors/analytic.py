"""Priors whose law is a mixture of Gaussians in closed form: the rulers every method is measured with."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.core.denoiser import expand_sigma
from sciinstruct.core.random import randn_like
from sciinstruct.priors.base import Prior


class AnalyticPrior(Prior):
    r"""A law :math:`\sum_k w_k N(\mu_k, C_k)` with exact denoiser, density and samples at every noise level.

    With :math:`v_k = C_k + \sigma^2 I` and responsibilities :math:`\gamma_k \propto w_k N(x; \mu_k, v_k)`, the denoiser
    is :math:`D = \sum_k \gamma_k [\mu_k + C_k v_k^{-1} (x - \mu_k)]`. A subclass says how its covariances are diagonal.

    Parameters
    ----------
    means : Tensor, shape (K, *event_shape)
        Component means.
    weights : Tensor, shape (K,), optional
        Positive; divided by their sum. Equal by default.

    Attributes
    ----------
    means, log_weights : Tensor
        float64 buffers, (K, *event_shape) and (K,).

    Notes
    -----
    Buffers are float64 and cast to the input's dtype on use; log-densities are always evaluated in float64.
    """

    means: Tensor
    log_weights: Tensor

    def __init__(self, means: Tensor, weights: Tensor | None = None) -> None:
        super().__init__()
        check_finite("means", means)
        self.event_shape = tuple(means.shape[1:])
        self.register_buffer("means", means.detach().double().clone())
        self.register_buffer("log_weights", _log_weights(weights, len(means), means.device))

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return len(self.means)

    @property
    def weights(self) -> Tensor:
        """Component weights (K,), summing to one."""
        return self.log_weights.exp()

    @abstractmethod
    def _analyse(self, x: Tensor) -> Tensor:
        """Coefficients of x (B, *event_shape) in the basis where the covariances are diagonal."""

    @abstractmethod
    def _component_log_prob(self, coefficients: Tensor, variance: Tensor) -> Tensor:
        """Log N(x; mu_k, C_k + variance) in float64, (B, K); `variance` (B or 1,) in float64."""

    @abstractmethod
    def _shrink(self, coefficients: Tensor, variance: Tensor, gamma: Tensor) -> Tensor:
        """Image of sum_k gamma_k [mu_k + C_k (C_k + variance)^-1 (x - mu_k)], given x's coefficients."""

    @abstractmethod
    def _colour(self, white: Tensor, labels: Tensor) -> Tensor:
        """Square root of the covariance of component ``labels[i]`` times ``white[i]``."""

    @abstractmethod
    def covariance_product(self, x: Tensor, component: int) -> Tensor:
        """Covariance of one component times each image of the batch `x` (B, *event_shape)."""

    @abstractmethod
    def component_variances(self) -> Tensor:
        """Variance of every entry within each component, (K, *event_shape)."""

    @property
    def shared_covariance(self) -> bool:
        """Whether all components are known to have one covariance."""
        return self.n_components == 1

    @abstractmethod
    def eigenvalue_range(self) -> tuple[float, float]:
        """Smallest and largest covariance eigenvalue over all components."""

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Exact E[x0 | x0 + sigma n = x]; `sigma` a number or (B,), in units of x."""
        self.check(x)
        variance = _variance(sigma, x)
        coefficients = self._analyse(x)
        if self.n_components == 1:
            return self._shrink(coefficients, variance.to(x.dtype), x.new_ones(len(x), 1))
        logits = self.log_weights + self._component_log_prob(_widen(coefficients), variance)
        return self._shrink(coefficients, variance.to(x.dtype), logits.softmax(1).to(x.dtype))

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Log-density of x (B, *event_shape) under the law with noise `sigma` added, (B,), in nats.

        Raises
        ------
        ValueError
            If `sigma` is zero and a covariance is singular, so that no density exists.
        """
        return torch.logsumexp(self._joint(x, sigma), 1).to(x.dtype)

    def responsibilities(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Posterior probability of each component given x at noise `sigma`, (B, K)."""
        return self._joint(x, sigma).softmax(1).to(x.dtype)

    def _joint(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.check(x)
        variance = _variance(sigma, x)
        if not float(variance.detach().min()) + self.eigenvalue_range()[0] > 0:
            raise ValueError("a covariance is singular, so the law has no density at sigma = 0; ask for sigma > 0")
        return self.log_weights + self._component_log_prob(_widen(self._analyse(x)), variance)

    def sample_exact(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        sigma: Tensor | float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw `n` independent images of the law with noise `sigma` (number or (n,)) added, (n, *event_shape)."""
        labels = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        white = torch.empty(n, *self.event_shape, dtype=torch.float64, device=self.means.device)
        x = self.means[labels] + self._colour(randn_like(white, generator), labels)
        level = expand_sigma(sigma, x)
        if (level > 0).any():
            x = x + level * randn_like(white, generator)
        return x.to(dtype)

    def sample(
        self,
        n: int,
        *,
        solver: Callable[..., Tensor] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw `n` images, (n, *event_shape): exactly, or by diffusion with `solver` if one is given."""
        if solver is None:
            return self.sample_exact(n, generator=generator, dtype=dtype).to(device)
        return super().sample(n, solver=solver, generator=generator, dtype=dtype, device=device)

    def sample_component(self, component: int, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` float64 images of one component, (n, *event_shape)."""
        labels = torch.full((n,), component, device=self.means.device)
        white = torch.empty(n, *self.event_shape, dtype=torch.float64, device=self.means.device)
        return self.means[labels] + self._colour(randn_like(white, generator), labels)

    @property
    def mean(self) -> Tensor:
        """Mean of the law, (*event_shape)."""
        return torch.tensordot(self.weights, self.means, 1)

    @property
    def std(self) -> Tensor:
        """Standard deviation of every entry, (*event_shape)."""
        spread = (self.means - self.mean).square()
        return torch.tensordot(self.weights, self.component_variances() + spread, 1).sqrt()

    def dense_covariance(self, component: int) -> Tensor:
        """Covariance matrix (d, d) of one component, d the number of pixels: for small problems."""
        d = self.means[0].numel()
        eye = torch.eye(d, dtype=torch.float64, device=self.means.device).reshape(d, *self.event_shape)
        matrix = self.covariance_product(eye, component).reshape(d, d)
        return 0.5 * (matrix + matrix.T)

    def _default_range(self) -> tuple[float, float]:
        """Noise levels from a tenth of the finest scale to where the law's shape is lost (KL to noise < 0.01)."""
        low, high = self.eigenvalue_range()
        farthest = float(self.means.flatten(1).norm(dim=1).max())
        top = max(20 * high**0.5, 10 * farthest)
        if top == 0:
            raise ValueError("the law is a point at the origin: give it a positive variance")
        return max(0.1 * low**0.5, 1e-5 * top), top


def _log_weights(weights: Tensor | None, n: int, device: torch.device) -> Tensor:
    if weights is None:
        weights = torch.ones(n, device=device)
    if weights.shape != (n,) or not (weights > 0).all() or not torch.isfinite(weights).all():
        raise ValueError(f"weights must be {n} positive numbers, got {weights.tolist()}")
    weights = weights.detach().double()
    return (weights / weights.sum()).log()


def _variance(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Squared level, (B or 1,), float64."""
    level = expand_sigma(sigma, x).flatten().double()
    if not (level >= 0).all():
        raise ValueError(f"sigma must be zero or positive, its smallest value is {float(level.min()):.3g}")
    return level.square()


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)
