"""Wide-field microscopy of a flat specimen: blur by the optics, collection by camera pixels."""

from typing import Any

from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.microscopy.camera_pixels import CameraBlur
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.spread import periodic_spread, pixel_spread
from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.microscopy.window import flat_sides, psf_reach, psf_window
from sciinstruct.operators.padding import Boundary


class PSFBlur(CameraBlur):
    r"""A measured point-spread function and a camera, :math:`y = S_r (h * x)`: photons in, photons out.

    S_r sums over r x r pixels of the image, the ones a camera pixel covers.

    Parameters
    ----------
    psf : Tensor, shape (kh, kw)
        Point-spread function h sampled on the image's pixels, odd sides, the source at the central pixel. It is divided
        by its sum, so that sum(x) is the expected number of photo-electrons.
    image_shape : tuple of int, (H, W) or (1, H, W)
        Shape of the latent image x, in pixels.
    boundary : str
        What lies beyond the latent image: ``"valid"`` (default) assumes nothing, the camera sees only the pixels that
        the latent image fully explains, H - kh + 1 by W - kw + 1 of them before summing: the right choice for a crop
        of a larger scene. ``"reflect"``, ``"replicate"``, ``"circular"``, ``"zero"`` as for
        `sciinstruct.operators.convolution.Convolution`.
    factor : int
        Side r of a camera pixel in pixels of the image.

    Raises
    ------
    TypeError
        If `psf` is not a floating tensor.
    ValueError
        If `psf` has even sides, is not finite, or does not fit the image; if the camera field is not a multiple of
        `factor` pixels, or there is more than one channel.
    """

    def __init__(
        self, psf: Tensor, image_shape: tuple[int, ...], boundary: Boundary = "valid", factor: int = 1
    ) -> None:
        if isinstance(psf, Tensor) and any(side % 2 == 0 for side in psf.shape):
            raise ValueError(f"psf sides must be odd, got {tuple(psf.shape)}; crop it about the source's pixel")
        super().__init__(Convolution(psf, flat_sides(image_shape), boundary), factor)


class WidefieldBlur(CameraBlur):
    r"""What a wide-field microscope's camera expects of a flat specimen, :math:`y = S_r (h * x)`.

    Parameters
    ----------
    optics : Optics
        Objective, emission wavelength and media.
    image_shape : tuple of int, (H, W) or (1, H, W)
        Shape of the latent image, in pixels; :meth:`for_camera` starts from the camera's instead.
    pixel_um : float or Quantity
        Side of a latent pixel in the sample, um: a camera pixel is `factor` times as large.
    boundary, factor
        As for :class:`PSFBlur`.
    radius_um : float or Quantity, optional
        Reach of the point-spread function to each side, um. By default four of Abbe's resolutions (about 92 % of the
        light, the rest is put in by normalising the sum to 1) and the cone of a defocus; with the ``"circular"``
        boundary no limit: the pattern is wrapped around the field, and what the image holds beyond the cut-off
        leaves no trace in the data.
    z_um, depth_um : float or Quantity
        Defocus and depth below the coverslip, um; see `sciinstruct.operators.microscopy.spread.point_spread`.
    model : PupilModel
        `vectorial_pupil` or `scalar_pupil`.

    Attributes
    ----------
    psf : Tensor, shape (kh, kw), float64
        Point-spread function integrated over a latent pixel, sum 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind, a length is not positive, or the point-spread function is larger than the
        image: give a smaller `radius_um` or more pixels.

    Notes
    -----
    Latent pixels are point sources at their centres and the camera integrates exactly over its own squares: the
    pattern is integrated over a latent pixel and summed r x r.
    """

    psf: Tensor

    def __init__(
        self,
        optics: Optics,
        image_shape: tuple[int, ...],
        pixel_um: Any,
        boundary: Boundary = "valid",
        factor: int = 1,
        *,
        radius_um: Any = None,
        z_um: Any = 0.0,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> None:
        pixel = to_unit(pixel_um, "um", "pixel_um")
        check_positive("pixel_um", pixel)
        sides = flat_sides(image_shape)
        z, depth = to_unit(z_um, "um", "z_um"), to_unit(depth_um, "um", "depth_um")
        if radius_um is None and boundary == "circular":
            psf = periodic_spread(optics, pixel, sides, z, depth, model=model)
        else:
            window = psf_window(psf_reach(optics, pixel, radius_um, z), sides, pixel)
            psf = pixel_spread(optics, pixel, window, z, depth, model=model)
        super().__init__(Convolution(psf, sides, boundary), factor)
        self.optics, self.pixel_um = optics, pixel
        self.register_buffer("psf", psf / psf.sum())

    @classmethod
    def for_camera(
        cls,
        optics: Optics,
        camera_shape: tuple[int, int],
        camera_pixel_um: Any,
        factor: int = 1,
        *,
        radius_um: Any = None,
        z_um: Any = 0.0,
        depth_um: Any = 0.0,
        model: PupilModel = vectorial_pupil,
    ) -> "WidefieldBlur":
        """The operator of a given camera field, boundary ``"valid"``: its latent image reaches beyond that field.

        `camera_pixel_um` is the camera's pixel in the sample (its own size over the magnification); the latent pixel is
        `factor` times smaller. The other arguments are those of the class.
        """
        if factor < 1 or factor != int(factor):
            raise ValueError(f"factor must be a whole number of at least 1, got {factor}")
        pixel = to_unit(camera_pixel_um, "um", "camera_pixel_um") / factor
        check_positive("camera_pixel_um", pixel)
        reach = psf_reach(optics, pixel, radius_um, to_unit(z_um, "um", "z_um"))
        height, width = (n * factor + 2 * reach for n in camera_shape)
        return cls(
            optics, (height, width), pixel, "valid", factor,
            radius_um=radius_um, z_um=z_um, depth_um=depth_um, model=model,
        )  # fmt: skip
