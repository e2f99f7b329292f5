"""The optics of a microscope: what its point-spread function depends on, and the lengths that follow."""

from dataclasses import dataclass, replace

from sciinstruct.operators.microscopy.units import to_unit
from sciinstruct.operators.microscopy.zernike import Zernike


@dataclass(frozen=True)
class Optics:
    r"""Objective, wavelengths and refractive indices.

    Parameters
    ----------
    numerical_aperture : float
        NA of the objective, below `immersion_index`.
    wavelength_nm : float or Quantity
        Emission wavelength in vacuum, nm.
    immersion_index : float
        Refractive index n of the immersion medium: 1.515 oil, 1.33 water, 1.0 air.
    sample_index : float, optional
        Refractive index around the source; as the immersion medium where not given.
    excitation_nm : float or Quantity, optional
        Excitation wavelength in vacuum, nm: confocal and spinning disk need it.
    aberrations : sequence of Zernike
        What the objective adds to a perfect wave, at the emission wavelength; see
        `sciinstruct.operators.microscopy.zernike.Zernike`.

    Raises
    ------
    TypeError, ValueError
        If a number is not one, an aperture or index is impossible, or a wavelength is not between 100 and 5000 nm.

    Examples
    --------
    >>> optics = Optics(1.4, 520.0)
    >>> round(optics.resolution_um, 4), round(optics.nyquist_um, 4)
    (0.1857, 0.0929)
    """

    numerical_aperture: float
    wavelength_nm: float
    immersion_index: float = 1.515
    sample_index: float | None = None
    excitation_nm: float | None = None
    aberrations: tuple[Zernike, ...] = ()

    def __post_init__(self) -> None:
        self._convert("wavelength_nm", "nm")
        self._convert("numerical_aperture", "")
        self._convert("immersion_index", "")
        if self.sample_index is not None:
            self._convert("sample_index", "")
        _check_wavelength("wavelength_nm", self.wavelength_nm)
        if self.excitation_nm is not None:
            self._convert("excitation_nm", "nm")
            _check_wavelength("excitation_nm", self.excitation_nm)
        object.__setattr__(self, "aberrations", tuple(Zernike(*term) for term in self.aberrations))
        for term in self.aberrations:
            term.check()
        for name in ("immersion_index", "sample_index"):
            index = getattr(self, name)
            if index is not None and not 1 <= index < 4:
                raise ValueError(f"{name} must be a refractive index between 1 and 4, got {index}")
        if not 0 < self.numerical_aperture < self.immersion_index:
            raise ValueError(
                f"numerical_aperture must lie between 0 and immersion_index = {self.immersion_index}, got "
                f"{self.numerical_aperture}; an aperture above 1 needs water or oil"
            )

    def _convert(self, name: str, unit: str) -> None:
        object.__setattr__(self, name, to_unit(getattr(self, name), unit, name))

    @property
    def wavelength_um(self) -> float:
        """Emission wavelength in vacuum, um."""
        return self.wavelength_nm / 1000

    @property
    def source_index(self) -> float:
        """Refractive index around the source: the sample's, or the immersion medium's where that is not given."""
        return self.immersion_index if self.sample_index is None else self.sample_index

    @property
    def stage_ratio(self) -> float:
        """Movement of the focus in the immersion medium over that in the sample, for rays near the axis: n_i / n_s."""
        return self.immersion_index / self.source_index

    @property
    def cutoff_per_um(self) -> float:
        """Highest frequency an incoherent image holds, 2 NA / lambda, cycles per um."""
        return 2 * self.numerical_aperture / self.wavelength_um

    @property
    def resolution_um(self) -> float:
        """Abbe's limit lambda / (2 NA), um."""
        return 1 / self.cutoff_per_um

    @property
    def nyquist_um(self) -> float:
        """Largest pixel that shows every frequency below the cut-off, lambda / (4 NA), um."""
        return self.resolution_um / 2

    @property
    def airy_unit_um(self) -> float:
        """Diameter of the Airy pattern's first dark ring, 1.22 lambda / NA, um."""
        return 1.22 * self.wavelength_um / self.numerical_aperture

    @property
    def axial_extent_um(self) -> float:
        """From the focus to the first zero along the axis, 2 n lambda / NA^2 (scalar, low NA), um."""
        return 2 * self.immersion_index * self.wavelength_um / self.numerical_aperture**2

    @property
    def cone_slope(self) -> float:
        """Tangent of the largest ray angle in the immersion medium: radius of the defocused disc over the defocus."""
        na, n = self.numerical_aperture, self.immersion_index
        return na / (n * n - na * na) ** 0.5

    def at_excitation(self) -> "Optics":
        """The same objective at the excitation wavelength; raises ValueError where that is not known."""
        if self.excitation_nm is None:
            raise ValueError("optics must have excitation_nm for this instrument; give it to Optics")
        ratio = self.wavelength_nm / self.excitation_nm  # the path is the same, its phase is not
        terms = tuple(Zernike(n, m, phase * ratio) for n, m, phase in self.aberrations)
        return replace(self, wavelength_nm=self.excitation_nm, excitation_nm=None, aberrations=terms)


def _check_wavelength(name: str, value: float) -> None:
    if not 100 <= value <= 5000:
        raise ValueError(f"{name} must lie between 100 and 5000 nm, got {value}; the unit is nanometres")
