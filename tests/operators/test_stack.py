"""Operators on volumes: exact convolution, haze, depth, and bad input."""

import pytest
import torch

from sciinstruct.core.operator import dot_test
from sciinstruct.operators.microscopy.light_sheet import LightSheet
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import scalar_pupil
from sciinstruct.operators.microscopy.spread import pixel_spread
from sciinstruct.operators.microscopy.stack import StackBlur, Widefield3D, WidefieldPlane
from sciinstruct.operators.microscopy.widefield import WidefieldBlur

OPTICS = Optics(1.2, 525.0, 1.33)
BOUNDARIES = ["valid", "reflect", "replicate", "circular", "zero"]


def _volume(generator, *shape):
    return torch.rand(1, 1, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("factor", [1, 2])
def test_adjoint(boundary, factor, generator):
    size = ((3, 18, 20), 0.1, 0.4)
    for operator in (
        Widefield3D(OPTICS, *size, boundary, factor, radius_um=0.4),
        WidefieldPlane(OPTICS, *size, 0.6, boundary, factor, radius_um=0.4),
        LightSheet(OPTICS, *size, 0.5, boundary, factor, radius_um=0.4),
    ):
        assert dot_test(operator, generator) < 1e-12


def test_a_stack_is_the_sum_of_what_the_planes_do(generator):
    """y_f = sum_s h(f - s) * x_s, one plane at a time with its own defocus."""
    shape, step = (3, 24, 26), 0.5
    x = _volume(generator, *shape)
    stack = Widefield3D(OPTICS, shape, 0.08, step, "valid", radius_um=0.6)(x)
    focal = pixel_spread(OPTICS, 0.08, (17, 17)).sum()
    for f in range(3):
        expected = 0
        for s in range(3):
            blur = WidefieldBlur(OPTICS, shape[1:], 0.08, "valid", radius_um=0.6, z_um=(f - s) * step)
            share = pixel_spread(OPTICS, 0.08, (17, 17), (f - s) * step).sum() / focal
            expected = expected + share * blur(x[:, :, s])
        torch.testing.assert_close(stack[:, :, f], expected, rtol=1e-12, atol=0)


def test_one_plane_is_wide_field(generator):
    x = _volume(generator, 1, 20, 20)
    deep = Widefield3D(OPTICS, (1, 20, 20), 0.1, 0.3, "reflect", 2, radius_um=0.5)(x)
    flat = WidefieldBlur(OPTICS, (20, 20), 0.1, "reflect", 2, radius_um=0.5)(x[:, :, 0])
    torch.testing.assert_close(deep[:, :, 0], flat, rtol=1e-12, atol=0)


@pytest.mark.parametrize("plane", [0, 2, 3])
def test_a_plane_of_the_stack_is_the_single_image(plane, generator):
    """Media that match: focusing on plane k gives the k-th image of the focal stack."""
    shape = (4, 24, 24)
    x = _volume(generator, *shape)
    stack = Widefield3D(OPTICS, shape, 0.08, 0.4, radius_um=0.8)(x)
    single = WidefieldPlane(OPTICS, shape, 0.08, 0.4, plane * 0.4, radius_um=0.8)(x)
    torch.testing.assert_close(single, stack[:, :, plane], rtol=1e-11, atol=0)


def test_every_image_of_the_stack_holds_all_light(generator):
    """Wide field does not section: with a periodic field each focal plane collects the photons of the whole volume."""
    x = _volume(generator, 5, 32, 32)
    y = Widefield3D(OPTICS, (5, 32, 32), 0.1, 0.5, "circular")(x)
    torch.testing.assert_close(y.sum((-2, -1)), x.sum().expand(1, 1, 5), rtol=1e-9, atol=0)


def test_a_light_sheet_sections():
    """A point s planes out of focus sends exp(-z^2 / 2 sigma^2) of its light; a wide sheet is wide field."""
    shape, sigma, step = (5, 32, 32), 0.6, 0.4
    x = torch.zeros(1, 1, *shape, dtype=torch.float64)
    x[0, 0, 2, 16, 16] = 1
    light = LightSheet(OPTICS, shape, 0.1, step, sigma, "circular")(x).sum((-2, -1))[0, 0]
    z = step * torch.arange(-2, 3, dtype=torch.float64)
    torch.testing.assert_close(light, torch.exp(-0.5 * (z / sigma).square()), rtol=1e-9, atol=0)
    thick = LightSheet(OPTICS, shape, 0.1, step, 1e6, "circular")(x)
    torch.testing.assert_close(thick, Widefield3D(OPTICS, shape, 0.1, step, "circular")(x), rtol=0, atol=1e-12)


def test_a_point_shows_the_measured_stack(generator):
    """A point in the volume's middle gives the stack back, plane 0 first; its middle plane has sum 1."""
    psf = torch.rand(3, 5, 3, generator=generator, dtype=torch.float64)
    x = torch.zeros(1, 1, 5, 9, 9, dtype=torch.float64)
    x[0, 0, 2, 4, 4] = 1
    y = StackBlur(psf, (5, 9, 9), "zero")(x)[0, 0]
    torch.testing.assert_close(y[1:4, 2:7, 3:6], psf / psf[1].sum(), rtol=0, atol=1e-13)
    assert y[[0, 4]].abs().max() < 1e-13


def test_planes_beyond_the_volume_change_nothing(generator):
    """A measured stack longer than the volume needs is cut, not wrapped."""
    psf = torch.rand(9, 3, 3, generator=generator, dtype=torch.float64)
    x = _volume(generator, 2, 8, 8)
    longer = StackBlur(psf, (2, 8, 8))(x)
    padded = StackBlur(psf, (7, 8, 8))(torch.nn.functional.pad(x, [0, 0, 0, 0, 0, 5]))
    torch.testing.assert_close(longer, padded[:, :, :2], rtol=0, atol=1e-12)


def test_focus_in_depth_needs_another_position():
    """Oil objective into water: the sharpest image of a plane 4 um deep is not at its nominal focus."""
    optics = Optics(1.3, 520.0, 1.515, 1.38)
    x = torch.zeros(1, 1, 1, 31, 31, dtype=torch.float64)
    x[..., 15, 15] = 1
    peaks = [
        float(WidefieldPlane(optics, (1, 31, 31), 0.06, 0.3, focus, "zero", depth_um=4.0)(x).max())
        for focus in (-0.4, 0.0, 0.4)
    ]
    assert peaks[2] > 1.2 * peaks[1] > 1.2 * peaks[0]


def test_planes_keep_their_order():
    """Focus beyond the first plane: a source further down is sharper."""
    shape = (3, 31, 31)
    plane = WidefieldPlane(OPTICS, shape, 0.08, 0.6, 1.2, "zero", model=scalar_pupil)
    sources = torch.zeros(3, 1, *shape, dtype=torch.float64)
    sources[range(3), 0, range(3), 15, 15] = 1
    first, second, third = plane(sources).amax((1, 2, 3)).tolist()
    assert third > 2 * second > 2 * first


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StackBlur(torch.ones(2, 3, 3), (4, 8, 8)), "psf sides must be odd"),
        (lambda: StackBlur(torch.ones(3, 9, 9), (4, 8, 8)), "no larger than"),
        (lambda: StackBlur(torch.full((3, 3, 3), float("inf")), (4, 8, 8)), "psf must be finite"),
        (lambda: StackBlur(torch.zeros(3, 3, 3), (4, 8, 8)), "positive sum in its plane in focus"),
        (lambda: StackBlur(torch.ones(3, 3, 3), (8, 8)), "stack_shape must be"),
        (lambda: Widefield3D(OPTICS, (3, 16, 16), 0.1, -0.3), "z_step_um must be positive"),
        (lambda: Widefield3D(OPTICS, (3, 16, 16), 0.1, 0.3, "valid"), "radius_um of at most"),
        (lambda: Widefield3D(OPTICS, (3, 16, 16), 0.0, 0.3), "pixel_um must be positive"),
        (lambda: LightSheet(OPTICS, (3, 16, 16), 0.1, 0.3, 0.0), "sheet_sigma_um"),
        (lambda: Widefield3D(OPTICS, (3, 16, 16), 0.1, 0.3, factor=3), "factor must divide"),
        (lambda: Widefield3D(OPTICS, (16, 16), 0.1, 0.3), "stack_shape must be"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_stack_of_counts_is_refused():
    with pytest.raises(TypeError, match="psf must be a floating tensor"):
        StackBlur(torch.ones(3, 3, 3, dtype=torch.int64), (4, 8, 8))
