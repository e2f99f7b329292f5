"""Blur by tiles: where it is a convolution, what a source between tiles looks like, and the exact matrix."""

import pytest
import torch

from sciinstruct.core.operator import dot_test
from sciinstruct.operators.convolution import Convolution
from sciinstruct.operators.kernels import gaussian_kernel
from sciinstruct.operators.varying_blur import VaryingBlur

BOUNDARIES = ["circular", "reflect", "replicate", "zero", "valid"]


def _psfs(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_equal_tiles_are_one_convolution(boundary, generator):
    psf = _psfs(4, 3)
    x = torch.randn(2, 3, 11, 9, generator=generator, dtype=torch.float64)
    varying = VaryingBlur(psf.expand(3, 2, 4, 3), (3, 11, 9), boundary)
    one = Convolution(psf, (3, 11, 9), boundary)
    torch.testing.assert_close(varying(x), one(x), rtol=0, atol=1e-13)
    y = one(x)
    torch.testing.assert_close(varying.adjoint(y), one.adjoint(y), rtol=0, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_matrix_is_the_weighted_sum_of_the_tiles_matrices(boundary):
    """Two tiles of five rows: centres at rows 2 and 7, so row r of the source weighs (r - 2) / 5 for the second."""
    psfs = _psfs(2, 1, 3, 2)
    op = VaryingBlur(psfs, (10, 6), boundary)
    second = ((torch.arange(10, dtype=torch.float64) - 2) / 5).clamp(0, 1).repeat_interleave(6)
    first, other = (Convolution(psf[0], (10, 6), boundary).to_dense() for psf in psfs)
    expected = first * (1 - second) + other * second
    torch.testing.assert_close(op.to_dense(), expected, rtol=0, atol=1e-14)
    m = torch.Size(op.range_shape).numel()
    back = op.adjoint(torch.eye(m, dtype=torch.float64).reshape(m, *op.range_shape)).flatten(1)
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-14)


def test_a_source_at_a_tiles_centre_shows_that_tiles_psf():
    psfs = torch.stack([gaussian_kernel((1 + 0.3 * i, 1 + 0.2 * i), side=13) for i in range(9)]).reshape(3, 3, 13, 13)
    op = VaryingBlur(psfs, (63, 63), "zero")
    for i, j in [(0, 0), (1, 2), (2, 1)]:
        x = torch.zeros(1, 1, 63, 63, dtype=torch.float64)
        row, column = 10 + 21 * i, 10 + 21 * j
        x[0, 0, row, column] = 2.0
        seen = op(x)[0, 0, row - 6 : row + 7, column - 6 : column + 7]
        torch.testing.assert_close(seen, 2 * psfs[i, j], rtol=0, atol=1e-14)


def test_sources_away_from_the_edge_keep_their_flux(generator):
    x = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    x[..., 8:32, 8:32] = torch.rand(24, 24, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(VaryingBlur(_psfs(4, 3, 9, 8), (40, 40), "zero")(x).sum(), x.sum())


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_large_images_pass_the_dot_test(boundary, generator):
    assert dot_test(VaryingBlur(_psfs(3, 4, 15, 12), (97, 84), boundary), generator) < 1e-12


@pytest.mark.parametrize(
    ("psfs", "error", "words"),
    [
        (torch.ones(3, 3), ValueError, "ty, tx"),
        (torch.ones(2, 2, 3, 3, dtype=torch.int32), TypeError, "floating"),
        (torch.ones(2, 2, 9, 3), ValueError, "larger than the image"),
        (torch.ones(9, 1, 1, 1), ValueError, "tiles"),
        (torch.tensor([[[[1.0]], [[-1.0]]]]), ValueError, "positive sum"),
        (torch.tensor([[[[1.0]], [[float("inf")]]]]), ValueError, "finite"),
    ],
)
def test_bad_tiles_are_refused(psfs, error, words):
    with pytest.raises(error, match=words):
        VaryingBlur(psfs, (8, 8))
