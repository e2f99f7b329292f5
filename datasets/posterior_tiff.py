"""Posterior samples as OME-TIFF: a summary for every day, and the samples themselves."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinstruct.core import Posterior
from sciinstruct.core.posterior_io import json_safe
from sciinstruct.datasets._image_metadata import CONTENTS
from sciinstruct.datasets.length_units import um_per
from sciinstruct.datasets.ome_tiff import even_step, write_ome_tiff

QUANTILES = (0.05, 0.5, 0.95)
STATISTICS = ("mean", "sd", *(f"q{round(100 * q):02d}" for q in QUANTILES))


def write_posterior_tiff(
    posterior: Posterior,
    path: str | os.PathLike[str],
    *,
    optics: Mapping[str, Any] | None = None,
    camera: Mapping[str, Any] | None = None,
) -> None:
    """Write mean, standard deviation and quantiles of a posterior as the channels of one OME-TIFF, float32.

    Parameters
    ----------
    posterior : Posterior
        Samples (S, H, W), (S, C, H, W) or (S, C, Z, H, W), S at least 2. Pixel sizes come from its coordinates ``y``,
        ``x`` and ``z`` where their unit is a length.
    path : path
        Usually ends in ``.ome.tif``.
    optics, camera : dict, optional
        The instrument, as for `write_ome_tiff`. The posterior's attributes become the file's provenance.

    Raises
    ------
    ValueError
        If there is one sample only, events are not images, or coordinates are not evenly spaced.
    OutputError
        If the file cannot be written.

    Notes
    -----
    Channels ``mean``, ``sd``, ``q05``, ``q50``, ``q95``; with several image channels ``mean 0``, ..., ``q95 0``,
    ``mean 1`` and so on. Levels are per pixel: a map of quantiles is no sample.
    """
    if len(posterior.samples) < 2:
        raise ValueError("posterior must have at least 2 samples for a standard deviation, got 1")
    summary = np.stack([_images(part) for part in statistics(posterior)], 1)
    n_channels = len(summary)
    names = [f"{name} {c}" if n_channels > 1 else name for c in range(n_channels) for name in STATISTICS]
    write_ome_tiff(
        path,
        summary.reshape(-1, *summary.shape[2:]),
        axes="CZYX" if summary.ndim == 5 else "CYX",
        channels=names,
        description=f"Posterior summary of {len(posterior.samples)} samples, per pixel",
        optics=optics,
        camera=camera,
        **_common(posterior, "posterior summary"),
    )


def statistics(posterior: Posterior) -> Tensor:
    """Images of `STATISTICS`, (5, *event_shape): mean, standard deviation and quantiles of every pixel."""
    levels = posterior.samples.new_tensor(QUANTILES)
    return torch.stack([posterior.mean, posterior.std, *posterior.quantile(levels)])


def write_samples_tiff(
    posterior: Posterior,
    path: str | os.PathLike[str],
    *,
    max_samples: int | None = None,
    optics: Mapping[str, Any] | None = None,
    camera: Mapping[str, Any] | None = None,
) -> None:
    """Write posterior samples along the axis T of an OME-TIFF, float32; its description says that T is no time.

    Parameters
    ----------
    posterior : Posterior
        As for `write_posterior_tiff`; one sample is enough.
    path : path
        Usually ends in ``.ome.tif``.
    max_samples : int, optional
        Write the first of the samples only.
    optics, camera : dict, optional
        The instrument, as for `write_ome_tiff`.

    Raises
    ------
    ValueError
        If events are not images or coordinates are not evenly spaced.
    OutputError
        If the file cannot be written.
    """
    n_all = len(posterior.samples)
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples must be at least 1, got {max_samples}")
    samples = _images(posterior.samples[:max_samples], leading=1)
    if samples.shape[1] == 1:
        samples = samples[:, 0]
        axes = "TZYX" if samples.ndim == 4 else "TYX"
    else:
        axes = "TCZYX" if samples.ndim == 5 else "TCYX"
    text = f"{len(samples)} of {n_all} posterior samples along T. T is no time: every frame is an independent answer."
    common = _common(posterior, "posterior samples")
    write_ome_tiff(path, samples, axes=axes, description=text, optics=optics, camera=camera, **common)


def _images(values: Any, leading: int = 0) -> np.ndarray:
    """Float32 array with a channel axis, (*leading, C, (Z,) H, W)."""
    array = values.detach().cpu().numpy().astype(np.float32)
    event = array.shape[leading:]
    if len(event) not in (2, 3, 4):
        raise ValueError(f"samples must be images (H, W), (C, H, W) or (C, Z, H, W) for a TIFF, got events {event}")
    return array.reshape(*array.shape[:leading], 1, *event) if len(event) == 2 else array


def _common(posterior: Posterior, contents: str) -> dict[str, Any]:
    y, x, z = (_step_um(posterior, axis) for axis in "yxz")
    return {
        "pixel_um": None if y is None or x is None else (y, x),
        "z_step_um": z,
        "provenance": {**json_safe(posterior.attributes), CONTENTS: contents},
    }


def _step_um(posterior: Posterior, axis: str) -> float | None:
    values, unit = posterior.coordinates.get(axis, (np.empty(0), "pixel"))
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return None
    scale = um_per(unit)
    if scale is None:
        if unit not in ("", "pixel"):
            warnings.warn(
                f"coordinate {axis} is in {unit!r}, which is no length: the file gets no size along it", stacklevel=4
            )
        return None
    return even_step(values, f"coordinate {axis}") * scale
