"""The priors that come with the package: found by name, checked, offline."""

import difflib
import os
from pathlib import Path

from sciinstruct.core import PriorError
from sciinstruct.diffusion.edm import Precision
from sciinstruct.priors.network import CARD, Card, NetworkPrior

ZOO = Path(__file__).parent / "zoo"


def available() -> list[str]:
    """Names of the packaged priors, sorted."""
    return sorted(path.parent.name for path in ZOO.glob(f"*/{CARD}"))


def _folder(name: str | os.PathLike[str]) -> Path:
    text = os.fspath(name)
    if text in available():
        return ZOO / text
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    close = difflib.get_close_matches(text, available(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    packaged = ", ".join(available()) or "none"
    raise PriorError(f"no prior named {text!r}: {hint}packaged are {packaged}; or give a trained prior's folder")


def card(name: str | os.PathLike[str]) -> Card:
    """Card of a packaged prior, or of one in a folder; raises PriorError as `load` does."""
    return Card.read(_folder(name) / CARD)


def load(name: str | os.PathLike[str], *, precision: Precision = "auto") -> NetworkPrior:
    """Load a packaged prior by name, or one you trained by its folder.

    Parameters
    ----------
    name : str or path
        One of `available`, or a folder with weights.safetensors and card.json.
    precision : {"auto", "float32", "bfloat16"}
        Type the network computes in.

    Raises
    ------
    PriorError
        If there is no such prior, or its files are missing, damaged or not the ones the card describes.
    """
    return NetworkPrior.load(_folder(name), precision=precision)
