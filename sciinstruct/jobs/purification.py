"""From image files to purified ones of the same kind, with a table of what that did to the fluxes."""

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinstruct.core import Denoiser, PriorError, atomic_path, track
from sciinstruct.jobs.image_files import ImageFile, output_names, plane_label, read_image_file
from sciinstruct.jobs.surroundings import usable_device, writable_folder

if TYPE_CHECKING:
    from sciinstruct.priors.network import NetworkPrior
    from sciinstruct.purification import Purifier

SIGMA = 0.5
"""Default noise level, in standard deviations of the prior's images."""
_RATE = 0.2  # of Adam, in the same unit: the published 0.1 for images of standard deviation 0.5
_TOO_WIDE, _TOO_FLAT = 4.0, 0.02  # root mean square and spread of an image, in the same unit
_BRIGHT = 0.1  # share of pixels called bright
_CANCELLED = 0.01  # of the sum of absolute values: a flux below it is nearly zero
_TOGETHER = 16


@dataclass(frozen=True)
class FluxChange:
    """What purification did to one plane; fluxes are sums of pixels in the file's values, offset subtracted."""

    file: str
    plane: int | None
    flux_before: float
    flux_after: float  # mean over the draws
    flux_sd: float  # standard deviation over the draws
    change_percent: float | None  # of the flux before; None if that is nearly zero
    bright_change_percent: float | None  # the same, of the brightest tenth of the pixels before
    rms_change: float  # of a pixel, mean over draws against before
    largest_change: float
    row: int  # of the largest change
    column: int


@dataclass(frozen=True)
class PurifyResult:
    """Where the results are.

    Parameters
    ----------
    table : tuple of FluxChange
        One row per plane.
    images, spreads : tuple of Path
        Mean and standard deviation over the draws, one file per input.
    csv, json : Path
        The table, and the settings.
    seconds : float
        Wall time.
    """

    table: tuple[FluxChange, ...]
    images: tuple[Path, ...]
    spreads: tuple[Path, ...]
    csv: Path
    json: Path
    seconds: float


def _makers() -> dict[str, Callable[[Denoiser, float, float], "Purifier"]]:
    """Purifiers by name, from prior, noise level and learning rate in the prior's units."""
    from sciinstruct.purification import DiffPure, OneShot, PurifyPP, ScoreOpt

    return {
        "scoreopt-o": lambda prior, sigma, rate: ScoreOpt(prior, sigma, learning_rate=rate),
        "scoreopt-n": lambda prior, sigma, rate: ScoreOpt.n(prior, sigma, learning_rate=rate),
        "purify++": lambda prior, sigma, rate: PurifyPP(prior, sigma),
        "diffpure": lambda prior, sigma, rate: DiffPure(prior, sigma),
        "one-shot": lambda prior, sigma, rate: OneShot(prior, sigma),
    }


METHODS = ("scoreopt-o", "scoreopt-n", "purify++", "diffpure", "one-shot")


def purify_files(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    prior: str | os.PathLike[str],
    method: str = METHODS[0],
    sigma: float = SIGMA,
    unit: float = 1.0,
    offset: float = 0.0,
    draws: int = 8,
    tile: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> PurifyResult:
    """Purify the images of files and tell what it did to their fluxes.

    Parameters
    ----------
    files : sequence of path
        FITS, TIFF or npy, see `read_image_file`; every plane is an image. All are read and checked before any is
        purified.
    out : path
        Folder; made if missing. Receives ``NAME-purified`` and ``NAME-sd`` of each file's kind, ``flux.csv``,
        ``purify.json``.
    prior : str or path
        A packaged prior or a folder with one.
    method : str
        One of `METHODS`.
    sigma : float
        Noise level in standard deviations of the prior's images.
    unit, offset : float
        ``file value = offset + unit * prior's physical value``: what the prior calls 1 (its card says what), and 0.
    draws : int
        Purifications of each image; their mean is written, their scatter told.
    tile : bool
        Spread the prior over larger images: right where its images are crops of larger scenes.
    seed, device, progress
        As of `sciinstruct.jobs.train_from`.

    Raises
    ------
    FileFormatError
        If a file cannot be read, or holds NaN.
    PriorError
        If there is no such prior, or it is of another size.
    ValueError
        If a setting is out of range, or an image's values are not in the prior's units.
    OutputError
        If the folder cannot be written.
    """
    from sciinstruct.priors import zoo

    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2, to tell their scatter, got {draws}")
    if not files:
        raise ValueError("files must hold at least one")
    if not unit > 0:
        raise ValueError(f"unit must be positive, got {unit}")
    start, paths = time.perf_counter(), [Path(file) for file in files]
    folder, where = writable_folder(out), usable_device(device)
    names, spread_names = output_names(paths, "purified"), output_names(paths, "sd")
    known = zoo.load(prior).to(where)
    read = [read_image_file(path, known.event_shape[0]) for path in paths]
    purifiers = [_purifier(file, known, method, sigma, unit, offset, tile) for file in read]
    history = f"sciinstruct purify: {method}, sigma {sigma:g}, prior {known.card.name or prior}, mean of {draws} draws"
    generator, table = torch.Generator(where).manual_seed(seed), []
    for file, purifier, name, spread in zip(read, purifiers, names, spread_names):
        taken = _draw(file, purifier, unit, offset, draws, generator, progress)
        file.write(folder / name, taken.mean(0), history)
        file.write(folder / spread, taken.std(0), f"{history}: standard deviation over the draws")
        table += list(_changes(file, taken, offset))
    settings = {
        "files": [str(path) for path in paths], "prior": str(prior), "method": method, "sigma": sigma, "unit": unit,
        "offset": offset, "draws": draws, "tile": tile, "seed": seed, "device": device,
        "calls": [list(purifier.calls) for purifier in purifiers],
    }  # fmt: skip
    _write_tables(folder, table, settings)
    images, spreads = (tuple(folder / name for name in given) for given in (names, spread_names))
    return PurifyResult(
        tuple(table), images, spreads, folder / "flux.csv", folder / "purify.json", time.perf_counter() - start
    )


def _purifier(
    file: ImageFile, prior: "NetworkPrior", method: str, sigma: float, unit: float, offset: float, tile: bool
) -> "Purifier":
    """The purifier of a file's images; raises if sizes or values do not fit."""
    sides = (file.images.shape[-2], file.images.shape[-1])
    fitted, spread = _fitted(prior, sides, tile, file.path), prior.card.sigma_data
    _check_values(file, prior, unit, offset)
    return _makers()[method](fitted, sigma * spread, _RATE * spread)


def _fitted(prior: "NetworkPrior", sides: tuple[int, int], tile: bool, path: Path) -> Denoiser:
    from sciinstruct.priors import TiledPrior

    own = tuple(prior.event_shape[1:])
    if own == sides:
        return prior
    if sides[0] < own[0] or sides[1] < own[1]:
        raise PriorError(
            f"{path} holds images of {sides} pixels, smaller than the prior's {own}: choose a prior of that size"
        )
    if not tile:
        raise PriorError(
            f"{path} holds images of {sides} pixels, the prior's are {own}: crop them, or spread the prior with --tile "
            "(tile=True) if its images are crops of larger scenes, as cells-64's are"
        )
    return TiledPrior(prior, sides)


def _check_values(file: ImageFile, prior: "NetworkPrior", unit: float, offset: float) -> None:
    """Refuse values that are not in the prior's units: purification would replace the image."""
    told = f"{file.path} has values from {float(file.images.min()):.4g} to {float(file.images.max()):.4g}"
    advice = (
        f"the prior's unit is {prior.card.units or 'that of its training images'}: give --unit (the file's value of 1 "
        "in it) and --offset (the file's value of 0)"
    )
    try:
        x = prior.from_physical((file.images.double() - offset) / unit) / prior.card.sigma_data
    except ValueError as error:
        raise ValueError(f"{told}; {error}; {advice}") from error
    width, spread = float(x.square().mean().sqrt()), float(x.flatten(1).std(1).amax())
    if width > _TOO_WIDE or spread < _TOO_FLAT:
        raise ValueError(
            f"{told}; to the prior that is {width:.3g} times its usual spread with a contrast of {spread:.3g}; {advice}"
        )


def _draw(
    file: ImageFile,
    purifier: "Purifier",
    unit: float,
    offset: float,
    draws: int,
    generator: torch.Generator,
    progress: bool,
) -> Tensor:
    """Purifications (R, N, C, H, W), on the CPU, in the file's values."""
    images = ((file.images - offset) / unit).to(generator.device)
    chosen = torch.arange(len(images)).repeat(draws).split(_TOGETHER)
    parts = [
        purifier.purify(images[some], generator=generator).cpu()
        for some in track(chosen, progress=progress, description=file.path.name)
    ]
    return offset + unit * torch.cat(parts).reshape(draws, *images.shape)


def _changes(file: ImageFile, taken: Tensor, offset: float) -> Iterator[FluxChange]:
    """The table's rows of one file, from its draws (R, N, C, H, W)."""
    for i, before in enumerate(file.images.double() - offset):
        after = taken[:, i].double() - offset
        fluxes, mean = after.flatten(1).sum(1), after.mean(0)
        change = mean - before
        bright = before >= before.flatten().kthvalue(max(1, round((1 - _BRIGHT) * before.numel()))).values
        place = int(change.abs().amax(0).argmax())
        yield FluxChange(
            file.path.name,
            plane_label(i, file),
            float(before.sum()),
            float(fluxes.mean()),
            float(fluxes.std()),
            _percent(change, before),
            _percent(change[bright], before[bright]),
            float(change.square().mean().sqrt()),
            float(change.flatten()[change.abs().flatten().argmax()]),
            place // before.shape[-1],
            place % before.shape[-1],
        )


def _percent(change: Tensor, before: Tensor) -> float | None:
    """Change of the sum, in per cent of it; None where positive and negative pixels nearly cancel."""
    flux = float(before.sum())
    return None if abs(flux) < _CANCELLED * float(before.abs().sum()) else 100 * float(change.sum()) / abs(flux)


def _write_tables(folder: Path, table: Sequence[FluxChange], settings: dict[str, Any]) -> None:
    from sciinstruct import __version__

    with atomic_path(folder / "flux.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(FluxChange)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    content = {**settings, "sciinstruct": __version__, "torch": str(torch.__version__)}
    with atomic_path(folder / "purify.json") as temporary:
        temporary.write_text(
            json.dumps({**content, "flux": [asdict(row) for row in table]}, indent=1), encoding="utf-8"
        )
