"""Masks and blurs: exact answers on small images."""

import math

import pytest
import torch

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.mask import PixelMask


def test_mask_keeps_the_named_pixels_in_order():
    mask = torch.tensor([[True, False, True], [False, True, False]])
    y = PixelMask(mask)(torch.arange(12.0).reshape(2, 1, 2, 3))
    assert y.tolist() == [[0, 2, 4], [6, 8, 10]]


def test_mask_adjoint_is_its_pseudo_inverse(generator):
    op = PixelMask(torch.rand(2, 5, 4, generator=generator) > 0.5)
    y = torch.randn(3, *op.range_shape, generator=generator)
    assert torch.equal(op(op.adjoint(y)), y)


@pytest.mark.parametrize("mask", [torch.zeros(3, 3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)])
def test_mask_rejects_bad_masks(mask):
    with pytest.raises(ValueError, match="mask"):
        PixelMask(mask)


def test_mask_rejects_numbers():
    with pytest.raises(TypeError, match="bool"):
        PixelMask(torch.ones(3, 3))


def test_blur_of_a_cosine_is_the_cosine_times_the_transfer():
    h, w, ky, kx, sigma = 12, 16, 2, 3, 1.3
    rows, columns = torch.arange(h, dtype=torch.float64)[:, None], torch.arange(w, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * (ky * rows / h + kx * columns / w)).reshape(1, 1, h, w)
    gain = math.exp(-2 * math.pi**2 * sigma**2 * ((ky / h) ** 2 + (kx / w) ** 2))
    torch.testing.assert_close(GaussianBlur(sigma, (h, w))(wave), gain * wave, rtol=0, atol=1e-14)


def test_blur_transfer_is_the_spectrum_of_the_matrix():
    op = GaussianBlur(0.8, (6, 5))
    eigenvalues = torch.linalg.eigvalsh(op.to_dense())
    torch.testing.assert_close(eigenvalues, op.transfer.flatten().sort().values, rtol=0, atol=1e-13)


def test_blurs_add_in_quadrature_and_keep_flux(generator):
    x = torch.rand(2, 3, 9, 8, generator=generator, dtype=torch.float64)
    twice = (GaussianBlur(0.6, (3, 9, 8)) @ GaussianBlur(0.8, (3, 9, 8)))(x)
    torch.testing.assert_close(twice, GaussianBlur(1.0, (3, 9, 8))(x), rtol=0, atol=1e-13)
    torch.testing.assert_close(twice.sum((-1, -2)), x.sum((-1, -2)))


def test_blur_matches_scipy_in_the_middle_of_a_wide_image():
    from scipy.ndimage import gaussian_filter

    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[0, 0, 20, 20] = 1
    expected = torch.from_numpy(gaussian_filter(x[0, 0].numpy(), 2.0, mode="wrap", truncate=8))
    torch.testing.assert_close(GaussianBlur(2.0, (41, 41))(x)[0, 0], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("sigma, shape", [(0.0, (4, 4)), (float("nan"), (4, 4)), (1.0, (4,))])
def test_blur_rejects_bad_arguments(sigma, shape):
    with pytest.raises(ValueError, match="sigma|image_shape"):
        GaussianBlur(sigma, shape)
