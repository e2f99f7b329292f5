"""Optics and units: derived lengths, quantities, and what cannot be."""

import pytest

from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.units import to_unit, to_unit_tensor


def test_lengths():
    optics = Optics(1.41, 525.0)
    assert optics.resolution_um == pytest.approx(0.1862, abs=1e-4)
    assert optics.nyquist_um == pytest.approx(optics.resolution_um / 2)
    assert optics.cutoff_per_um == pytest.approx(2 * 1.41 / 0.525)
    assert optics.airy_unit_um == pytest.approx(0.4543, abs=1e-4)
    assert Optics(0.5, 500.0, 1.0).axial_extent_um == pytest.approx(4.0)
    assert Optics(1.2, 525.0, 1.33).source_index == 1.33
    assert Optics(1.2, 525.0, 1.515, 1.38).stage_ratio == pytest.approx(1.515 / 1.38)
    assert Optics(1.2, 525.0, 1.33, 1.38, 488.0).at_excitation() == Optics(1.2, 488.0, 1.33, 1.38)


def test_quantities():
    units = pytest.importorskip("astropy.units")
    assert Optics(1.4, 0.52 * units.um) == Optics(1.4, 520.0)
    assert to_unit(65 * units.nm, "um", "pixel_um") == pytest.approx(0.065)
    assert to_unit_tensor([100, 200] * units.nm, "um", "z_um").tolist() == pytest.approx([0.1, 0.2])
    with pytest.raises(ValueError, match="pixel_um must be convertible to um"):
        to_unit(1 * units.s, "um", "pixel_um")


@pytest.mark.parametrize("value", ["0.1", True, None, [0.1, 0.2]])
def test_not_a_number(value):
    with pytest.raises(TypeError, match="pixel_um must be one number in um"):
        to_unit(value, "um", "pixel_um")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numerical_aperture": 1.6}, "numerical_aperture must lie between 0 and immersion_index"),
        ({"numerical_aperture": 0.0}, "numerical_aperture"),
        ({"numerical_aperture": 1.2, "immersion_index": 1.0}, "needs water or oil"),
        ({"wavelength_nm": 0.525}, "unit is nanometres"),
        ({"wavelength_nm": float("nan")}, "wavelength_nm must be finite"),
        ({"excitation_nm": -488.0}, "excitation_nm"),
        ({"sample_index": 0.5}, "sample_index"),
        ({"immersion_index": 15.15}, "immersion_index"),
    ],
)
def test_impossible_optics(arguments, message):
    with pytest.raises(ValueError, match=message):
        Optics(**{"numerical_aperture": 1.4, "wavelength_nm": 525.0, **arguments})


def test_no_excitation():
    with pytest.raises(ValueError, match="excitation_nm"):
        Optics(1.4, 520.0).at_excitation()
