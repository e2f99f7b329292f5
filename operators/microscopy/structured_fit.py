"""Where the stripes of a structured-illumination recording lie, in the units that its operator takes."""

from typing import Any

from torch import Tensor

from sciinstruct.core.checks import check_positive
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import PupilModel, vectorial_pupil
from sciinstruct.operators.microscopy.sim_estimation import check_frames, estimate_stripes
from sciinstruct.operators.microscopy.spread import pixel_spread
from sciinstruct.operators.microscopy.structured import Stripes
from sciinstruct.operators.microscopy.units import to_unit

_COARSEST = 0.3  # of the cut-off: coarser stripes are lost in the image's own low frequencies


def fit_stripes(
    frames: Tensor, optics: Optics, pixel_um: Any, phases: int = 3, *, model: PupilModel = vectorial_pupil
) -> Stripes:
    r"""Wave vectors, phases and contrasts of the illumination from the raw frames themselves.

    `sciinstruct.operators.microscopy.sim_estimation.estimate_stripes` with the point-spread function of the optics; its
    notes say how exact it is.

    Parameters
    ----------
    frames : Tensor, shape (A * phases, H, W)
        Raw frames less the camera's offset, the phases of one direction together, stepped by 2 pi / phases.
    optics : Optics
        With `excitation_nm` if known: it bounds the search.
    pixel_um : float or Quantity
        Side of a camera pixel in the specimen, um, fine enough for the cut-off.
    phases : int
        Frames of each direction, at least 3.
    model : PupilModel
        `vectorial_pupil` or `scalar_pupil`.

    Returns
    -------
    Stripes
        As `sciinstruct.operators.microscopy.structured.SIM` takes them. A contrast above 1, by noise, is given as 1.

    Raises
    ------
    TypeError, ValueError
        If `frames` has another shape, is not finite or not floating, or the pixels are coarser than Nyquist's.
    """
    check_frames(frames, phases)
    pixel = to_unit(pixel_um, "um", "pixel_um")
    check_positive("pixel_um", pixel)
    if pixel > optics.nyquist_um:
        raise ValueError(f"pixel_um must be at most lambda / (4 NA) = {optics.nyquist_um:.4g}, got {pixel:.4g}")
    psf = pixel_spread(optics, pixel, (frames.shape[1], frames.shape[2]), model=model)
    highest = optics.cutoff_per_um if optics.excitation_nm is None else optics.at_excitation().cutoff_per_um
    search = (_COARSEST * optics.cutoff_per_um * pixel, min(1.02 * highest * pixel, 0.75))
    found = estimate_stripes(frames, psf, phases=phases, search=search)
    return Stripes(found.wave_vectors / pixel, found.phase, found.modulation.clamp(max=1))
