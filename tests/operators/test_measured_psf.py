"""Point-spread functions from beads: known beads come back, unusable ones are refused, real beads agree."""

import math

import numpy as np
import pytest
import torch

from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.microscopy.beads import FWHM, border_median
from sciinstruct.operators.microscopy.measured_psf import measure_psf

SHAPE, VOXEL, WIDTHS = (25, 72, 80), (0.12, 0.03, 0.03), (0.6, 0.24, 0.18)
CENTRES = [(12.3, 20.4, 22.9), (11.8, 49.1, 55.6), (12.6, 21.7, 60.2)]
BOX = (2.2, 0.8, 0.7)


def _beads(centres=CENTRES, heights=(200.0, 120.0, 90.0), background=10.0):
    z, y, x = (np.arange(n, dtype=float) for n in SHAPE)
    stack = np.full(SHAPE, background)
    for centre, height in zip(centres, heights):
        parts = [
            np.exp(-0.5 * ((axis - c) * v * FWHM / w) ** 2) for axis, c, v, w in zip((z, y, x), centre, VOXEL, WIDTHS)
        ]
        stack += height * parts[0][:, None, None] * parts[1][:, None] * parts[2]
    return stack


def _truth(shape):
    parts = [np.exp(-0.5 * ((np.arange(n) - n // 2) * v * FWHM / w) ** 2) for n, v, w in zip(shape, VOXEL, WIDTHS)]
    psf = parts[0][:, None, None] * parts[1][:, None] * parts[2]
    return torch.from_numpy(psf / psf.sum())


def test_beads_without_noise_give_their_psf_back():
    """What is left is the cubic splines' error, below 1e-3 of the peak at these widths (5 to 8 voxels)."""
    measured = measure_psf(_beads(), VOXEL, box_um=BOX)
    assert [round(bead.height) for bead in measured.beads] == [200, 120, 90]
    assert all(side % 2 == 1 for side in measured.psf.shape) and abs(float(measured.psf.sum()) - 1) < 1e-12
    truth = _truth(measured.psf.shape)
    torch.testing.assert_close(measured.psf, truth, rtol=0, atol=1e-3 * float(truth.max()))
    torch.testing.assert_close(measured.gaussian(), truth, rtol=0, atol=1e-5 * float(truth.max()))
    for bead, centre in zip(measured.beads, CENTRES):
        assert bead.fwhm_um == pytest.approx(WIDTHS, rel=1e-5)
        assert bead.centre_um == pytest.approx([c * v for c, v in zip(centre, VOXEL)], abs=1e-5)
        assert bead.background == pytest.approx(10, abs=1e-3) and bead.correlation > 0.99999


def test_widths_of_noisy_beads():
    """Poisson noise. A Gaussian's width from N photons has a relative error of (2 N)^-1/2 per axis; the background and
    the unweighted fit cost a factor of less than 2 at these counts."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(4):
        measured = measure_psf(rng.poisson(_beads()), VOXEL, box_um=BOX)
        errors += [np.array(bead.fwhm_um) / WIDTHS - 1 for bead in measured.beads]
    photons = 90 * math.prod(w / v / FWHM * math.sqrt(2 * math.pi) for w, v in zip(WIDTHS, VOXEL))
    errors = np.array(errors)
    limit = 2 / math.sqrt(2 * photons)
    assert (np.abs(errors.mean(0)) < 4 * limit / math.sqrt(12)).all()
    assert (errors.std(0) < limit).all()


def test_units_and_tensors():
    from astropy import units as u

    plain = measure_psf(_beads(), VOXEL, box_um=BOX)
    other = measure_psf(torch.from_numpy(_beads()), np.array(VOXEL) * 1000 * u.nm, box_um=np.array(BOX) * u.um)
    assert torch.equal(plain.psf, other.psf) and plain.beads == other.beads


def test_the_plane_is_a_psf_for_convolutions():
    plane = measure_psf(_beads(), VOXEL, box_um=BOX).plane()
    assert abs(float(plane.sum()) - 1) < 1e-12
    assert Convolution(plane, (64, 64), "reflect").range_shape == (1, 64, 64)


def test_saturated_crowded_and_border_beads_are_left_out():
    stack = _beads()
    stack[12, 20, 23] = 255
    assert len(measure_psf(stack.astype(np.uint8), VOXEL, box_um=BOX).beads) == 2
    crowded = _beads([*CENTRES, (12, 49, 66)], (200.0, 120.0, 90.0, 80.0))
    assert sorted(round(b.height) for b in measure_psf(crowded, VOXEL, box_um=BOX).beads) == [90, 200]
    border = _beads([*CENTRES, (12, 60, 30)], (200.0, 120.0, 90.0, 80.0))
    assert len(measure_psf(border, VOXEL, box_um=BOX).beads) == 3
    assert len(measure_psf(_beads(), VOXEL, box_um=BOX, min_height=0.7).beads) == 1


def test_one_bead_has_nothing_to_agree_with():
    (bead,) = measure_psf(_beads(CENTRES[:1]), VOXEL, box_um=BOX).beads
    assert bead.correlation is None


@pytest.mark.parametrize(
    ("stack", "options", "error", "words"),
    [
        (np.zeros((9, 9)), {}, ValueError, "three axes"),
        (np.full((9, 9, 9), np.nan), {}, ValueError, "finite"),
        (np.zeros((9, 9, 9), dtype=complex), {}, TypeError, "real"),
        (np.zeros(SHAPE), {}, ValueError, "no maximum"),
        (_beads(), {"saturation": 50.0}, ValueError, "3 saturated"),
        (_beads(), {"box_um": (9.0, 0.8, 0.8)}, ValueError, "box_um"),
        (_beads(), {"box_um": (1.0, 0.8)}, ValueError, "box_um must be three"),
        (_beads([(1, 1, 1)], (50.0,)), {}, ValueError, "border"),
    ],
)
def test_bad_stacks_are_refused(stack, options, error, words):
    with pytest.raises(error, match=words):
        measure_psf(stack, VOXEL, **({"box_um": BOX} | options))


def test_bad_voxels_are_refused():
    with pytest.raises(ValueError, match="voxel_um"):
        measure_psf(_beads(), (0.1, 0.0, 0.1))


def test_border_median_ignores_the_middle():
    window = np.zeros((2, 5, 5))
    window[:, 1:4, 1:4] = 100.0
    assert border_median(window) == 0


def test_the_real_beads_agree(microscopy_dir):
    """Four beads, no two alike in noise but in shape; widths as found by an independent fit in a window of its own:
    the wings are not Gaussian, and the window changes the width by up to 3 %."""
    import tifffile

    stack = tifffile.imread(microscopy_dir / "beads_confocal_zstack.tif")
    measured = measure_psf(stack, (0.125, 1 / 44.460534, 1 / 44.460534))
    assert len(measured.beads) == 4
    for bead in measured.beads:
        for width, low, high in zip(bead.fwhm_um, (0.58, 0.223, 0.168), (0.59, 0.227, 0.171)):
            assert 0.97 * low < width < 1.03 * high
        assert bead.correlation > 0.98  # with the mean of the other three
    assert measured.fwhm_um[1] / measured.fwhm_um[2] == pytest.approx(1.33, abs=0.02)
