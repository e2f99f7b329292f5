"""Observations as ``.npz`` files: every field at full precision, no pickling."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core.errors import FileFormatError
from sciinstruct.core.files import atomic_path

if TYPE_CHECKING:
    from sciinstruct.operators.interferometry.observation import Observation


def save_observation(obs: "Observation", path: str | os.PathLike[str]) -> Path:
    """Write `obs` to `path`; the file is whole or absent. Raises OutputError if it cannot be written."""
    import numpy as np

    from sciinstruct.operators.interferometry.observation import FIELD_NAMES

    values = {name: getattr(obs, name) for name in FIELD_NAMES}
    arrays = {k: x.numpy() if isinstance(x, Tensor) else np.asarray(x) for k, x in values.items()}
    if not obs.history:
        arrays["history"] = np.empty(0, dtype="U1")
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
    return Path(path)


def load_observation(path: str | os.PathLike[str]) -> "Observation":
    """Read what `save_observation` wrote; raises FileFormatError on any other or damaged file."""
    import numpy as np

    from sciinstruct.operators.interferometry.observation import FIELD_NAMES, Observation

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in FIELD_NAMES}
    except FileNotFoundError:
        raise
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FileFormatError(f"{path} is not a whole observation written by Observation.save ({error})") from error
    values: dict[str, Any] = {name: value.item() for name, value in arrays.items() if value.ndim == 0}
    values |= {name: torch.from_numpy(arrays[name]) for name in (*Observation.ROWS, "positions")}
    values |= {name: tuple(map(str, arrays[name])) for name in ("stations", "history")}
    return Observation(**values)
