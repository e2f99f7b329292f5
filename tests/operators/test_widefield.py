"""Wide-field operators: light, shifts, boundaries, the field a camera needs, and bad input."""

import pytest
import torch

from sciinstruct.core.likelihood import Likelihood
from sciinstruct.core.operator import dot_test
from sciinstruct.operators.microscopy.noise import PoissonGaussianNoise, PoissonNoise
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.pupil import scalar_pupil
from sciinstruct.operators.microscopy.spread import pixel_spread, point_spread
from sciinstruct.operators.microscopy.widefield import PSFBlur, WidefieldBlur

OPTICS = Optics(1.41, 525.0)
BOUNDARIES = ["valid", "reflect", "replicate", "circular", "zero"]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_adjoint(boundary, factor, generator):
    blur = WidefieldBlur(OPTICS, (48, 54), 0.0313, boundary, factor, radius_um=0.28)
    assert dot_test(blur, generator) < 1e-12


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_light_is_kept(factor, generator):
    """With a periodic field every photon arrives; summing over camera pixels loses none."""
    x = torch.rand(2, 1, 64, 64, generator=generator, dtype=torch.float64)
    y = WidefieldBlur(OPTICS, (64, 64), 0.0313, "circular", factor)(x)
    torch.testing.assert_close(y.sum((1, 2, 3)), x.sum((1, 2, 3)), rtol=1e-12, atol=0)


def test_a_point_far_from_the_border_is_the_point_spread_function():
    blur = WidefieldBlur(OPTICS, (41, 41), 0.0626, "zero", radius_um=0.6)
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[..., 20, 22] = 100
    y = blur(x)[0, 0]
    assert float(y.sum()) == pytest.approx(100)
    torch.testing.assert_close(y[10:31, 12:33], 100 * blur.psf, rtol=0, atol=1e-12)
    expected = pixel_spread(OPTICS, 0.0626, (21, 21))
    torch.testing.assert_close(blur.psf, expected / expected.sum(), rtol=0, atol=1e-15)


def test_valid_is_the_middle_of_every_other_boundary(generator):
    x = torch.rand(1, 1, 40, 44, generator=generator, dtype=torch.float64)
    valid = WidefieldBlur(OPTICS, (40, 44), 0.0626, "valid", radius_um=0.5)
    (top, left), y = valid.margin, valid(x)
    assert (top, left) == (8, 8) and y.shape == (1, 1, 24, 28)
    for boundary in BOUNDARIES[1:]:
        full = WidefieldBlur(OPTICS, (40, 44), 0.0626, boundary, radius_um=0.5)(x)
        torch.testing.assert_close(full[..., 8:32, 8:36], y, rtol=0, atol=1e-13)


def test_a_shift_by_a_camera_pixel_commutes(generator):
    """Away from the borders, moving the specimen by `factor` pixels moves the data by one."""
    x = torch.rand(1, 1, 80, 80, generator=generator, dtype=torch.float64)
    blur = WidefieldBlur(OPTICS, (80, 80), 0.0313, "reflect", 2, radius_um=0.3)
    moved, still = blur(x.roll((2, 4), (-2, -1))), blur(x)
    torch.testing.assert_close(moved[..., 8:-8, 8:-8], still.roll((1, 2), (-2, -1))[..., 8:-8, 8:-8])


def test_summed_fine_pixels_are_coarse_ones():
    """A camera pixel's share of a centred point: 3 x 3 latent pixels, or one three times as large."""
    fine = WidefieldBlur(OPTICS, (63, 63), 0.05, "zero", 3, radius_um=1.0)
    x = torch.zeros(1, 1, 63, 63, dtype=torch.float64)
    x[..., 31, 31] = 1
    coarse = pixel_spread(OPTICS, 0.15, (21, 21))
    kept = pixel_spread(OPTICS, 0.05, (41, 41)).sum()
    torch.testing.assert_close(fine(x)[0, 0, 5:16, 5:16] * kept, coarse[5:16, 5:16], rtol=0, atol=3e-4)


def test_the_camera_decides_the_latent_field():
    blur = WidefieldBlur.for_camera(OPTICS, (32, 20), 0.0626, 2, radius_um=0.313)
    assert blur.range_shape == (1, 32, 20) and blur.pixel_um == pytest.approx(0.0313)
    assert blur.domain_shape == (1, 64 + 20, 40 + 20) and blur.margin == (10, 10)


def test_periodic_field_is_blind_beyond_the_cutoff():
    """A wave finer than lambda / (2 NA) leaves no trace without a radius; a cropped pattern lets a little through."""
    blur = WidefieldBlur(OPTICS, (64, 64), 0.0313, "circular")
    k = 12 / (64 * 0.0313)
    assert k > OPTICS.cutoff_per_um
    x = torch.cos(2 * torch.pi * 12 / 64 * torch.arange(64, dtype=torch.float64)).expand(1, 1, 64, 64).contiguous()
    assert blur(x).abs().max() < 1e-12


def test_models_defocus_and_depth_reach_the_operator():
    args = (OPTICS, (64, 64), 0.0626)
    sharp = WidefieldBlur(*args).psf.max()
    assert WidefieldBlur(*args, model=scalar_pupil).psf.max() > sharp > WidefieldBlur(*args, z_um=0.4).psf.max()
    water = Optics(1.41, 525.0, sample_index=1.42)
    assert WidefieldBlur(water, (64, 64), 0.0626, depth_um=3.0).psf.max() < sharp


def test_measured_and_computed_functions_agree(generator):
    x = torch.rand(2, 1, 48, 48, generator=generator, dtype=torch.float64)
    computed = WidefieldBlur(OPTICS, (48, 48), 0.0626, "reflect", 2)
    measured = PSFBlur(computed.psf * 731.0, (48, 48), "reflect", 2)
    torch.testing.assert_close(measured(x), computed(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("noise", [PoissonGaussianNoise(1.6), PoissonNoise()])
def test_gradient_of_the_log_likelihood(noise, generator):
    """Central differences along random directions, through camera pixels and the blur."""
    blur = WidefieldBlur(OPTICS, (30, 30), 0.0313, "reflect", 2, radius_um=0.3)
    x = 20 + 20 * torch.rand(1, 1, 30, 30, generator=generator, dtype=torch.float64)
    likelihood = Likelihood(blur, noise, torch.poisson(blur(x), generator=generator))
    way = torch.randn(3, 1, 30, 30, generator=generator, dtype=torch.float64)
    slopes = (likelihood.score(x) * way).sum((1, 2, 3))
    step = 1e-4
    differences = (likelihood.log_prob(x + step * way) - likelihood.log_prob(x - step * way)) / (2 * step)
    torch.testing.assert_close(slopes, differences, rtol=1e-6, atol=1e-6)


def test_precision_follows_the_input():
    blur = WidefieldBlur(OPTICS, (64, 64), 0.0313, "circular", 2)
    x = torch.ones(1, 1, 64, 64)
    assert blur(x).dtype == torch.float32 and blur.adjoint(blur(x)).dtype == torch.float32
    torch.testing.assert_close(blur(x), torch.full((1, 1, 32, 32), 4.0))


def _psf(*shape):
    return torch.ones(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PSFBlur(_psf(4, 5), (16, 16)), "psf sides must be odd"),
        (lambda: PSFBlur(_psf(17, 17), (16, 16)), "psf must not be larger than the image"),
        (lambda: PSFBlur(_psf(3, 3) * float("nan"), (16, 16)), "psf must be finite"),
        (lambda: PSFBlur(-_psf(3, 3), (16, 16)), "positive sum"),
        (lambda: PSFBlur(_psf(3, 3), (16, 16), "mirror"), "boundary must be one of"),
        (lambda: PSFBlur(_psf(3, 3), (16, 16), "valid", 4), "factor must divide"),
        (lambda: PSFBlur(_psf(3, 3), (17, 17), "valid", 1.5), "factor must divide"),
        (lambda: PSFBlur(_psf(3, 3), (2, 16, 16)), "one colour"),
        (lambda: WidefieldBlur(OPTICS, (16, 16), 0.0313), "radius_um of at most 0.219"),
        (lambda: WidefieldBlur(OPTICS, (64, 64), -0.03), "pixel_um must be positive"),
        (lambda: WidefieldBlur(OPTICS, (64, 64), 0.03, radius_um=0.0), "radius_um must be positive"),
        (lambda: WidefieldBlur(OPTICS, (64, 64), 0.03, depth_um=-1.0), "depth_um"),
        (lambda: WidefieldBlur.for_camera(OPTICS, (32, 32), 0.06, 0), "factor"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_one_defocus_per_operator():
    with pytest.raises(TypeError, match="z_um must be one number"):
        WidefieldBlur(OPTICS, (64, 64), 0.06, z_um=[0.0, 1.0])


def test_point_spread_is_not_renormalised_but_the_operator_is():
    psf = point_spread(OPTICS, 0.0626, (13, 13))
    assert float(psf.sum()) < 0.95
    assert float(WidefieldBlur(OPTICS, (32, 32), 0.0626, radius_um=0.37).psf.sum()) == pytest.approx(1, abs=1e-14)
