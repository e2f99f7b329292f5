"""Confocal and spinning disk: published widths, sectioning, limits of the pinhole."""

import pytest
import torch

from sciinstruct.core.operator import dot_test
from sciinstruct.operators.microscopy.confocal import (
    Confocal,
    Confocal3D,
    SpinningDisk,
    SpinningDisk3D,
    confocal_spread,
    spinning_disk_spread,
)
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.spread import point_spread

OPTICS = Optics(1.4, 520.0, excitation_nm=488.0)
BOUNDARIES = ["valid", "reflect", "replicate", "circular", "zero"]


def _fwhm(psf, pixel):
    """Width of the middle row at half maximum, linear between samples, of an even pattern."""
    line = psf[psf.shape[0] // 2, psf.shape[1] // 2 :]
    outer = int((line < line[0] / 2).nonzero()[0])
    part = (line[outer - 1] - line[0] / 2) / (line[outer - 1] - line[outer])
    return float(2 * pixel * (outer - 1 + part))


@pytest.mark.parametrize(("pinhole", "width"), [(0.0, 0.145), (0.5, 0.156), (1.0, 0.187), (2.0, 0.196)])
def test_widths(pinhole, width):
    """NA 1.4, 488 and 520 nm, pinhole diameters in Airy units."""
    psf = confocal_spread(OPTICS, 0.01, (61, 61), pinhole_airy=pinhole)
    assert _fwhm(psf, 0.01) == pytest.approx(width, rel=0.01)


def test_a_point_pinhole_is_a_product():
    excitation, emission = (point_spread(o, 0.03, (21, 21)) for o in (OPTICS.at_excitation(), OPTICS))
    for spread in (confocal_spread, spinning_disk_spread):
        closed = spread(OPTICS, 0.03, (21, 21), pinhole_airy=0)
        torch.testing.assert_close(closed, excitation * emission, rtol=0, atol=1e-15)


def test_open_pinholes():
    """Wide open: the scanned spot is left of the confocal, the wide-field image of the spinning disk."""
    excitation, emission = (point_spread(o, 0.02, (41, 41)) for o in (OPTICS.at_excitation(), OPTICS))
    scanned = confocal_spread(OPTICS, 0.02, (41, 41), pinhole_airy=8)
    disk = spinning_disk_spread(OPTICS, 0.02, (41, 41), pinhole_airy=8)
    assert _fwhm(scanned, 0.02) == pytest.approx(_fwhm(excitation, 0.02), rel=0.01)
    assert _fwhm(disk, 0.02) == pytest.approx(_fwhm(emission, 0.02), rel=0.01)


@pytest.mark.parametrize("spread", [confocal_spread, spinning_disk_spread])
def test_sectioning(spread):
    """Light of a source falls with its distance from the focus, for a small pinhole about as 1 / z^2."""
    stack = spread(OPTICS, 0.05, (121, 121), [0.0, 1.0, 2.0], pinhole_airy=0.5)
    near, middle, far = stack.sum((1, 2)).tolist()
    assert middle < 0.2 * near and 0.15 < far / middle < 0.45


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_adjoint(boundary, generator):
    for operator in (
        Confocal(OPTICS, (20, 22), 0.06, boundary, radius_um=0.4),
        SpinningDisk(OPTICS, (22, 24), 0.06, boundary, 2, radius_um=0.3),
        Confocal3D(OPTICS, (3, 16, 15), 0.06, 0.3, boundary, radius_um=0.3),
        SpinningDisk3D(OPTICS, (2, 16, 18), 0.06, 0.3, boundary, 2, radius_um=0.3),
    ):
        assert dot_test(operator, generator) < 1e-12


def test_a_uniform_specimen_keeps_its_brightness():
    ones = torch.ones(1, 1, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(Confocal(OPTICS, (40, 40), 0.06, "reflect")(ones), ones)
    torch.testing.assert_close(SpinningDisk(OPTICS, (40, 40), 0.06, "reflect", 2)(ones), 4 * ones[..., ::2, ::2])


def test_one_plane_of_a_stack_is_the_flat_specimen(generator):
    x = torch.rand(1, 1, 1, 24, 24, generator=generator, dtype=torch.float64)
    flat = Confocal(OPTICS, (24, 24), 0.06, "zero", radius_um=0.4)(x[:, :, 0])
    deep = Confocal3D(OPTICS, (1, 24, 24), 0.06, 0.3, "zero", radius_um=0.4)(x)
    torch.testing.assert_close(deep[:, :, 0], flat, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Confocal(Optics(1.4, 520.0), (32, 32), 0.06), "excitation_nm"),
        (lambda: Confocal(OPTICS, (32, 32), 0.06, pinhole_airy=-1.0), "pinhole_airy"),
        (lambda: Confocal(OPTICS, (16, 16), 0.06), "radius_um of at most"),
        (lambda: Confocal(OPTICS, (32, 32), -0.06), "pixel_um"),
        (lambda: Confocal(OPTICS, (3, 32, 32), 0.06), "one colour"),
        (lambda: SpinningDisk(OPTICS, (32, 32), 0.06, "zero", 3), "factor"),
        (lambda: Confocal3D(OPTICS, (3, 32, 32), 0.06, 0.0), "z_step_um"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
