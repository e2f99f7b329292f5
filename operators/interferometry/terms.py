"""Data terms of an interferometric likelihood: complex visibilities, amplitudes, total flux, centroid."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.core.random import randn_like
from sciinstruct.operators.interferometry.observation import Observation
from sciinstruct.operators.interferometry.preparation import debiased_amplitude
from sciinstruct.operators.interferometry.tables import Tables

_FLOOR = 1e-6


def amplitude_floor(image: Tensor) -> Tensor:
    """Smallest model amplitude that logarithms and angles see, (B, 1): 1e-6 of the image's flux."""
    return (_FLOOR * image.detach().flatten(1).sum(1, keepdim=True).abs()).clamp_min(_FLOOR**2)


def squared_amplitude(vis: Tensor, floor: Tensor) -> Tensor:
    """Square of the model amplitude, held above the floor so that roots and logarithms have gradients."""
    return torch.maximum(vis.real.square() + vis.imag.square(), floor.square())


class Design(NamedTuple):
    """Derivatives of the visibilities in the pixels, real and imaginary part, each (M, D)."""

    real: Tensor
    imag: Tensor


class DataTerm(ABC):
    """One part of the data: residuals and negative log-likelihood of model visibilities and images in Jy.

    Attributes
    ----------
    name : str
        Key in reports.
    n : int
        Number of residuals.
    budget : str
        The noise the residuals are measured in, for reports.
    sees_position : bool
        True if a shifted image has other residuals.
    """

    name: str
    n: int
    budget: str
    sees_position: bool = False

    @abstractmethod
    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """Residuals of unit variance at the truth, (B, n), from complex (B, M) and images (B, 1, N, N) in Jy."""

    def neg_log_prob(self, vis: Tensor, image: Tensor) -> Tensor:
        """Negative log-likelihood (B,) up to a constant: half the sum of squared residuals unless a term says more."""
        return 0.5 * self.residuals(vis, image).square().sum(1)

    def jacobian(self, vis: Tensor, image: Tensor, design: Design) -> Tensor:
        """Derivatives of the residuals in the pixels in Jy, (B, n, D), without a graph.

        This one differentiates any term; those with many residuals know a faster way.
        """
        # one copy per image and datum, so that a single pass gives all rows
        many_v = torch.view_as_real(vis.detach()).repeat_interleave(self.n, 0).requires_grad_()
        many_s = image.detach().repeat_interleave(self.n, 0).requires_grad_()
        with torch.enable_grad():
            r = self.residuals(torch.view_as_complex(many_v), many_s)
            eye = torch.eye(self.n, dtype=r.dtype, device=r.device).repeat(len(vis), 1)
            by_v, by_s = torch.autograd.grad(r, (many_v, many_s), eye, allow_unused=True)
        rows = torch.zeros_like(many_s.flatten(1)) if by_s is None else by_s.flatten(1)
        if by_v is not None:
            rows = rows + by_v[..., 0] @ design.real + by_v[..., 1] @ design.imag
        return rows.reshape(len(vis), self.n, -1)

    @abstractmethod
    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "DataTerm":
        """Return the same term for simulated data: visibilities `obs`, drawn for the one `image` in Jy."""


class VisibilityTerm(DataTerm):
    """Calibrated complex visibilities, Gaussian: two residuals each.

    Parameters
    ----------
    obs : Observation
        The data; station gains must be known.
    """

    name = "visibility"
    sees_position = True

    def __init__(self, obs: Observation) -> None:
        self.n = 2 * len(obs)
        self.budget = "complex Gaussian, sigma per component"
        self._tables = Tables(vis=obs.vis, sigma=obs.sigma)

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """(V_data - V_model)/sigma, real and imaginary parts, (B, 2 M)."""
        error = (self._tables.like("vis", vis) - vis) / self._tables.like("sigma", vis)
        return torch.cat([error.real, error.imag], 1)

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "VisibilityTerm":
        """Take the simulated visibilities."""
        return VisibilityTerm(obs)


class AmplitudeTerm(DataTerm):
    """Visibility amplitudes, de-biased, with Gaussian errors: for signal-to-noise above 2.

    Parameters
    ----------
    obs : Observation
        The data, amplitudes calibrated; station errors belong into sigma (`preparation.add_amplitude_budget`).
    """

    name = "amplitude"

    def __init__(self, obs: Observation) -> None:
        self.n = len(obs)
        self.budget = "Gaussian amplitudes, de-biased"
        self._tables = Tables(amplitude=debiased_amplitude(obs), sigma=obs.sigma)

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """(A_data - |V_model|)/sigma, (B, M)."""
        model = squared_amplitude(vis, amplitude_floor(image)).sqrt()
        return (self._tables.like("amplitude", vis) - model) / self._tables.like("sigma", vis)

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "AmplitudeTerm":
        """Take the simulated visibilities."""
        return AmplitudeTerm(obs)


class RiceTerm(DataTerm):
    r"""Visibility amplitudes with their exact law, valid at any signal-to-noise.

    The amplitude A of a complex Gaussian follows the Rice law,
    :math:`-\ln p = (A^2 + |V|^2) / 2 \sigma^2 - \ln I_0(A |V| / \sigma^2)` up to a constant. Residuals are those of A
    squared, whose mean :math:`|V|^2 + 2 \sigma^2` and variance :math:`4 \sigma^2 (|V|^2 + \sigma^2)` are exact.

    Parameters
    ----------
    obs : Observation
        The data, amplitudes calibrated.
    """

    name = "rice_amplitude"

    def __init__(self, obs: Observation) -> None:
        self.n = len(obs)
        self.budget = "Rice amplitudes"
        self._tables = Tables(amplitude=obs.vis.abs(), sigma=obs.sigma)

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """Standardised error of the squared amplitude, (B, M)."""
        sigma = self._tables.like("sigma", vis)
        a, v = self._tables.like("amplitude", vis) / sigma, squared_amplitude(vis, amplitude_floor(image)) / sigma**2
        return (a.square() - v - 2) / (2 * (v + 1).sqrt())

    def neg_log_prob(self, vis: Tensor, image: Tensor) -> Tensor:
        """Exact negative log-density, (B,), up to a constant."""
        sigma = self._tables.like("sigma", vis)
        a = self._tables.like("amplitude", vis) / sigma
        v = squared_amplitude(vis, amplitude_floor(image)).sqrt() / sigma
        return (0.5 * (a - v).square() - torch.special.i0e(a * v).log()).sum(1)

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "RiceTerm":
        """Take the simulated visibilities."""
        return RiceTerm(obs)


class FluxTerm(DataTerm):
    """Total flux of the image: closures do not see it.

    Parameters
    ----------
    flux, sigma : float
        Measured flux and its standard deviation, in Jy.
    """

    name = "flux"
    n = 1

    def __init__(self, flux: float, sigma: float) -> None:
        check_positive("flux_sigma", sigma)
        self.flux, self.sigma = float(flux), float(sigma)
        self.budget = f"{self.flux:g} +- {self.sigma:g} Jy"

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """(flux - sum of the image)/sigma, (B, 1)."""
        return (self.flux - image.flatten(1).sum(1, keepdim=True)) / self.sigma

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "FluxTerm":
        """Measure the image's flux with this error."""
        error = self.sigma * float(randn_like(image.flatten()[:1], generator))
        return FluxTerm(float(image.sum()) + error, self.sigma)


class CentroidTerm(DataTerm):
    """Position of the image's centre of light: closures do not see it.

    Parameters
    ----------
    fov_uas : float
        Side of the image, in microarcseconds.
    sigma : float
        Standard deviation of each coordinate, in microarcseconds.
    position : tuple of float
        Measured offset to the East and North of the field's centre, in microarcseconds.
    """

    name = "centroid"
    n = 2
    sees_position = True

    def __init__(self, fov_uas: float, sigma: float, position: tuple[float, float] = (0.0, 0.0)) -> None:
        check_positive("fov_uas", fov_uas)
        check_positive("centroid_sigma", sigma)
        self.fov_uas, self.sigma, self.position = float(fov_uas), float(sigma), position
        self.budget = f"({position[0]:g}, {position[1]:g}) +- {self.sigma:g} uas"

    def centroid(self, image: Tensor) -> Tensor:
        """Centre of light, East and North in microarcseconds, (B, 2); raises nothing for images of zero flux (0, 0)."""
        npix = image.shape[-1]
        offset = (npix - 1) / 2 - torch.arange(npix, dtype=image.dtype, device=image.device)
        offset = offset * (self.fov_uas / npix)
        moments = torch.cat([image.sum(-2) @ offset, image.sum(-1) @ offset], 1)
        flux = image.flatten(1).sum(1, keepdim=True)
        return moments / torch.where(flux.abs() < _FLOOR**2, torch.ones_like(flux), flux)

    def residuals(self, vis: Tensor, image: Tensor) -> Tensor:
        """(position - centroid)/sigma, (B, 2)."""
        return (image.new_tensor(self.position) - self.centroid(image)) / self.sigma

    def redraw(self, obs: Observation, image: Tensor, generator: torch.Generator | None) -> "CentroidTerm":
        """Measure the image's centroid with this error."""
        centre = self.centroid(image)[0]
        east, north = (centre + self.sigma * randn_like(centre, generator)).tolist()
        return CentroidTerm(self.fov_uas, self.sigma, (east, north))
