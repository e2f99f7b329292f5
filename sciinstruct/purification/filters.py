"""Classical filters behind the same verb, to compare with: what a prior must beat."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.diffusion.solvers import Generators
from sciinstruct.purification.base import Calls, NoGradientError, Purifier


@dataclass(frozen=True)
class Filter(Purifier):
    """Base of the filters: no prior, no noise, no gradient; subclasses write `_filter`."""

    @property
    def calls(self) -> Calls:
        """None."""
        return Calls(0, 0)

    @abstractmethod
    def _filter(self, image: np.ndarray) -> np.ndarray:
        """One image, (C, H, W) in and out."""

    def _run(self, image: Tensor, generator: Generators, differentiable: bool) -> Tensor:
        if differentiable:
            raise NoGradientError(
                f"{type(self).__name__} has no gradient; attack it through its surrogate, the identity, instead"
            )
        arrays = image.detach().cpu().numpy()
        if not len(arrays):
            return image
        return torch.from_numpy(np.stack([self._filter(one) for one in arrays])).to(image)


@dataclass(frozen=True)
class MedianFilter(Filter):
    """Median over a square of `size` pixels, an odd number; edges are mirrored."""

    size: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"size must be odd and positive, got {self.size}")

    def _filter(self, image: np.ndarray) -> np.ndarray:
        from skimage.filters import median

        return median(image, np.ones((1, self.size, self.size)), mode="mirror", behavior="ndimage")


@dataclass(frozen=True)
class TotalVariation(Filter):
    """Least squares with `weight` times the total variation, weight in units of the image (Chambolle 2004)."""

    weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("weight", self.weight)

    def _filter(self, image: np.ndarray) -> np.ndarray:
        from skimage.restoration import denoise_tv_chambolle

        return denoise_tv_chambolle(image, self.weight, channel_axis=0)


@dataclass(frozen=True)
class Wavelet(Filter):
    """Soft threshold of wavelet coefficients by BayesShrink (Chang et al. 2000).

    Parameters
    ----------
    sigma : float, optional
        Noise of the image, in its units; by default estimated from the finest coefficients.

    Raises
    ------
    ImportError
        On use, if PyWavelets is not installed.
    """

    sigma: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma is not None:
            check_positive("sigma", self.sigma)

    def _filter(self, image: np.ndarray) -> np.ndarray:
        from skimage.restoration import denoise_wavelet

        return denoise_wavelet(image, sigma=self.sigma, channel_axis=0)
