"""Image comparison: correlation, shifts, alignment and blur."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry.metrics import align, blur, match, nxcorr, shift_image
from sciinstruct.operators.interferometry.sources import Gaussian, MRing

FOV = 128.0


@pytest.fixture
def ring():
    return MRing(1.0, 42.0, 14.0, (0.3j,)).render(64, FOV)


def test_correlation_equals_its_definition_without_shift(generator):
    a, b = torch.rand(2, 12, 12, generator=generator, dtype=torch.float64)
    direct = max(
        float(torch.corrcoef(torch.stack((a.roll((i, j), (0, 1)).flatten(), b.flatten())))[0, 1])
        for i in range(12)
        for j in range(12)
    )
    assert float(nxcorr(a, b)) == pytest.approx(direct, abs=1e-13)


def test_shifted_scaled_and_offset_copy_correlates_perfectly(ring):
    moved = 3.0 * ring.roll((5, -7), (0, 1)) + 2.0
    found = match(moved[None, None], ring)
    assert float(found.nxcorr) == pytest.approx(1.0, abs=1e-12)
    assert (float(found.rows), float(found.columns)) == (-5.0, 7.0)
    torch.testing.assert_close(shift_image(moved[None], found.rows, found.columns)[0], 3.0 * ring + 2.0)


def test_subpixel_shift_is_found_and_undone(ring):
    """The parabola's bias is of third order in the sampling of a correlation peak some 7 pixels wide."""
    rows, columns = (torch.tensor([value], dtype=torch.float64) for value in (2.3, -1.6))
    moved = shift_image(ring[None], rows, columns)
    found = match(moved, ring, subpixel=True)
    assert float(found.rows) == pytest.approx(-2.3, abs=0.05)
    assert float(found.columns) == pytest.approx(1.6, abs=0.05)
    shifted = MRing(1.0, 42.0, 14.0, (0.3j,)).shifted(1.6 * 2.0, -2.3 * 2.0).render(64, FOV)
    torch.testing.assert_close(moved[0], shifted, atol=1e-3 * float(ring.max()), rtol=0)


def test_whole_shift_keeps_every_value(generator):
    images = torch.rand(3, 1, 8, 10, generator=generator)
    rows, columns = torch.tensor([0.0, 3.0, -2.0]), torch.tensor([1.0, -4.0, 9.0])
    for image, moved, i, j in zip(images, shift_image(images, rows, columns), rows, columns):
        assert torch.equal(moved, image.roll((int(i), int(j)), (-2, -1)))


@pytest.mark.parametrize("subpixel", [False, True])
def test_alignment_removes_shifts(ring, generator, subpixel):
    shifts = torch.randint(-6, 7, (2, 20), generator=generator).double()
    samples = shift_image(ring.expand(20, 1, 64, 64), *shifts)
    aligned = align(samples, subpixel=subpixel)
    assert float(aligned.std(0).max()) < 0.02 * float(ring.max())
    torch.testing.assert_close(align(samples, ring)[:, 0], ring.expand(20, 64, 64), atol=1e-12, rtol=0)


def test_blur_widens_a_gaussian_in_quadrature_and_keeps_flux():
    image = Gaussian(0.6, 20.0).render(64, FOV, 1)
    expected = Gaussian(0.6, math.hypot(20.0, 15.0)).render(64, FOV, 1)
    torch.testing.assert_close(blur(image, 15.0, FOV), expected, atol=1e-8, rtol=0)
    assert float(blur(image, 15.0, FOV).sum()) == pytest.approx(0.6, abs=1e-6)
    torch.testing.assert_close(blur(image, 0.0, FOV), image)


def test_blur_does_not_wrap_around():
    image = torch.zeros(1, 32, 32, dtype=torch.float64)
    image[0, 16, 0] = 1.0
    assert float(blur(image, 20.0, FOV)[0, :, 16:].abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda r: nxcorr(torch.full((1, 64, 64), 0.1), r.float()), "images holds a constant"),
        (lambda r: nxcorr(r, r[:32]), "reference must have shape"),
        (lambda r: nxcorr(torch.ones(2, 2, 64, 64), r), "images must be floating"),
        (lambda r: nxcorr(r * torch.nan, r), "images must be finite"),
        (lambda r: blur(r, -1.0, FOV), "fwhm_uas must be at least 0"),
        (lambda r: blur(r, 1.0, 0.0), "fov_uas must be positive"),
    ],
)
def test_bad_input_is_refused(ring, call, text):
    with pytest.raises(ValueError, match=text):
        call(ring)
