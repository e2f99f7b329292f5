"""From a set-up to a reconstructor that gives posterior samples in one network pass."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sciinstruct.jobs.surroundings import usable_device, writable_folder
from sciinstruct.jobs.training import cell_images

if TYPE_CHECKING:
    from sciinstruct.inference.reconstructor import Reconstructor

_NPIX = 64


def train_reconstructor(
    setup: str,
    out: str | os.PathLike[str],
    *,
    scoring_steps: int = 1500,
    steps: int = 0,
    n_images: int = 20000,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    resume: bool = False,
    command: str = "",
) -> "Reconstructor":
    """Train one of the packaged set-ups anew and save it in `out`.

    Parameters
    ----------
    setup : str
        See `sciinstruct.inference.packaged.make_setup`.
    out : path
        Folder for weights, card and checkpoint; made if missing.
    scoring_steps, steps : int
        By the energy score of simulated pairs, then by exact-KL matching; see `AmortizedPPM`.
    n_images : int
        Structures to simulate, as for the prior.
    seed, device, progress, resume, command
        As of `sciinstruct.jobs.train_from`.

    Raises
    ------
    SolverError
        If there is no such set-up, the loss is not finite, or the checkpoint is of another run.
    OutputError
        If `out` cannot be written.
    """
    from sciinstruct.inference.amortized import AmortizedPPM
    from sciinstruct.inference.packaged import make_setup
    from sciinstruct.priors import zoo

    made = make_setup(setup)
    folder, where = writable_folder(out), usable_device(device)
    images, about = cell_images(_NPIX, n_images, seed + 1000, progress)  # other structures than the prior saw
    settings = AmortizedPPM.for_images(
        steps, heads=1, sigma_min=0.02, width=32, scoring_steps=scoring_steps, scoring_batch=16
    )
    state = folder / "training.pt"
    reconstructor = settings.train(
        zoo.load(made.prior).to(where),
        made.simulator.to(where),
        images=images,
        generator=torch.Generator(where).manual_seed(seed),
        progress=progress,
        checkpoint=state,
        resume=resume and state.is_file(),
    )
    facts = {"name": Path(folder).name, "data": about["data"], "device": str(where), "command": command}
    reconstructor.attributes |= facts
    reconstructor.save(folder)
    return reconstructor
