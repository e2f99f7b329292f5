"""Sky images as FITS files with world coordinates, and back."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite, check_positive
from sciinstruct.core.errors import FileFormatError
from sciinstruct.core.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    from astropy.io.fits import BinTableHDU, Header

_UAS_PER_DEGREE = 3600e6


class HasFrame(Protocol):
    """Anything that knows what was observed, such as an `Observation`."""

    @property
    def ra(self) -> float:
        """Right ascension, deg."""

    @property
    def dec(self) -> float:
        """Declination, deg."""

    @property
    def frequency(self) -> float:
        """Centre of the band, Hz."""

    @property
    def mjd(self) -> float:
        """Day of the observation."""

    @property
    def source(self) -> str:
        """Name."""


class SkyFrame(NamedTuple):
    """What an image shows: position (deg, J2000), frequency (Hz), day (MJD) and name of the source."""

    ra: float
    dec: float
    frequency: float
    mjd: float
    source: str = "unknown"


@dataclass(frozen=True)
class SkyImages:
    """Images of one sky.

    Attributes
    ----------
    planes : dict of str to Tensor, shape (H, W)
        Named images in Jy per pixel; row 0 is North, column 0 is East. The first is the file's primary image.
    fov_uas : float
        Width of the images, uas. Pixels are square.
    frame : SkyFrame
        What they show.
    metadata : dict
        JSON values: settings, seeds, versions.
    """

    planes: dict[str, Tensor]
    fov_uas: float
    frame: SkyFrame
    metadata: dict[str, Any] = field(default_factory=dict)


def write_image_fits(
    path: str | os.PathLike[str],
    planes: Mapping[str, Tensor],
    fov_uas: float,
    frame: HasFrame,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write named images to one FITS file.

    Parameters
    ----------
    path : path-like
        File to write or replace; a name ending in ``.gz`` is compressed.
    planes : mapping of str to Tensor, shape (H, W) or (1, H, W)
        Images in Jy per pixel, row 0 North, column 0 East. The first becomes the primary image, the others image
        extensions of their (upper-case) names.
    fov_uas : float
        Width of the images, uas.
    frame : SkyFrame or Observation
        Position, frequency, day and name of the source.
    metadata : mapping, optional
        JSON values, kept in a table ``METADATA`` of keys and values.

    Raises
    ------
    ValueError
        If there is no plane, shapes differ, names repeat in upper case, a value is not finite, or metadata is not JSON.
    OutputError
        If the file cannot be written.

    Notes
    -----
    FITS counts rows from the South, so arrays are flipped vertically; right ascension grows to the left (CDELT1 < 0).
    The reference pixel is the middle of the image and lies at the position of the source.
    """
    from astropy.io import fits

    check_positive("fov_uas", fov_uas)
    arrays = _check_planes(planes)
    hdus = [
        (fits.ImageHDU if k else fits.PrimaryHDU)(array, _header(name, array.shape, fov_uas, frame))
        for k, (name, array) in enumerate(arrays.items())
    ]
    if metadata:
        hdus.append(_metadata_table(metadata))
    hdus[0].header["NHDU"] = (len(hdus), "parts in this file")
    with atomic_path(path) as temporary:
        fits.HDUList(hdus).writeto(temporary, overwrite=True)


def write_posterior_fits(
    path: str | os.PathLike[str],
    samples: Tensor,
    fov_uas: float,
    frame: HasFrame,
    metadata: Mapping[str, Any] | None = None,
    *,
    quantiles: Sequence[float] = (0.025, 0.16, 0.5, 0.84, 0.975),
) -> None:
    """Write mean (primary image), standard deviation and quantiles of posterior samples to one FITS file.

    Parameters
    ----------
    path, fov_uas, frame, metadata
        As in `write_image_fits`.
    samples : Tensor, shape (n, 1, H, W) or (n, H, W)
        Equally weighted samples in Jy per pixel, n at least 2. Align them first if the data do not fix the position.
    quantiles : sequence of float
        In [0, 1]; 0.16 is written as ``Q16``, 0.025 as ``Q2.5``.

    Raises
    ------
    ValueError
        If there are fewer than two samples, or as in `write_image_fits`.
    OutputError
        If the file cannot be written.
    """
    if samples.ndim not in (3, 4) or len(samples) < 2:
        raise ValueError(f"samples must have shape (n, 1, H, W) or (n, H, W) with n >= 2, got {tuple(samples.shape)}")
    planes = {"MEAN": samples.mean(0), "STD": samples.std(0)}
    for q in quantiles:
        planes[f"Q{100 * q:g}"] = torch.quantile(samples, q, dim=0)
    write_image_fits(path, planes, fov_uas, frame, {"n_samples": len(samples), **(metadata or {})})


def read_image_fits(path: str | os.PathLike[str]) -> SkyImages:
    """Read images written by `write_image_fits`, or a single image in Jy per pixel of another program.

    Parameters
    ----------
    path : path-like
        FITS file.

    Returns
    -------
    SkyImages
        Extensions that are not images of the primary's shape are left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileFormatError
        If it is not FITS, is truncated, or its first image lacks a celestial frame with square pixels, right ascension
        growing to the left, declination upwards, in Jy per pixel.
    """
    contents = _read_hdus(path)
    header, first = contents[0]
    fov_uas, frame = _read_frame(path, header, first)
    planes, metadata = {}, {}
    for k, (head, data) in enumerate(contents):
        name = str(head.get("EXTNAME", "IMAGE" if k == 0 else f"PLANE{k}"))
        if name == "METADATA" and data is not None and data.dtype.names == ("KEY", "VALUE"):
            metadata = _read_metadata(path, data)
        elif data is not None and data.dtype.names is None and data.shape[-2:] == first.shape[-2:]:
            planes[name] = _to_tensor(path, data)
    return SkyImages(planes, fov_uas, frame, metadata)


def _read_hdus(path: str | os.PathLike[str]) -> "list[tuple[Header, Any]]":
    """Headers and data of a whole file, or FileFormatError."""
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            # astropy warns of a file cut short and goes on with what is there
            warnings.filterwarnings("error", message="(?s).*(truncated|corrupted)")
            with fits.open(path, memmap=False) as hdus:
                contents = [(hdu.header, hdu.data) for hdu in hdus]
    except FileNotFoundError:
        raise
    except Exception as error:  # astropy raises many kinds for damaged files
        raise FileFormatError(f"{path} is not a readable FITS file: {' '.join(str(error).split())}") from error
    expected = contents[0][0].get("NHDU", len(contents))
    if len(contents) != expected:
        raise FileFormatError(f"{path} is cut short: {len(contents)} of {expected} parts are there; write it again")
    return contents


def _check_planes(planes: Mapping[str, Tensor]) -> "dict[str, np.ndarray]":
    """Return upper-case names and FITS-ordered arrays, or raise ValueError."""
    if not planes:
        raise ValueError("planes must hold at least one image, got none")
    arrays: dict[str, np.ndarray] = {}
    for name, plane in planes.items():
        image = plane.squeeze(0) if plane.ndim == 3 else plane
        if image.ndim != 2 or not image.is_floating_point():
            raise ValueError(f"planes[{name!r}] must be a floating (H, W), got {plane.dtype} {tuple(plane.shape)}")
        check_finite(f"planes[{name!r}]", image)
        if name.upper() in arrays or name.upper() == "METADATA":
            raise ValueError(f"planes has two images named {name.upper()!r}, or one named METADATA; rename one")
        arrays[name.upper()] = image.detach().cpu().flip(0).numpy()
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError(f"planes must share one shape, got {[array.shape for array in arrays.values()]}")
    return arrays


def _header(name: str, shape: tuple[int, ...], fov_uas: float, frame: HasFrame) -> "Header":
    """Header with the celestial frame of an image."""
    from astropy.io import fits

    height, width = shape
    pixel = fov_uas / width / _UAS_PER_DEGREE
    cards = {
        "EXTNAME": name,
        "OBJECT": frame.source,
        "CTYPE1": "RA---SIN",
        "CTYPE2": "DEC--SIN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CDELT1": -pixel,
        "CDELT2": pixel,
        "CRPIX1": width / 2 + 0.5,
        "CRPIX2": height / 2 + 0.5,
        "CRVAL1": frame.ra,
        "CRVAL2": frame.dec,
        "OBSRA": frame.ra,
        "OBSDEC": frame.dec,
        "RADESYS": "ICRS",
        "FREQ": frame.frequency,
        "MJD": frame.mjd,
        "BUNIT": "JY/PIXEL",
        "STOKES": "I",
    }
    return fits.Header(list(cards.items()))


def _metadata_table(metadata: Mapping[str, Any]) -> "BinTableHDU":
    """Table of keys and JSON values."""
    from astropy.io import fits

    values = []
    for key, value in metadata.items():
        try:
            values.append(json.dumps(value))
        except TypeError as error:
            raise ValueError(f"metadata[{key!r}] must be a JSON value, got {type(value).__name__}: {error}") from error
    columns = []
    for name, texts in (("KEY", list(metadata)), ("VALUE", values)):
        width = max(len(text.encode()) for text in texts)
        columns.append(fits.Column(name=name, format=f"{width}A", array=texts))
    return fits.BinTableHDU.from_columns(columns, name="METADATA")


def _read_frame(path: str | os.PathLike[str], header: "Header", data: Any) -> tuple[float, SkyFrame]:
    """Field of view (uas) and frame of the primary image, or FileFormatError."""
    if data is None or data.ndim < 2:
        raise FileFormatError(f"{path} has no image in its first HDU")
    missing = [key for key in ("CTYPE1", "CTYPE2", "CDELT1", "CDELT2", "BUNIT") if key not in header]
    if missing:
        raise FileFormatError(f"{path} lacks {', '.join(missing)}: an image with a celestial frame is needed")
    axes = str(header["CTYPE1"]), str(header["CTYPE2"])
    if not (axes[0].startswith("RA--") and axes[1].startswith("DEC-")):
        raise FileFormatError(f"{path} has axes {axes}, expected right ascension and declination")
    east, north = float(header["CDELT1"]), float(header["CDELT2"])
    if not (east < 0 < north and abs(east + north) < 1e-6 * north):
        raise FileFormatError(
            f"{path} has pixel steps {east:g}, {north:g} deg, expected -p and +p: square pixels, East to the left"
        )
    if str(header["BUNIT"]).strip().upper() != "JY/PIXEL":
        raise FileFormatError(f"{path} is in {header['BUNIT']!r}, expected JY/PIXEL; convert it first")
    frame = SkyFrame(
        float(header.get("OBSRA", header.get("CRVAL1", 0.0))),
        float(header.get("OBSDEC", header.get("CRVAL2", 0.0))),
        float(header.get("FREQ", 0.0)),
        float(header.get("MJD", 0.0)),
        str(header.get("OBJECT", "unknown")),
    )
    return north * _UAS_PER_DEGREE * data.shape[-1], frame


def _to_tensor(path: str | os.PathLike[str], data: Any) -> Tensor:
    """FITS array (..., H, W) with single leading axes -> Tensor (H, W), row 0 North."""
    if data.size != data.shape[-1] * data.shape[-2]:
        raise FileFormatError(f"{path} holds a cube of shape {data.shape}; write its planes as separate images")
    image = data.reshape(data.shape[-2:])
    native = image.astype(image.dtype.newbyteorder("=") if image.dtype.kind == "f" else "f8")
    return torch.from_numpy(native).flip(0)


def _read_metadata(path: str | os.PathLike[str], table: Any) -> dict[str, Any]:
    """Turn the table of keys and JSON values into a dict."""
    try:
        return {str(key): json.loads(str(value)) for key, value in zip(table["KEY"], table["VALUE"])}
    except ValueError as error:
        raise FileFormatError(f"{path} has a METADATA table that is not JSON: {error}") from error
