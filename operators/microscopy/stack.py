"""Volumes: a stack of planes seen by a microscope that moves its focus through it, or by one that does not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.operators.convolution import PaddedFilter, centred
from sciinstruct.operators.microscopy.camera_pixels import CameraBlur
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.spread import periodic_spread, pixel_spread
from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.microscopy.window import psf_reach, psf_window
from sciinstruct.operators.padding import Boundary, fast_length


class StackConvolution(PaddedFilter):
    r"""Three-dimensional convolution, :math:`y_f = \sum_s h_{f-s} * x_s`, dark above and below the volume.

    Parameters
    ----------
    psf : Tensor, shape (P, kh, kw)
        h: what a point looks like when the focus is (i - P // 2) planes beyond it, i = 0 ... P - 1, P odd. It is used
        as it is. Planes that no pair of planes of the volume needs are left out.
    stack_shape : tuple of int, (Z, H, W)
        Shape of the volume.
    boundary : str
        Beyond the sides of the planes, as for `sciinstruct.operators.convolution.Convolution`.

    Notes
    -----
    (B, 1, Z, H, W) -> (B, 1, Z, H', W'), H' and W' smaller under the boundary ``"valid"``. Zeros are added along z, so
    nothing wraps around.
    """

    gain: Tensor

    def __init__(self, psf: Tensor, stack_shape: tuple[int, int, int], boundary: Boundary) -> None:
        _check_stack(psf, stack_shape)
        if len(psf) % 2 == 0:
            raise ValueError(f"psf must have an odd number of planes, got {len(psf)}; its middle one is in focus")
        super().__init__((psf.shape[1], psf.shape[2]), stack_shape, boundary)
        planes, reach = stack_shape[0], min(len(psf) // 2, stack_shape[0] - 1)
        kernel = centred(psf.double(), self.grid)[len(psf) // 2 - reach : len(psf) // 2 + reach + 1]
        self._axial = fast_length(planes + reach)
        column = torch.cat([kernel[reach:], kernel.new_zeros(self._axial - len(kernel), *self.grid), kernel[:reach]])
        self.register_buffer("gain", torch.fft.fft(torch.fft.rfft2(column), dim=0))
        self.domain_shape, self.range_shape = (1, *stack_shape), (1, *self.range_shape)

    def apply(self, x: Tensor) -> Tensor:
        """Focal stack of a volume."""
        return self._cut(self._along_z(torch.fft.rfft2(self._widen(x), s=self.grid), self.gain))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Transpose."""
        return self._widen_transpose(self._correlated(self._along_z(self._cut_transpose(y), self.gain.conj())))

    def _along_z(self, spectrum: Tensor, gain: Tensor) -> Tensor:
        planes = self.domain_shape[1]
        mixed = torch.fft.fft(spectrum, n=self._axial, dim=-3) * gain.to(spectrum.device, spectrum.dtype)
        return torch.fft.ifft(mixed, dim=-3)[..., :planes, :, :]


class ProjectedConvolution(PaddedFilter):
    r"""Sum over the planes, each with its own blur, :math:`y = \sum_s h_s * x_s`: one image of a volume.

    `psf` holds one point-spread function a plane, (Z, kh, kw), used as it is; the rest as for `StackConvolution`.
    (B, 1, Z, H, W) -> (B, 1, H', W').
    """

    gain: Tensor

    def __init__(self, psf: Tensor, stack_shape: tuple[int, int, int], boundary: Boundary) -> None:
        _check_stack(psf, stack_shape)
        if len(psf) != stack_shape[0]:
            raise ValueError(f"psf must have one plane for each of the {stack_shape[0]} of the stack, got {len(psf)}")
        super().__init__((psf.shape[1], psf.shape[2]), stack_shape, boundary)
        self.register_buffer("gain", torch.fft.rfft2(centred(psf.double(), self.grid)))
        self.domain_shape, self.range_shape = (1, *stack_shape), (1, *self.range_shape[1:])

    def apply(self, x: Tensor) -> Tensor:
        """One image of a volume."""
        spectrum = torch.fft.rfft2(self._widen(x), s=self.grid)
        return self._cut((spectrum * self.gain.to(x.device, spectrum.dtype)).sum(-3))

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Transpose."""
        spectrum = self._cut_transpose(y)[..., None, :, :]
        return self._widen_transpose(self._correlated(spectrum * self.gain.conj().to(y.device, spectrum.dtype)))


class StackBlur(CameraBlur):
    """A measured three-dimensional point-spread function: volume to focal stack, plane by plane.

    Parameters
    ----------
    psf : Tensor, shape (P, kh, kw)
        Stack of a point, odd sides, planes as far apart as the volume's, the middle one in focus. It is divided by the
        sum of that plane: a source's photons are counted in the plane that is focused on it.
    stack_shape : tuple of int, (Z, H, W)
        Shape of the latent volume.
    boundary : str
        Beyond the sides of the planes: ``"reflect"`` (default), ``"replicate"``, ``"circular"``, ``"zero"`` or
        ``"valid"``, as for `sciinstruct.operators.convolution.Convolution`. Above and below the volume it is dark.
    factor : int
        Side of a camera pixel in pixels of the volume.

    Raises
    ------
    TypeError
        If `psf` is not a floating tensor.
    ValueError
        If it is not three-dimensional, finite, of odd sides and no larger than the planes; or `factor` does not fit.
    """

    def __init__(
        self, psf: Tensor, stack_shape: tuple[int, int, int], boundary: Boundary = "reflect", factor: int = 1
    ) -> None:
        _check_stack(psf, stack_shape)
        if any(side % 2 == 0 for side in psf.shape):
            raise ValueError(f"psf sides must be odd, got {tuple(psf.shape)}; crop it about the source's voxel")
        super().__init__(StackConvolution(in_focus_normalised(psf, len(psf) // 2), stack_shape, boundary), factor)


class Widefield3D(CameraBlur):
    r"""Focal stack of a volume in a wide-field microscope: every plane also holds the haze of all others.

    Parameters
    ----------
    optics : Optics
        Objective, emission wavelength and media.
    stack_shape : tuple of int, (Z, H, W)
        Shape of the latent volume; the focus visits its planes one after the other.
    pixel_um, z_step_um : float or Quantity
        Side of a latent pixel and distance of the planes in the sample, um.
    boundary, factor
        As for :class:`StackBlur`.
    radius_um : float or Quantity, optional
        Lateral reach of the point-spread function, um. By default four of Abbe's resolutions and the cone of light at
        the far plane, at most half the image unless the boundary is ``"valid"``; light beyond is lost. With
        ``"circular"`` the pattern is wrapped around and nothing is lost.
    depth_um : float or Quantity
        Depth of the middle of the volume below the coverslip, um: one for all planes (`WidefieldPlane` has one each).
    model : PupilModel
        `vectorial_pupil` or `scalar_pupil`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, not positive, or the image cannot hold the point-spread function.

    Notes
    -----
    The plane in focus has sum 1. One plane alone is a `WidefieldBlur`.
    """

    def __init__(
        self,
        optics: Optics,
        stack_shape: tuple[int, int, int],
        pixel_um: Any,
        z_step_um: Any,
        boundary: Boundary = "reflect",
        factor: int = 1,
        *,
        radius_um: Any = None,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        z = stack_offsets(optics, stack_shape, z_step_um)
        spread = lateral_spread(optics, stack_shape, pixel_um, boundary, radius_um, float(z[-1]), model)
        psf = spread(z, to_unit(depth_um, "um", "depth_um"))
        super().__init__(StackConvolution(in_focus_normalised(psf, len(z) // 2), stack_shape, boundary), factor)


class WidefieldPlane(CameraBlur):
    """One wide-field image of a volume: the plane in focus and the haze of the others, each blurred at its own depth.

    Parameters
    ----------
    focus_um : float or Quantity
        Nominal position of the focus below the first plane of the volume, um.
    depth_um : float or Quantity
        Depth of the first plane below the coverslip, um.
    optics, stack_shape, pixel_um, z_step_um, boundary, factor, radius_um, model
        As for :class:`Widefield3D`.

    Raises
    ------
    TypeError, ValueError
        As for :class:`Widefield3D`.
    """

    def __init__(
        self,
        optics: Optics,
        stack_shape: tuple[int, int, int],
        pixel_um: Any,
        z_step_um: Any,
        focus_um: Any,
        boundary: Boundary = "reflect",
        factor: int = 1,
        *,
        radius_um: Any = None,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        below = stack_offsets(optics, stack_shape, z_step_um)[stack_shape[0] - 1 :]  # the planes, from the first one
        focus, top = to_unit(focus_um, "um", "focus_um"), to_unit(depth_um, "um", "depth_um")
        depths = top + below / optics.stage_ratio
        z = focus * optics.stage_ratio - below
        spread = lateral_spread(optics, stack_shape, pixel_um, boundary, radius_um, float(z.abs().max()), model)
        # last, a source at the nominal focus, as deep as that or at the coverslip: its image is to have sum 1
        psf = spread(torch.cat([z, z.new_zeros(1)]), torch.cat([depths, depths.new_tensor([max(top + focus, 0.0)])]))
        super().__init__(ProjectedConvolution(in_focus_normalised(psf, -1)[:-1], stack_shape, boundary), factor)


def stack_offsets(optics: Optics, stack_shape: tuple[int, int, int], z_step_um: Any) -> Tensor:
    """Movements of the focus from one plane to another, (2 Z - 1,), um in the immersion medium, 0 in the middle."""
    _check_shape(stack_shape)
    step = to_unit(z_step_um, "um", "z_step_um")
    check_positive("z_step_um", step)
    planes = stack_shape[0]
    return torch.arange(1 - planes, planes, dtype=torch.float64) * (step * optics.stage_ratio)


def lateral_spread(
    optics: Optics,
    stack_shape: tuple[int, int, int],
    pixel_um: Any,
    boundary: Boundary,
    radius_um: Any,
    farthest_um: float,
    model: PupilModel,
) -> Callable[[Tensor, Any], Tensor]:
    """The function (z, depth) -> (Z, kh, kw) of planes as wide as `radius_um` or, by default, the volume asks."""
    pixel, sides = to_unit(pixel_um, "um", "pixel_um"), (stack_shape[-2], stack_shape[-1])
    check_positive("pixel_um", pixel)
    if radius_um is None and boundary == "circular":
        return lambda z, depth: periodic_spread(optics, pixel, sides, z, depth, model=model)
    window = lateral_window(optics, stack_shape, pixel, boundary, radius_um, farthest_um)
    return lambda z, depth: pixel_spread(optics, pixel, window, z, depth, model=model)


def lateral_window(
    optics: Optics,
    stack_shape: tuple[int, int, int],
    pixel_um: float,
    boundary: Boundary,
    radius_um: Any,
    farthest_um: float,
) -> tuple[int, int]:
    """Shape of the planes of a point-spread function: what the farthest plane needs, or half the image if it has less.

    Under the boundary ``"valid"``, and with a radius given, a reach that the image cannot hold is refused.
    """
    sides = (stack_shape[-2], stack_shape[-1])
    reach = psf_reach(optics, pixel_um, radius_um, farthest_um)
    if radius_um is None and boundary != "valid":
        reach = min(reach, (min(sides) - 1) // 2)
    return psf_window(reach, sides, pixel_um)


def in_focus_normalised(psf: Tensor, plane: int) -> Tensor:
    """Planes divided by the sum of the one in focus, in float64; refuses one without light."""
    total = psf[plane].double().sum()
    if not total > 0:
        raise ValueError(f"psf must have a positive sum in its plane in focus, got {float(total):.3g}")
    return psf.double() / total


def _check_stack(psf: Tensor, stack_shape: tuple[int, int, int]) -> None:
    if not isinstance(psf, Tensor) or not psf.is_floating_point():
        raise TypeError(f"psf must be a floating tensor, got {getattr(psf, 'dtype', type(psf).__name__)}")
    _check_shape(stack_shape)
    if psf.ndim != 3 or psf.shape[1] > stack_shape[1] or psf.shape[2] > stack_shape[2]:
        raise ValueError(f"psf must be planes no larger than {tuple(stack_shape[1:])}, got shape {tuple(psf.shape)}")
    check_finite("psf", psf)


def _check_shape(stack_shape: tuple[int, int, int]) -> None:
    if len(stack_shape) != 3 or min(stack_shape) < 1:
        raise ValueError(f"stack_shape must be (Z, H, W), got {tuple(stack_shape)}")
