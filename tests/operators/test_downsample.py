"""Block averages: exact answers on small images."""

import pytest
import torch

from sciinstruct.operators.downsample import Downsample


def test_averages_of_blocks():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Downsample(2, (4, 4))(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


@pytest.mark.parametrize(("factor", "shape"), [(1, (3, 5)), (2, (4, 6)), (3, (2, 9, 6))])
def test_every_datum_is_the_mean_of_its_block(factor, shape, generator):
    op = Downsample(factor, shape)
    x = torch.randn(3, *op.domain_shape, generator=generator, dtype=torch.float64)
    y = op(x)
    assert y.shape == (3, *op.range_shape)
    for i in range(y.shape[-2]):
        for j in range(y.shape[-1]):
            block = x[..., factor * i : factor * (i + 1), factor * j : factor * (j + 1)]
            torch.testing.assert_close(y[..., i, j], block.mean((-2, -1)), rtol=0, atol=1e-14)


def test_the_adjoint_is_the_pseudo_inverse_up_to_the_block_area(generator):
    op = Downsample(4, (8, 12))
    y = torch.randn(2, *op.range_shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(op(16 * op.adjoint(y)), y, rtol=0, atol=1e-14)


def test_factors_multiply(generator):
    x = torch.randn(1, 1, 12, 24, generator=generator, dtype=torch.float64)
    twice = (Downsample(3, (6, 12)) @ Downsample(2, (12, 24)))(x)
    torch.testing.assert_close(twice, Downsample(6, (12, 24))(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("factor", "shape"), [(3, (4, 6)), (0, (4, 4)), (2, (4,))])
def test_bad_arguments(factor, shape):
    with pytest.raises(ValueError, match="factor|image_shape"):
        Downsample(factor, shape)
