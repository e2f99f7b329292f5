"""Richardson-Lucy and Wiener: reference library, properties of the iteration, closed forms."""

import math

import pytest
import torch

from sciinstruct.operators.blur import GaussianBlur
from sciinstruct.operators.downsample import Downsample
from sciinstruct.operators.mask import PixelMask
from sciinstruct.operators.microscopy.deconvolution import richardson_lucy, wiener

SIDE = 32


def scene(generator, n=1, photons=300.0):
    """Sparse points and their noisy image through a periodic blur."""
    points = (torch.rand(n, 1, SIDE, SIDE, generator=generator, dtype=torch.float64) > 0.95) * photons
    blur = GaussianBlur(1.5, (SIDE, SIDE))
    return points, blur, torch.poisson(blur(points).clamp(min=0) + 2, generator=generator)


def log_likelihood(y, rate):
    return (y * rate.log() - rate).flatten(1).sum(1)


def test_equals_skimage_on_a_circular_blur(generator):
    """skimage convolves with a zero boundary, so both see an image whose edges are empty."""
    from skimage.restoration import richardson_lucy as reference

    x = torch.zeros(1, 1, 65, 65, dtype=torch.float64)
    x[0, 0, 28:36, 30:34] = 100 * torch.rand(8, 4, generator=generator, dtype=torch.float64)
    blur = GaussianBlur(1.5, (65, 65))
    y = blur(x).clamp(min=0)
    point = torch.zeros_like(x)
    point[0, 0, 32, 32] = 1
    psf = blur(point)[0, 0, 20:45, 20:45].clamp(min=0)
    expected = reference(y[0, 0].numpy(), psf.numpy() / float(psf.sum()), num_iter=20, clip=False, filter_epsilon=1e-13)
    ours = richardson_lucy(y, blur, iterations=20, start=torch.full_like(y, 0.5))
    inside = (..., slice(20, 45), slice(20, 45))
    worst = (ours[0, 0][inside] - torch.from_numpy(expected)[inside]).abs().max()
    assert float(worst) < 1e-4 * float(expected.max())


def test_likelihood_never_falls_and_flux_stays(generator):
    _, blur, y = scene(generator, 3)
    values, fluxes = [], []

    def watch(step, x):
        assert (x >= 0).all() and step == len(values) + 1
        values.append(log_likelihood(y, blur(x).clamp(min=1e-12)))
        fluxes.append(x.sum((1, 2, 3)))

    richardson_lucy(y, blur, iterations=60, callback=watch)
    assert (torch.stack(values).diff(dim=0) > -1e-9).all()
    torch.testing.assert_close(torch.stack(fluxes), y.sum((1, 2, 3)).expand(60, 3))


@pytest.mark.parametrize("kind", ["down-sampling", "mask", "background map"])
def test_likelihood_never_falls_through_any_operator(kind, generator):
    points, blur, _ = scene(generator, 2)
    background = 3.0
    if kind == "mask":
        operator = PixelMask(torch.rand(SIDE, SIDE, generator=generator) > 0.3) @ blur
    elif kind == "down-sampling":
        operator = Downsample(2, (SIDE, SIDE)) @ blur
    else:
        operator, background = blur, torch.rand(SIDE, SIDE, generator=generator, dtype=torch.float64) + 1
    y = torch.poisson(operator(points).clamp(min=0) + background, generator=generator)
    values = []
    richardson_lucy(
        y, operator, iterations=40, background=background,
        callback=lambda _, x: values.append(log_likelihood(y, operator(x) + background)),
    )  # fmt: skip
    assert (torch.stack(values).diff(dim=0) > -1e-9).all()


def test_a_fixed_point_stays(generator):
    """Data without noise are reproduced by the truth, which no update moves."""
    points, blur, _ = scene(generator)
    x = points + 1
    found = richardson_lucy(blur(x) + 4, blur, iterations=5, background=4.0, start=x)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=0)


def test_background_is_taken_out(generator):
    """The flux found is that of the points, as near as noise lets it be."""
    points, blur, y = scene(generator)
    found = richardson_lucy(y, blur, iterations=200, background=2.0)
    truth = float(points.sum())
    assert float(found.sum()) == pytest.approx(truth, abs=4 * math.sqrt(float(y.sum())) + 0.02 * truth)


def test_rows_of_a_batch_do_not_see_each_other(generator):
    _, blur, y = scene(generator, 3)
    together = richardson_lucy(y, blur, iterations=10, total_variation=0.01)
    alone = torch.cat([richardson_lucy(row[None], blur, iterations=10, total_variation=0.01) for row in y])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_total_variation_beats_plain_iterations_on_flat_pieces(generator):
    x = torch.full((1, 1, SIDE, SIDE), 20.0, dtype=torch.float64)
    x[..., 8:24, 8:24] = 60
    blur = GaussianBlur(1.5, (SIDE, SIDE))
    y = torch.poisson(blur(x), generator=generator)
    plain, flat = (richardson_lucy(y, blur, iterations=100, total_variation=w) for w in (0.0, 0.02))
    assert (flat >= 0).all() and torch.isfinite(flat).all()
    assert float((flat - x).square().mean()) < 0.5 * float((plain - x).square().mean())


def test_pixels_nobody_sees_keep_their_start(generator):
    mask = torch.ones(SIDE, SIDE, dtype=torch.bool)
    mask[:4] = False
    operator = PixelMask(mask)
    y = torch.poisson(torch.full((1, *operator.range_shape), 9.0, dtype=torch.float64), generator=generator)
    found = richardson_lucy(y, operator, iterations=3)
    assert torch.equal(operator(found), y) and torch.isfinite(found).all()


def test_dark_data_give_a_dark_image():
    blur = GaussianBlur(1.5, (SIDE, SIDE))
    found = richardson_lucy(torch.zeros(1, 1, SIDE, SIDE), blur, iterations=3, background=1.0)
    assert found.abs().max() == 0


@pytest.mark.parametrize(
    "change, says",
    [
        ({"y": torch.full((1, 1, 8, 8), -1.0)}, "y must be zero or more"),
        ({"y": torch.full((1, 1, 8, 8), float("nan"))}, "y must be finite"),
        ({"y": torch.ones(1, 1, 8, 9)}, "y must have shape"),
        ({"iterations": 0}, "iterations must be 1 or more"),
        ({"background": -1.0}, "background must be zero or more"),
        ({"total_variation": -0.1}, "total_variation must be zero or more"),
        ({"start": torch.ones(1, 1, 9, 9)}, "start must have shape"),
    ],
)
def test_bad_arguments_are_refused(change, says):
    arguments = {"y": torch.ones(1, 1, 8, 8), "operator": GaussianBlur(1.0, (8, 8)), "iterations": 3} | change
    with pytest.raises(ValueError, match=says):
        richardson_lucy(**arguments)


def test_wiener_is_the_posterior_mean_of_a_stationary_field(generator):
    """White scene of unit variance, white noise: x = A^T (A A^T + s^2)^-1 y, by dense algebra."""
    blur, sigma = GaussianBlur(1.1, (8, 9)), 0.3
    y = torch.randn(2, 1, 8, 9, generator=generator, dtype=torch.float64)
    a = blur.to_dense()
    gram = a @ a.T + sigma**2 * torch.eye(72, dtype=torch.float64)
    expected = (a.T @ torch.linalg.solve(gram, y.flatten(1).T)).T.reshape(2, 1, 8, 9)
    torch.testing.assert_close(wiener(y, blur, noise_to_signal=sigma**2), expected)
    spectrum = torch.full((8, 9), sigma**2, dtype=torch.float64)
    torch.testing.assert_close(wiener(y, blur, noise_to_signal=spectrum), expected)


def test_wiener_refuses_what_is_no_periodic_blur():
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[0, 0] = False
    for operator in (PixelMask(mask), Downsample(2, (8, 8))):
        with pytest.raises(ValueError, match="periodic convolution"):
            wiener(torch.ones(1, *operator.range_shape), operator, noise_to_signal=0.1)
    with pytest.raises(ValueError, match="noise_to_signal must be positive"):
        wiener(torch.ones(1, 1, 8, 8), GaussianBlur(1.0, (8, 8)), noise_to_signal=0.0)
