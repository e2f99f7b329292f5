"""One Gaussian with a full covariance."""

from torch import Tensor

from sciinstruct.priors.mixture import GaussianMixture


class GaussianPrior(GaussianMixture):
    """Gaussian law with mean and full covariance: the denoiser is a linear map.

    Parameters
    ----------
    mean : Tensor, shape (*event_shape)
        Mean, a vector ``(d,)`` or an image ``(C, H, W)``.
    covariance : Tensor, shape (d, d)
        Symmetric, positive semi-definite.
    sigma_range : tuple of float, optional
        Noise levels the diffusion solvers span.

    Raises
    ------
    ValueError
        On shapes that disagree or a covariance that is not symmetric and positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, *, sigma_range: tuple[float, float] | None = None) -> None:
        super().__init__(mean[None], covariance[None], sigma_range=sigma_range)

    @property
    def covariance(self) -> Tensor:
        """Covariance matrix (d, d)."""
        return self.dense_covariance(0)
