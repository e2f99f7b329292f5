"""What napari is handed: layers with names and scales, through a manifest that names functions that exist."""

import importlib
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinstruct.core import Posterior
from sciinstruct.datasets.napari_reader import get_reader, read_layers
from sciinstruct.datasets.ome_tiff import write_ome_tiff
from sciinstruct.datasets.posterior_tiff import write_posterior_tiff

ROOT = Path(__file__).resolve().parents[2]


def test_a_posterior_opens_as_named_layers(tmp_path):
    samples = torch.randn(9, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    grid = {axis: (np.arange(n) * 50.0, "nm") for axis, n in {"y": 6, "x": 8}.items()}
    write_posterior_tiff(Posterior(samples, grid), tmp_path / "a.ome.tif")
    layers = get_reader(str(tmp_path / "a.ome.tif"))(str(tmp_path / "a.ome.tif"))
    assert [options["name"] for _, options, _ in layers] == ["mean", "sd", "q05", "q50", "q95"]
    np.testing.assert_allclose(layers[0][0], samples.mean(0)[0], rtol=1e-6, atol=1e-6)
    for _, options, kind in layers:
        assert kind == "image" and options["units"] == ("um", "um")
        assert options["scale"] == pytest.approx((0.05, 0.05)) and "provenance" in options["metadata"]


@pytest.mark.parametrize(
    ("axes", "sizes", "scale", "units"),
    [
        ("YX", {}, None, None),
        ("ZYX", {"pixel_um": (0.1, 0.2)}, None, None),
        ("ZYX", {"pixel_um": (0.1, 0.2), "z_step_um": 0.3}, (0.3, 0.1, 0.2), ("um",) * 3),
        ("TYX", {"pixel_um": (0.1, 0.2)}, (1.0, 0.1, 0.2), ("pixel", "um", "um")),
        ("TYX", {"pixel_um": (0.1, 0.2), "time_step_s": 2.0}, (2.0, 0.1, 0.2), ("second", "um", "um")),
        ("CYX", {"pixel_um": (0.1, 0.2)}, (0.1, 0.2), ("um", "um")),
    ],
)
def test_scales_are_those_of_the_file_or_absent(tmp_path, axes, sizes, scale, units):
    image = np.arange(np.prod((2, 6, 8)[-len(axes) :]), dtype=np.uint16).reshape((2, 6, 8)[-len(axes) :])
    write_ome_tiff(tmp_path / "cells.ome.tif", image, axes=axes, **sizes)
    layers = read_layers(tmp_path / "cells.ome.tif")
    assert len(layers) == (2 if "C" in axes else 1)
    for number, (pixels, options, _) in enumerate(layers):
        np.testing.assert_array_equal(pixels, image[number] if "C" in axes else image)
        assert options["name"] == (f"cells channel {number}" if "C" in axes else "cells")
        assert (options.get("scale"), options.get("units")) == (scale, units)


@pytest.mark.parametrize("path", ["a.csv", "a.zarr", ["a.tif", "b.tif"]])
def test_other_files_are_left_to_others(path):
    assert get_reader(path) is None


def test_the_manifest_names_what_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package, file = project["project"]["entry-points"]["napari.manifest"]["sciinstruct"].split(":")
    assert package == "sciinstruct.datasets" and file in project["tool"]["setuptools"]["package-data"][package]
    text = (ROOT / "datasets" / file).read_text()
    module, function = next(line.split()[-1] for line in text.splitlines() if "python_name" in line).split(":")
    assert getattr(importlib.import_module(module), function) is get_reader
