"""Posterior samples and where they came from."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from sciinstruct.core.checks import check_finite
from sciinstruct.core.files import atomic_path

if TYPE_CHECKING:
    import xarray

_QUANTILE_LIMIT = 2**24  # elements torch.quantile takes at once


@dataclass(frozen=True)
class Posterior:
    """Posterior samples in physical units.

    Parameters
    ----------
    samples : Tensor, shape (S, *event_shape)
        Equally weighted draws.
    coordinates : dict
        ``{"y": (values, unit), "x": (values, unit)}`` for images.
    attributes : dict
        Provenance: solver, its settings, seed, wall time, versions. JSON-able.
    diagnostics : dict
        What the solver measured on the way: floats, lists of floats, or tensors. Mode weights under ``mode_weights``,
        red flags (list of str) under ``warnings``.
    """

    samples: Tensor
    coordinates: dict[str, tuple[Any, str]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    report_writer: ClassVar[Callable[..., Any]]  # the package's front page hands it in: reports live floors above

    def __post_init__(self) -> None:
        if self.samples.ndim < 2 or len(self.samples) == 0:
            raise ValueError(f"samples must have shape (sample, *event), got {tuple(self.samples.shape)}")
        check_finite("samples", self.samples)

    @property
    def mean(self) -> Tensor:
        """Mean over samples, (*event_shape)."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over samples, (*event_shape)."""
        return self.samples.std(0)

    def quantile(self, q: float | Tensor) -> Tensor:
        """Quantile(s) over samples; a leading axis if `q` is a tensor of several."""
        levels = torch.as_tensor(q, dtype=self.samples.dtype, device=self.samples.device)
        flat = self.samples.flatten(1)
        parts = flat.split(max(1, _QUANTILE_LIMIT // len(flat)), 1)
        found = torch.cat([torch.quantile(part, levels, 0) for part in parts], -1)
        return found.reshape(*levels.shape, *self.samples.shape[1:])

    def to_xarray(self) -> "xarray.Dataset":
        """Dataset of samples, mean, sd and quantiles with coordinates and units; provenance in ``attrs``."""
        from sciinstruct.core.posterior_io import to_dataset

        return to_dataset(self)

    def report(self, folder: str | os.PathLike[str], **options: Any) -> Any:
        """Write the report on these samples into `folder`, as `sciinstruct.calibration.write_report` does.

        Parameters
        ----------
        folder : path
            Made if absent.
        **options
            ``problem``, ``truth`` and the other arguments of `write_report`: with them it can check more.

        Returns
        -------
        sciinstruct.calibration.ReportPaths

        Raises
        ------
        ValueError
            If an option does not fit the samples.
        OutputError
            If the folder cannot be written.
        """
        return type(self).report_writer(self, folder, **options)

    def to_netcdf(self, path: str | os.PathLike[str]) -> None:
        """Write `to_xarray` to a NetCDF file; raises OutputError if that fails."""
        with atomic_path(path) as temporary:
            self.to_xarray().to_netcdf(temporary, engine="h5netcdf")

    @classmethod
    def from_netcdf(cls, path: str | os.PathLike[str]) -> "Posterior":
        """Read what `to_netcdf` wrote; raises FileFormatError if it is damaged or of another kind."""
        from sciinstruct.core.posterior_io import read_netcdf

        return read_netcdf(path)
