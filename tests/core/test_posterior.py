"""Posterior: what it refuses, and that files give back what was written."""

import numpy as np
import pytest
import torch

from sciinstruct.core import FileFormatError, OutputError, Posterior


def make(generator, shape=(5, 1, 4, 3)):
    samples = torch.randn(*shape, generator=generator)
    coordinates = {"y": (np.linspace(3, 0, 4), "uas"), "x": (np.linspace(-1, 1, 3), "uas")}
    attributes = {
        "solver": "toy",
        "seconds": 1.5,
        "seed": 7,
        "settings": {"steps": 3},
        "unit": "Jy/pixel",
        "flag": True,
    }
    diagnostics = {"mode_weights": [0.3, 0.7], "trace": {"kl": [3.0, 2.0]}, "modes": torch.arange(6.0).reshape(2, 3)}
    return Posterior(samples, coordinates, attributes, diagnostics)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(bad):
    samples = torch.zeros(3, 1, 2, 2)
    samples[1, 0, 1, 1] = bad
    with pytest.raises(ValueError, match="samples must be finite, 1 of 12"):
        Posterior(samples)


@pytest.mark.parametrize("shape", [(0, 3), (4,)])
def test_samples_need_a_sample_axis_and_an_event(shape):
    with pytest.raises(ValueError, match="samples must have shape"):
        Posterior(torch.zeros(shape))


def test_dataset_has_named_axes_units_and_moments(generator):
    posterior = make(generator)
    dataset = posterior.to_xarray()
    assert dataset["samples"].dims == ("sample", "channel", "y", "x")
    assert dataset["y"].attrs["units"] == "uas" and dataset["mean"].attrs["units"] == "Jy/pixel"
    np.testing.assert_allclose(dataset["mean"], posterior.samples.numpy().mean(0), atol=1e-6)
    np.testing.assert_allclose(dataset["sd"], posterior.samples.numpy().std(0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(dataset["quantiles"].sel(quantile=0.5), np.median(posterior.samples, 0), atol=1e-6)
    assert dataset.attrs["solver"] == "toy" and dataset.attrs["seed"] == 7


def test_vectors_have_a_parameter_axis(generator):
    posterior = Posterior(torch.randn(6, 2, generator=generator))
    assert posterior.to_xarray()["samples"].dims == ("sample", "parameter")


@pytest.mark.parametrize("coordinates", [{"y": (np.zeros(9), "uas")}, {"z": (np.zeros(4), "uas")}])
def test_coordinates_that_fit_no_axis_are_refused(generator, coordinates):
    with pytest.raises(ValueError, match="coordinate"):
        Posterior(torch.randn(5, 1, 4, 3, generator=generator), coordinates).to_xarray()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_netcdf_round_trip_loses_nothing(generator, tmp_path, dtype):
    posterior = make(generator)
    posterior = Posterior(
        posterior.samples.to(dtype), posterior.coordinates, posterior.attributes, posterior.diagnostics
    )
    posterior.to_netcdf(tmp_path / "p.nc")
    back = Posterior.from_netcdf(tmp_path / "p.nc")
    assert back.samples.dtype == dtype and torch.equal(back.samples, posterior.samples)
    assert back.attributes == posterior.attributes
    assert torch.equal(back.diagnostics.pop("modes"), posterior.diagnostics["modes"])
    assert back.diagnostics == {k: v for k, v in posterior.diagnostics.items() if k != "modes"}
    for axis, (values, unit) in posterior.coordinates.items():
        np.testing.assert_array_equal(back.coordinates[axis][0], values)
        assert back.coordinates[axis][1] == unit


def test_long_traces_fit_into_the_file(generator, tmp_path):
    trace = {"loss": torch.rand(20000, generator=generator).tolist()}  # HDF5 attributes end at 64 kB
    Posterior(torch.zeros(2, 3), diagnostics={"trace": trace}).to_netcdf(tmp_path / "p.nc")
    assert Posterior.from_netcdf(tmp_path / "p.nc").diagnostics["trace"] == trace


def test_foreign_and_damaged_files_are_named(generator, tmp_path):
    with pytest.raises(FileNotFoundError):
        Posterior.from_netcdf(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("not a NetCDF file")
    with pytest.raises(FileFormatError, match="text.nc"):
        Posterior.from_netcdf(tmp_path / "text.nc")
    make(generator).to_netcdf(tmp_path / "whole.nc")
    (tmp_path / "half.nc").write_bytes((tmp_path / "whole.nc").read_bytes()[:3000])
    with pytest.raises(FileFormatError, match="half.nc"):
        Posterior.from_netcdf(tmp_path / "half.nc")
    make(generator).to_xarray().drop_vars("samples").to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(FileFormatError, match="samples missing"):
        Posterior.from_netcdf(tmp_path / "other.nc")


def test_an_unwritable_target_leaves_nothing(generator, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        make(generator).to_netcdf(tmp_path / "file" / "p.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("q", [0.3, torch.tensor([0.1, 0.5])])
def test_quantiles_are_numpys_also_above_torchs_limit(generator, monkeypatch, q):
    posterior = make(generator)
    expected = np.quantile(posterior.samples.numpy(), np.asarray(q), axis=0)
    np.testing.assert_allclose(posterior.quantile(q), expected, atol=1e-6)
    monkeypatch.setattr("sciinstruct.core.posterior._QUANTILE_LIMIT", 7)
    np.testing.assert_allclose(posterior.quantile(q), expected, atol=1e-6)
