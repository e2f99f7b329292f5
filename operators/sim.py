"""Structured illumination: raw frames of a fluorescence microscope under shifted stripes."""

import math

import torch
from torch import Tensor

from sciinstruct.core.operator import LinearOperator
from sciinstruct.operators.downsample import Downsample


def widefield_transfer(cutoff: float, image_shape: tuple[int, int]) -> Tensor:
    r"""Incoherent transfer function of an ideal circular pupil, in focus, (H, W), layout of ``torch.fft.fft2``.

    :math:`H(k) = \frac2\pi (\arccos r - r \sqrt{1 - r^2})` with :math:`r = |k| / k_c`, exactly zero beyond r = 1.

    Parameters
    ----------
    cutoff : float
        :math:`k_c = 2 NA / \lambda`, in cycles per pixel.
    image_shape : tuple of int
        Height and width, in pixels.
    """
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in image_shape)
    r = (torch.hypot(ky[:, None], kx) / cutoff).clamp(max=1)
    return 2 / math.pi * (r.arccos() - r * (1 - r.square()).sqrt())


class StructuredIllumination(LinearOperator):
    r"""Frames :math:`y_{aj} = D\,h * (x\,[1 + m \cos(2\pi k_a \cdot r + 2\pi j/J)])` of one image x, linear in it.

    The illumination's stripes of wave vector k_a, at `angles` directions spread evenly over half a turn and `phases`
    positions each, move frequencies up to :math:`k_c + |k_a|` below the cut-off :math:`k_c` of the optics h.

    Parameters
    ----------
    cutoff : float
        Cut-off of the incoherent transfer function, 2 NA over the emission wavelength, in cycles per pixel.
    image_shape : tuple of int, (H, W)
        Shape of the image; the blur is periodic.
    angles, phases : int
        Directions of the stripes, the first along the columns, and positions of each: 3 and 3 give the usual nine
        frames. Three phases are the fewest that separate the two side bands from the centre.
    stripes : float
        Wave number of the stripes over `cutoff`: at most the excitation's 2 NA over its wavelength.
    modulation : float
        Contrast m of the stripes, between 0 and 1.
    camera : int
        Side of a camera pixel in pixels of the image: D averages over it.

    Attributes
    ----------
    patterns : Tensor, shape (angles * phases, H, W), float64
        Illumination 1 + m cos(...), average 1 over the phases of each direction.
    transfer : Tensor, shape (H, W), float64
        Transfer function of h.

    Raises
    ------
    ValueError
        If `cutoff` or `stripes` is not positive, the stripes are finer than the pixels can show, `modulation` lies
        outside [0, 1], or `angles` or `phases` is not positive.

    References
    ----------
    Gustafsson 2000, "Surpassing the lateral resolution limit by a factor of two using structured illumination".
    """

    patterns: Tensor
    transfer: Tensor

    def __init__(
        self,
        cutoff: float,
        image_shape: tuple[int, int],
        *,
        angles: int = 3,
        phases: int = 3,
        stripes: float = 0.9,
        modulation: float = 0.9,
        camera: int = 1,
    ) -> None:
        super().__init__()
        if not cutoff > 0 or not 0 < stripes * cutoff <= 0.5:
            raise ValueError(
                f"cutoff and stripes must be positive with stripes * cutoff at most 0.5 cycles per pixel, got "
                f"{cutoff} and {stripes}; use smaller pixels"
            )
        if not 0 <= modulation <= 1:
            raise ValueError(f"modulation must lie between 0 and 1, got {modulation}")
        if angles < 1 or phases < 1:
            raise ValueError(f"angles and phases must be at least 1, got {angles} and {phases}")
        self.camera = Downsample(camera, image_shape)
        turn = math.pi * torch.arange(angles, dtype=torch.float64) / angles
        wave_vectors = stripes * cutoff * torch.stack([turn.sin(), turn.cos()], 1)
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in image_shape)
        even = torch.ones(angles, dtype=torch.float64)
        patterns = stripe_patterns(wave_vectors, rows, columns, phases, modulation * even, 0 * even)
        self.register_buffer("patterns", patterns)
        self.register_buffer("transfer", widefield_transfer(cutoff, image_shape))
        self.domain_shape = (1, *image_shape)
        self.range_shape = (angles * phases, *self.camera.range_shape[1:])

    def apply(self, x: Tensor) -> Tensor:
        """Raw frames, (B, 1, H, W) -> (B, frames, H/camera, W/camera)."""
        frames = self._blur(x * self.patterns.to(x.device, x.dtype))
        return self.camera(frames.flatten(0, 1)[:, None]).reshape(-1, *self.range_shape)

    def apply_adjoint(self, y: Tensor) -> Tensor:
        """Transpose, (B, frames, H/camera, W/camera) -> (B, 1, H, W)."""
        spread = self.camera.adjoint(y.flatten(0, 1)[:, None]).reshape(len(y), -1, *self.domain_shape[1:])
        return (self._blur(spread) * self.patterns.to(y.device, y.dtype)).sum(1, keepdim=True)

    def _blur(self, x: Tensor) -> Tensor:
        """Periodic convolution with h, which is even: its own transpose."""
        height, width = x.shape[-2:]
        gain = self.transfer[:, : width // 2 + 1].to(x.device, x.dtype)
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(height, width))


def stripe_patterns(
    wave_vectors: Tensor, rows: Tensor, columns: Tensor, phases: int, modulation: Tensor, shift: Tensor
) -> Tensor:
    r"""Illuminations :math:`1 + m_a \cos(2\pi k_a \cdot r + \phi_a + 2\pi j / J)`, (A J, H, W), j running fastest.

    Parameters
    ----------
    wave_vectors : Tensor, shape (A, 2)
        k_a along rows and columns, in cycles per unit of `rows` and `columns`.
    rows, columns : Tensor, shapes (H,) and (W,)
        Positions of the pixels.
    phases : int
        J, positions of each pattern.
    modulation, shift : Tensor, shape (A,)
        Contrast m_a and phase phi_a in radians.
    """
    ky, kx = wave_vectors.T[..., None, None, None]
    step = torch.arange(phases, dtype=torch.float64)[:, None, None] / phases
    angle = 2 * math.pi * (ky * rows[:, None] + kx * columns + step) + shift[:, None, None, None]
    return (1 + modulation[:, None, None, None] * angle.cos()).flatten(0, 1)
