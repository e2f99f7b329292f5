"""From a sky image to complex visibilities."""

import math

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.core.operator import LinearOperator
from sciinstruct.operators.interferometry.nufft import image_to_points, points_to_image, wrap_points
from sciinstruct.operators.interferometry.observation import MICROARCSECOND
from sciinstruct.operators.interferometry.tables import Tables

_PULSES = {"average": -1, "delta": 0, "rect": 1, "triangle": 2}
_DENSE_BYTES = 64e6


class VisibilityOperator(LinearOperator):
    r"""Visibilities of an image, :math:`V(u, v) = P(u, v) \sum_{ij} I_{ij} e^{2 \pi i (u x_j + v y_i)}`.

    Row 0 is the North edge and column 0 the East edge of the image: :math:`x_j = ((W-1)/2 - j) p` grows to the East
    (left) and :math:`y_i = ((H-1)/2 - i) p` to the North (up), p the pixel size.

    Parameters
    ----------
    u, v : Tensor, shape (M,)
        Baseline coordinates in wavelengths, first minus second station.
    npix : int
        Pixels on a side of the square image.
    fov_uas : float
        Side of the image in microarcseconds.
    pulse : {'triangle', 'rect', 'delta', 'average'}
        Shape of a pixel: P is sinc(pu) sinc(pv) to the power 2, 1, 0 or -1, sinc t = sin(pi t)/(pi t). 'triangle' is
        what eht-imaging assumes, 'rect' a sky that is constant over each pixel. 'average' is for pixels that hold the
        sky's averages, as in priors rendered finely and averaged down: it undoes the averaging, so that the
        visibilities are those of the sky itself (baselines must be shorter than 0.8 per pixel).
    backend : {'auto', 'dense', 'nufft'}
        'dense' keeps the matrix of cosines and sines, 'nufft' calls pytorch-finufft (relative error 1e-12 in float64,
        1e-6 in float32). 'auto' is dense while the float32 matrix takes at most 64 MB.

    Attributes
    ----------
    backend : str
        The one in use.
    pixel_uas : float
        Side of a pixel in microarcseconds.

    Raises
    ------
    ValueError
        If u and v differ in shape, are empty or not finite, or an option is unknown.

    Notes
    -----
    Images (B, 1, npix, npix) in Jy per pixel give complex (B, M) in Jy; the adjoint is for the inner product Re<a, b>,
    so it returns a real image. Bandwidth and time smearing, the w-term and primary beams are not modelled: the phase
    that the w-term neglects is about 4e-9 rad at the EHT's fields of view.
    """

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        npix: int,
        fov_uas: float,
        pulse: str = "triangle",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.u, self.v = self._check_uv(u, v)
        check_positive("npix", float(npix))
        check_positive("fov_uas", fov_uas)
        if pulse not in _PULSES:
            raise ValueError(f"pulse must be one of {list(_PULSES)}, got {pulse!r}")
        if backend not in ("auto", "dense", "nufft"):
            raise ValueError(f"backend must be 'auto', 'dense' or 'nufft', got {backend!r}")
        self.npix, self.fov_uas, self.pulse = int(npix), float(fov_uas), pulse
        self.pixel_uas = self.fov_uas / self.npix
        self.domain_shape, self.range_shape = (1, self.npix, self.npix), (len(self.u),)
        if backend == "auto":
            backend = "dense" if 2 * len(self.u) * self.npix**2 * 4 <= _DENSE_BYTES else "nufft"
        self.backend = backend
        self._tables = self._dense_tables() if backend == "dense" else self._nufft_tables()

    @staticmethod
    def _check_uv(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u, v = (torch.as_tensor(c).detach().double().cpu() for c in (u, v))
        if u.ndim != 1 or u.shape != v.shape or not len(u):
            raise ValueError(
                f"u and v must be vectors of one length, at least 1, got {tuple(u.shape)}, {tuple(v.shape)}"
            )
        check_finite("u", u)
        check_finite("v", v)
        return u, v

    def _pulse_factor(self) -> Tensor:
        p = self.pixel_uas * MICROARCSECOND
        if _PULSES[self.pulse] < 0 and p * max(float(self.u.abs().max()), float(self.v.abs().max())) > 0.8:
            raise ValueError(
                f"pulse {self.pulse!r} needs pixels below 0.8 fringes, got {self.pixel_uas:.3g} uas: use more"
            )
        return (torch.sinc(p * self.u) * torch.sinc(p * self.v)) ** _PULSES[self.pulse]

    def _dense_tables(self) -> Tables:
        offset = ((self.npix - 1) / 2 - torch.arange(self.npix, dtype=torch.float64)) * self.pixel_uas * MICROARCSECOND
        columns = torch.exp(2j * math.pi * self.u[:, None] * offset)
        rows = torch.exp(2j * math.pi * self.v[:, None] * offset) * self._pulse_factor()[:, None]
        matrix = (rows[:, :, None] * columns[:, None, :]).flatten(1)
        return Tables(matrix=torch.cat([matrix.real, matrix.imag]))

    def _nufft_tables(self) -> Tables:
        k = 2 * math.pi * self.pixel_uas * MICROARCSECOND * torch.stack([self.v, self.u])
        half_pixel = 0.5 if self.npix % 2 == 0 else 0.0
        factor = self._pulse_factor() * torch.exp(-1j * half_pixel * k.sum(0))
        return Tables(points=wrap_points(k), factor=factor)

    def apply(self, x: Tensor) -> Tensor:
        """Visibilities in Jy, (B, 1, N, N) -> complex (B, M)."""
        if self.backend == "dense":
            real, imag = (x.flatten(-3) @ self._tables.like("matrix", x).T).chunk(2, -1)
            return torch.complex(real, imag)
        image = torch.complex(x, torch.zeros_like(x)).squeeze(-3)
        return image_to_points(image, self._tables.like("points", x)) * self._tables.like("factor", x)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Real image A^T y, complex (B, M) -> (B, 1, N, N)."""
        if self.backend == "dense":
            y = y if y.is_complex() else torch.complex(y, torch.zeros_like(y))
            flat = torch.cat([y.real, y.imag], -1) @ self._tables.like("matrix", y)
            return flat.unflatten(-1, self.domain_shape)
        weighted = y * self._tables.like("factor", y).conj()
        image = points_to_image(weighted, self._tables.like("points", y), (self.npix, self.npix))
        return image.real.unsqueeze(-3)

    def dirty_image(self, vis: Tensor, weights: Tensor | None = None) -> Tensor:
        r"""Weighted adjoint :math:`A^T W V / \sum W`: real, so the conjugate half of the plane is included.

        Parameters
        ----------
        vis : Tensor, complex, shape (B, M)
            Visibilities in Jy.
        weights : Tensor, shape (M,), optional
            ``1/sigma**2`` is natural weighting; equal weights by default.

        Returns
        -------
        Tensor, shape (B, 1, N, N)
            Dirty image in Jy per beam.
        """
        weights = torch.ones_like(self.u) if weights is None else weights
        if tuple(weights.shape) != self.range_shape or not (weights >= 0).all() or not weights.sum() > 0:
            raise ValueError(f"weights must be {self.range_shape[0]} non-negative numbers, not all zero")
        return self.adjoint(vis * (weights / weights.sum()).to(vis.device, vis.real.dtype))

    def dirty_beam(self, weights: Tensor | None = None) -> Tensor:
        """Dirty image of a 1 Jy point at the centre of the field, (1, 1, N, N), float64."""
        return self.dirty_image(torch.ones(1, *self.range_shape, dtype=torch.complex128), weights)

    def beam_shape(self, weights: Tensor | None = None) -> tuple[float, float, float]:
        r"""Gaussian with the dirty beam's curvature at its peak: FWHM major, minor (uas), position angle (deg E of N).

        The curvature is that of the transform itself, :math:`4 \pi^2 \langle (u, v)(u, v)^T \rangle`: neither the grid
        nor the pulse enters.
        """
        w = torch.ones_like(self.u) if weights is None else weights.detach().double().cpu()
        uv = torch.stack([self.u, self.v])
        curvature = 4 * math.pi**2 * (uv * (w / w.sum())) @ uv.T
        values, vectors = torch.linalg.eigh(curvature)
        minor, major = (math.sqrt(8 * math.log(2) / float(values[i])) / MICROARCSECOND for i in (1, 0))
        angle = math.degrees(math.atan2(float(vectors[0, 0]), float(vectors[1, 0]))) % 180
        return major, minor, angle
