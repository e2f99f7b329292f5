"""Structured illumination with real optics: its identities, its limits, and stripes found in the frames."""

import math

import pytest
import torch

from sciinstruct.core.operator import dot_test
from sciinstruct.operators.microscopy.optics import Optics
from sciinstruct.operators.microscopy.structured import SIM, even_stripes
from sciinstruct.operators.microscopy.structured_fit import fit_stripes
from sciinstruct.operators.microscopy.widefield import WidefieldBlur

OPTICS = Optics(1.41, 525.0, excitation_nm=488.0)
BOUNDARIES = ["valid", "reflect", "replicate", "circular", "zero"]


def _points(generator, shape, share=0.02):
    """Sparse bright points: a specimen with every frequency."""
    return (torch.rand(1, 1, *shape, generator=generator, dtype=torch.float64) < share).double()


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("factor", [1, 2])
def test_mean_over_phases_is_the_wide_field_image(boundary, factor, generator):
    x = _points(generator, (40, 44))
    frames = SIM(OPTICS, (40, 44), 0.0313, even_stripes(0.2), 3, boundary, factor, radius_um=0.3)(x)
    wide = WidefieldBlur(OPTICS, (40, 44), 0.0313, boundary, factor, radius_um=0.3)(x)
    mean = frames.unflatten(1, (3, 3)).mean(2)
    torch.testing.assert_close(mean, wide.expand_as(mean), rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_adjoint(boundary, generator):
    stripes = even_stripes(0.25, 2, 0.7, first_angle_rad=0.4)
    assert dot_test(SIM(OPTICS, (30, 32), 0.0313, stripes, 4, boundary, 2, radius_um=0.31), generator) < 1e-12


def test_frames_vanish_beyond_the_cutoff(generator):
    shape, pixel = (48, 64), 0.0313
    frames = SIM(OPTICS, shape, pixel, even_stripes(0.2), 3, "circular")(_points(generator, shape))
    ky, kx = (torch.fft.fftfreq(n, pixel, dtype=torch.float64) for n in shape)
    beyond = torch.hypot(ky[:, None], kx) >= OPTICS.cutoff_per_um
    assert beyond.any() and torch.fft.fft2(frames)[..., beyond].abs().max() < 1e-12


def test_stripes_are_fixed_to_the_camera():
    """The same pattern on the camera's first pixel, whatever the margin and the factor."""
    stripes = even_stripes(0.3, 1)._replace(shift=torch.tensor([0.7], dtype=torch.float64))
    ones = lambda op: torch.ones(1, *op.domain_shape, dtype=torch.float64)
    coarse = SIM(OPTICS, (40, 40), 0.06, stripes, 3, "valid", radius_um=0.36)
    fine = SIM(OPTICS, (108, 108), 0.02, stripes, 3, "valid", 3, radius_um=0.48)
    columns = 0.06 * torch.arange(20, dtype=torch.float64)
    for op, light in [(coarse, 1), (fine, 9)]:
        row = op(ones(op))[0, 0, 5, :20] / light - 1
        wave = torch.cos(2 * math.pi * columns / 0.3 + 0.7)
        contrast = float((row * wave).sum() / wave.square().sum())
        assert 0.05 < contrast < 0.9
        torch.testing.assert_close(row, contrast * wave, rtol=0, atol=0.01 * contrast)


def _recording(generator, photons, period, phases=3):
    stripes = even_stripes(period, 3, 0.8, 0.3)._replace(shift=torch.tensor([0.4, -1.0, 2.5], dtype=torch.float64))
    operator = SIM(OPTICS, (192, 192), 0.0313, stripes, phases, "valid", 2)
    y = operator(_points(generator, (192, 192)))
    return stripes, torch.poisson(photons * y / y.mean(), generator=generator)[0]


@pytest.mark.parametrize(("photons", "tolerance"), [(10_000, 0.1), (200, 0.4)])
@pytest.mark.parametrize("period", [0.2, 0.3])
def test_stripes_are_found_in_the_frames(photons, tolerance, period, generator):
    """Phase (rad) at the middle of the field, and over half the field (wave vector), contrast to 10 %."""
    truth, frames = _recording(generator, photons, period)
    found = fit_stripes(frames, OPTICS, 0.0626)
    side = torch.tensor([n * 0.0626 for n in frames.shape[1:]], dtype=torch.float64)
    error = found.wave_vectors_per_um - truth.wave_vectors_per_um
    assert (2 * math.pi * error * side / 2).abs().max() < tolerance
    middle = found.shift - truth.shift + 2 * math.pi * (error * side / 2).sum(1)
    assert torch.angle(torch.exp(1j * middle)).abs().max() < tolerance / 2
    assert (found.modulation / truth.modulation - 1).abs().max() < 0.1


def test_fitted_stripes_explain_the_frames(generator):
    """The fit closes the loop: an operator with the stripes found predicts the frames of the true one."""
    x = _points(generator, (192, 192))
    truth = even_stripes(0.22, 3, 0.8, 0.3)
    y = SIM(OPTICS, (192, 192), 0.0313, truth, 3, "valid", 2)(x)
    again = SIM(OPTICS, (192, 192), 0.0313, fit_stripes(y[0], OPTICS, 0.0626), 3, "valid", 2)(x)
    wide = y.unflatten(1, (3, 3)).mean(2, keepdim=True)
    assert (again - y).norm() < 0.1 * (y.unflatten(1, (3, 3)) - wide).norm()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: even_stripes(-0.2), "line_period_um"),
        (lambda: even_stripes(0.2, 0), "angles"),
        (lambda: even_stripes(0.2, modulation=1.2), "modulation"),
        (lambda: SIM(OPTICS, (64, 64), 0.0313, even_stripes(0.15)), "lambda_ex"),
        (lambda: SIM(Optics(1.41, 525), (64, 64), 0.06, even_stripes(0.1)), "half the stripes' period"),
        (lambda: SIM(OPTICS, (64, 64), 0.0313, even_stripes(0.2), 0), "phases"),
        (lambda: SIM(OPTICS, (64, 64), 0.0313, even_stripes(0.2)._replace(shift=torch.zeros(2))), "stripes must have"),
        (lambda: SIM(OPTICS, (64, 64), 0.0313, even_stripes(0.2)._replace(shift=torch.full((3,), math.nan))), "finite"),
        (lambda: fit_stripes(torch.ones(8, 32, 32), OPTICS, 0.06), "frames must be"),
        (lambda: fit_stripes(torch.ones(9, 8, 32), OPTICS, 0.06), "at least 16 pixels"),
        (lambda: fit_stripes(torch.ones(6, 32, 32), OPTICS, 0.06, 2), "phases must be at least 3"),
        (lambda: fit_stripes(torch.ones(9, 32, 32), OPTICS, 0.12), "lambda / \\(4 NA\\)"),
        (lambda: fit_stripes(torch.full((9, 32, 32), math.nan), OPTICS, 0.06), "frames must be finite"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_frames_of_counts_are_refused():
    with pytest.raises(TypeError, match="frames must be a floating tensor"):
        fit_stripes(torch.ones(9, 32, 32, dtype=torch.int32), OPTICS, 0.06)
