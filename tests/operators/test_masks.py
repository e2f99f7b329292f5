"""Mask patterns, and masks that keep the image's shape: what they keep, and what noise and chi-square count."""

import pytest
import torch

from sciinstruct.core.likelihood import Likelihood
from sciinstruct.core.noise import GaussianNoise
from sciinstruct.operators.image_mask import ImageMask, MaskedGaussianNoise
from sciinstruct.operators.mask import PixelMask
from sciinstruct.operators.masks import box_mask, random_mask, stripe_mask


def test_box_is_centred_and_missing():
    mask = box_mask((5, 6), (1, 2))
    assert mask.dtype == torch.bool and (~mask).nonzero().tolist() == [[2, 2], [2, 3]]
    assert (~box_mask((5, 6), (2, 1), (3, 5))).nonzero().tolist() == [[3, 5], [4, 5]]


def test_random_boxes_are_whole_and_reach_every_place(generator):
    masks = box_mask((400, 1, 4, 5), (2, 3), generator=generator)
    assert ((~masks).sum((1, 2, 3)) == 6).all()
    corners = {tuple(m[0].logical_not().nonzero()[0].tolist()) for m in masks}
    assert corners == {(r, c) for r in range(3) for c in range(3)}


def test_random_masks_keep_a_fixed_number_of_changing_pixels(generator):
    masks = random_mask((2000, 1, 4, 5), 0.3, generator)
    assert (masks.sum((1, 2, 3)) == 6).all()
    share = masks.double().mean(0)  # each pixel is kept with probability 0.3: 4.5 standard errors for 20 pixels
    assert (share - 0.3).abs().max() < 4.5 * (0.3 * 0.7 / 2000) ** 0.5
    assert random_mask((7, 3), 1e-9, generator).sum() == 1 and random_mask((7, 3), 1.0, generator).all()


def test_stripes():
    assert stripe_mask((5, 2), 3, 1)[:, 0].tolist() == [True, False, False, True, False]
    assert stripe_mask((2, 5), 3, 2, offset=1, columns=True)[1].tolist() == [False, True, True, False, True]
    assert stripe_mask((3, 2, 6, 4), 2, 1).shape == (3, 2, 6, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: box_mask((4, 4), (4, 4)), "box"),
        (lambda: box_mask((4, 4), (0, 2)), "box"),
        (lambda: box_mask((4, 4), (5, 1)), "box"),
        (lambda: box_mask((4, 4), (2, 2), (3, 0)), "corner"),
        (lambda: box_mask((4, 4), (2, 2), (0, 0), generator=torch.Generator()), "corner or a generator"),
        (lambda: box_mask((4,), (2, 2)), "image_shape"),
        (lambda: random_mask((4, 4), 0.0), "fraction"),
        (lambda: random_mask((4, 4), float("nan")), "fraction"),
        (lambda: random_mask((0, 4), 0.5), "image_shape"),
        (lambda: stripe_mask((4, 4), 2, 2), "measured"),
        (lambda: stripe_mask((4, 9), 5, 1), "period"),
    ],
)
def test_bad_patterns_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_every_image_of_a_batch_has_its_own_mask(generator):
    masks = random_mask((3, 2, 4, 5), 0.5, generator)
    x = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    op = ImageMask(masks)
    assert torch.equal(op(x), x * masks) and torch.equal(op.adjoint(x), x * masks)
    several = torch.randn(7, 3, 2, 4, 5, generator=generator)
    assert torch.equal(op(several), several * masks)
    with pytest.raises(ValueError, match="batches of 3"):
        op(x[:2])


def test_missing_pixels_may_hold_anything():
    mask = torch.tensor([[True, False]])
    x = torch.tensor([1.0, float("nan")]).reshape(1, 1, 1, 2)
    assert ImageMask(mask)(x).tolist() == [[[[1.0, 0.0]]]]


def test_density_and_chi_square_are_those_of_the_measured_pixels(generator):
    """Against the same data without their missing pixels; sigma varies from pixel to pixel."""
    masks = random_mask((2, 1, 5, 4), 0.4, generator)
    sigma = 0.5 + torch.rand(1, 5, 4, generator=generator, dtype=torch.float64)
    x, y = torch.randn(2, 2, 1, 5, 4, generator=generator, dtype=torch.float64)
    law, op = MaskedGaussianNoise(sigma, masks), ImageMask(masks)
    log_prob, residuals = law.log_prob(op(y), op(x)), law.whiten(op(y), op(x))
    for i, mask in enumerate(masks):
        small = PixelMask(mask)
        exact = GaussianNoise(small(sigma[None])[0])
        torch.testing.assert_close(log_prob[i : i + 1], exact.log_prob(small(y[i : i + 1]), small(x[i : i + 1])))
        chi2 = exact.whiten(small(y[i : i + 1]), small(x[i : i + 1])).square().sum()
        torch.testing.assert_close(residuals[i].square().sum(), chi2)
    torch.testing.assert_close(1 / law.variance(op(x)), masks / sigma.square())


def test_one_mask_in_a_likelihood_counts_measured_pixels(generator):
    mask = random_mask((40, 40), 0.3, generator)
    truth = torch.rand(1, 1, 40, 40, generator=generator, dtype=torch.float64)
    blank = Likelihood(ImageMask(mask), MaskedGaussianNoise(0.2, mask), torch.zeros(1, 40, 40, dtype=torch.float64))
    seen = blank.simulate(truth, generator)
    assert (seen.y[0][~mask[None]] == 0).all()
    assert seen.residuals(truth).shape == (1, 480)
    assert abs(float(seen.chi2(truth)["data"]) - 1) < 4 * (2 / 480) ** 0.5
    torch.testing.assert_close(seen.score(truth), (seen.y - truth * mask) / 0.04)


@pytest.mark.parametrize("make", [ImageMask, lambda mask: MaskedGaussianNoise(1.0, mask)])
def test_bad_masks_are_refused(make):
    with pytest.raises(TypeError, match="bool"):
        make(torch.ones(3, 3))
    with pytest.raises(ValueError, match="keeps no pixel of 1 of 1"):
        make(torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="keeps no pixel of 1 of 2"):
        make(torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)]) > 0)
    with pytest.raises(ValueError, match="shape"):
        make(torch.ones(3, dtype=torch.bool))
