"""The draws of a study on disk: one file per problem, whole or absent, that says what made it."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciinstruct.core import SciinstructError, atomic_path

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Draw(NamedTuple):
    """One problem of a study, solved."""

    samples: Tensor  # (S, *event_shape), on the CPU, as the solver returned them
    truth: Tensor  # (*event_shape)
    log_likelihood: float  # of the truth: tells two families with one truth apart
    seconds: float  # the solver's wall time


def described(thing: object) -> str:
    """Text that tells solvers and problem families apart, the same in every process."""
    return _ADDRESS.sub("", repr(thing))


def path_of(folder: Path, seed: int) -> Path:
    """Where the draw of one problem lies."""
    return folder / "draws" / f"problem-{seed:08d}.safetensors"


def write_draw(path: Path, draw: Draw, settings: Mapping[str, Any]) -> None:
    """Write `draw` with the JSON-able `settings` that made it; raises OutputError if that fails."""
    from safetensors.torch import save_file

    tensors = {
        "samples": draw.samples.contiguous(),
        "truth": draw.truth.contiguous(),
        "numbers": torch.tensor([draw.log_likelihood, draw.seconds], dtype=torch.float64),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"settings": json.dumps(settings)})
    for left in path.parent.glob(f".{path.name}.*"):  # by a run that was killed while it wrote this one
        left.unlink(missing_ok=True)


def read_draw(path: Path, settings: Mapping[str, Any], truth: Tensor, log_likelihood: float) -> Draw:
    """Read what `write_draw` wrote.

    Parameters
    ----------
    path : Path
    settings : dict
        What the study at hand would have made it with.
    truth : Tensor, shape (*event_shape)
        The truth the family gives for this seed now.
    log_likelihood : float
        Of that truth, given the data the family gives now.

    Raises
    ------
    SciinstructError
        If the file is damaged, or was made by another solver, other settings or another family.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            before = json.loads((file.metadata() or {})["settings"])
            tensors = {name: file.get_tensor(name) for name in ("samples", "truth", "numbers")}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SciinstructError(f"{path} is no draw of a study or damaged; remove it to draw it again") from error
    changed = [f"{k} was {before.get(k)!r}, now {v!r}" for k, v in settings.items() if before.get(k) != v]
    if changed:
        raise SciinstructError(
            f"{path.parent} holds another study: {'; '.join(changed)}; choose another folder or remove it"
        )
    likely, seconds = tensors["numbers"].tolist()
    if not torch.equal(tensors["truth"], truth) or not math.isclose(likely, log_likelihood, rel_tol=1e-4, abs_tol=1e-6):
        raise SciinstructError(
            f"{path} was drawn for another truth or other data than the problem family gives now; choose another "
            "folder or remove it"
        )
    return Draw(tensors["samples"], tensors["truth"], likely, seconds)
