"""From corrupted images to a prior and a posterior network, without a clean one."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core import FileFormatError, GaussianNoise, atomic_path
from sciinstruct.core.checks import check_positive
from sciinstruct.jobs.surroundings import usable_device, writable_folder

if TYPE_CHECKING:
    from sciinstruct.inference.flowdiff_result import FlowDiffResult
    from sciinstruct.inference.simulator import Simulator
    from sciinstruct.operators.microscopy import Optics

REPORT, CHECKPOINT = "report.json", "training.pt"


class Corrupted(NamedTuple):
    """Measurements and their law."""

    measurements: Tensor  # (n, *range_shape)
    simulator: "Simulator"


class Microscope(NamedTuple):
    """A wide-field microscope and its camera."""

    optics: "Optics"
    pixel_um: float  # side of a pixel in the sample
    read: float  # read noise, electrons


def train_flowdiff(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sigma: float | None = None,
    blur: float | None = None,
    microscope: Microscope | None = None,
    steps: int = 4000,
    clean: str | os.PathLike[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    resume: bool = False,
    command: str = "",
) -> "FlowDiffResult":
    """Train on a stack of corrupted images and save prior, posterior network and report in `out`.

    Parameters
    ----------
    data : path
        A ``.npy`` array (n, H, W) or (n, C, H, W). NaN marks pixels that were not measured.
    out : path
        Folder for ``prior``, ``reconstructor``, ``report.json`` and the checkpoint; made if missing.
    sigma : float, optional
        Standard deviation of white noise, in the data's units; needed without a microscope.
    blur : float, optional
        Standard deviation of a Gaussian blur, pixels, periodic at the borders.
    microscope : Microscope, optional
        Instead of both: blur by its optics, photon and read noise; data in electrons.
    steps, seed : int
        Length and seed of the run.
    clean : path, optional
        A ``.npy`` array of a few clean images of the same shape.
    device, progress, resume, command
        As of `sciinstruct.jobs.train_from`.

    Raises
    ------
    FileFormatError
        If an array cannot be read or has other axes.
    ValueError
        If the corruption is not told, or told twice; on data no law can be learned from.
    OutputError
        If `out` cannot be written.
    """
    from sciinstruct.inference.flowdiff import FlowDiff

    folder, where = writable_folder(out), usable_device(device)
    told = corrupted_images(read_stack(data), sigma, blur, microscope)
    state = folder / CHECKPOINT
    found = FlowDiff.for_images(steps).train(
        told.measurements.to(where),
        told.simulator.to(where),
        clean_images=None if clean is None else read_stack(clean).to(where),
        generator=torch.Generator(where).manual_seed(seed),
        progress=progress,
        checkpoint=state,
        resume=resume and state.is_file(),
    )
    found.reconstructor.attributes |= {"data": Path(data).name, "device": str(where), "command": command}
    found.save(folder)
    _write_report(folder / REPORT, found, command)
    return found


def read_stack(path: str | os.PathLike[str]) -> Tensor:
    """Images of a ``.npy`` file, (n, C, H, W) float32; raises FileFormatError on other files or axes."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileFormatError(f"cannot read {path} as an .npy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim not in (3, 4) or array.dtype.kind not in "fiu":
        raise FileFormatError(f"{path} must hold real images (n, H, W) or (n, C, H, W)")
    images = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return images[:, None] if images.ndim == 3 else images


def corrupted_images(
    images: Tensor, sigma: float | None, blur: float | None, microscope: Microscope | None
) -> Corrupted:
    """Measurements (n, C, H, W), NaN where nothing was measured, with the law that is told.

    Raises
    ------
    ValueError
        If it is not told, told twice, or missing pixels come together with a blur.
    """
    from sciinstruct.inference.simulator import MaskSimulator, OperatorSimulator
    from sciinstruct.operators import GaussianBlur, ImageMask

    shape = tuple(images.shape[1:])
    if microscope is not None:
        if sigma is not None or blur is not None:
            raise ValueError("a microscope brings its blur and noise: leave out sigma and blur")
        return Corrupted(images, _microscope_law(microscope, shape))
    if sigma is None:
        raise ValueError(
            "say what corrupted the images: sigma (white noise), and blur if there is one; or a microscope"
        )
    check_positive("sigma", sigma)
    missing = torch.isnan(images)
    if not missing.any():
        operator = ImageMask(torch.ones(shape, dtype=torch.bool)) if blur is None else GaussianBlur(blur, shape)
        return Corrupted(images, OperatorSimulator(operator, GaussianNoise(sigma)))
    if blur is not None:
        raise ValueError("missing pixels (NaN) behind a blur need a simulator of your own: use the Python interface")
    law = MaskSimulator((shape[0], shape[1], shape[2]), sigma, lambda n, g: ~missing[:n])
    return Corrupted(law.pack(images.nan_to_num(), ~missing), law)


def _microscope_law(microscope: Microscope, shape: tuple[int, ...]) -> "Simulator":
    from sciinstruct.inference.simulator import OperatorSimulator
    from sciinstruct.operators.microscopy import PoissonGaussianNoise, WidefieldBlur

    if shape[0] != 1:
        raise ValueError(f"a microscope's images have one channel, got {shape[0]}: train one prior per channel")
    blur = WidefieldBlur(microscope.optics, shape, microscope.pixel_um, "circular")
    return OperatorSimulator(blur, PoissonGaussianNoise(microscope.read))


def _write_report(path: Path, found: "FlowDiffResult", command: str) -> None:
    content: dict[str, Any] = {
        "command": command,
        "warnings": found.warnings,
        "identifiability": None if found.identifiability is None else found.identifiability.summary(),
        "curves": found.curves,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
