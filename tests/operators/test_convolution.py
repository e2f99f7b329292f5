"""Convolutions: the matrix of every boundary against scipy, kernels of odd and even sides, bad input."""

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from sciinstruct.core.likelihood import Likelihood
from sciinstruct.core.operator import dot_test
from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.kernels import gaussian_kernel
from sciinstruct.priors.exact import circulant_posterior, dense_posterior
from sciinstruct.priors.field import GaussianField, matern

BOUNDARIES = ["circular", "reflect", "replicate", "zero", "valid"]
SCIPY = {"circular": "wrap", "reflect": "reflect", "replicate": "nearest", "zero": "constant"}
SIDES = [(3, 5), (4, 2), (1, 6), (7, 6), (7, 7)]


def _psf(kh, kw):
    return torch.rand(kh, kw, generator=torch.Generator().manual_seed(kh * 10 + kw), dtype=torch.float64)


def _scipy(image, psf, boundary):
    kernel = (psf / psf.sum()).numpy()
    if boundary == "valid":
        return signal.convolve2d(image, kernel, mode="valid")
    return ndimage.convolve(image, kernel, mode=SCIPY[boundary])


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("sides", SIDES)
def test_the_matrix_is_scipys_and_the_adjoint_its_transpose(boundary, sides):
    psf = _psf(*sides)
    op = Convolution(psf, (7, 8), boundary)
    matrix = op.to_dense()
    eye = np.eye(56).reshape(56, 7, 8)
    expected = torch.from_numpy(np.stack([_scipy(image, psf, boundary).ravel() for image in eye], 1))
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-14)
    m = torch.Size(op.range_shape).numel()
    back = op.adjoint(torch.eye(m, dtype=torch.float64).reshape(m, *op.range_shape))
    torch.testing.assert_close(back.flatten(1), matrix, rtol=0, atol=1e-14)


def test_transfer_is_the_spectrum_of_the_circular_matrix():
    op = Convolution(_psf(4, 5), (6, 7))
    wave = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.fft.ifft2(torch.fft.fft2(wave) * op.transfer).real
    torch.testing.assert_close(op(wave), expected, rtol=0, atol=1e-14)
    assert abs(op.transfer[0, 0] - 1) < 1e-14
    assert not hasattr(Convolution(_psf(4, 5), (6, 7), "zero"), "transfer")


def test_a_gaussian_kernel_is_the_gaussian_blur(generator):
    """Sampled against analytic transfer: they differ by the alias beyond Nyquist, 2 exp(-2 pi^2 sigma^2 / 4) < 1e-8."""
    x = torch.rand(2, 3, 40, 31, generator=generator, dtype=torch.float64)
    ours = Convolution(gaussian_kernel(2.0, side=31), (3, 40, 31))(x)
    torch.testing.assert_close(ours, GaussianBlur(2.0, (3, 40, 31))(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
def test_a_symmetric_kernel_keeps_the_flux(boundary, generator):
    x = torch.rand(1, 1, 20, 16, generator=generator, dtype=torch.float64)
    y = Convolution(gaussian_kernel(1.5), (20, 16), boundary)(x)
    torch.testing.assert_close(y.sum(), x.sum())


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "valid", "circular"])
def test_a_constant_stays(boundary):
    y = Convolution(_psf(4, 7), (9, 8), boundary)(torch.full((1, 1, 9, 8), 3.0, dtype=torch.float64))
    torch.testing.assert_close(y, torch.full_like(y, 3.0), rtol=0, atol=1e-13)


def test_a_delta_copies_the_image_and_valid_cuts_its_middle(generator):
    x = torch.rand(1, 1, 6, 9, generator=generator, dtype=torch.float64)
    psf = torch.zeros(4, 3, dtype=torch.float64)
    psf[2, 1] = 7.0
    for boundary in BOUNDARIES[:-1]:
        torch.testing.assert_close(Convolution(psf, (6, 9), boundary)(x), x, rtol=0, atol=1e-14)
    torch.testing.assert_close(Convolution(psf, (6, 9), "valid")(x), x[..., 1:4, 1:8], rtol=0, atol=1e-14)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_large_images_pass_the_dot_test(boundary, generator):
    assert dot_test(Convolution(_psf(31, 40), (2, 97, 101), boundary), generator) < 1e-12


@pytest.mark.parametrize(
    ("psf", "error", "words"),
    [
        (torch.ones(3, 3, dtype=torch.int64), TypeError, "floating"),
        (torch.ones(3), ValueError, "two axes"),
        (torch.ones(2, 3, 3), ValueError, "two axes"),
        (torch.ones(9, 3), ValueError, "larger than the image"),
        (-torch.ones(3, 3), ValueError, "positive sum"),
        (torch.zeros(3, 3), ValueError, "positive sum"),
        (torch.tensor([[1.0, float("nan")]]), ValueError, "finite"),
    ],
)
def test_bad_kernels_are_refused(psf, error, words):
    with pytest.raises(error, match=words):
        Convolution(psf, (8, 8))


def test_unknown_boundaries_and_shapes_are_refused():
    with pytest.raises(ValueError, match="boundary must be one of"):
        Convolution(torch.ones(3, 3), (8, 8), "periodic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_shape"):
        Convolution(torch.ones(3, 3), (8,))


def test_the_exact_posterior_of_a_lopsided_blur_is_diagonal(generator):
    """The complex transfer function of a kernel without symmetry, in Fourier space and as a dense matrix."""
    prior = GaussianField(matern((6, 5), 2.0))
    op = Convolution(_psf(4, 3), (6, 5))
    y = torch.randn(1, 6, 5, generator=generator, dtype=torch.float64)
    likelihood = Likelihood(op, 0.3, y)
    fourier, dense = circulant_posterior(prior, likelihood), dense_posterior(prior, likelihood)
    torch.testing.assert_close(fourier.mean, dense.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(fourier.std, dense.std, rtol=0, atol=1e-10)
