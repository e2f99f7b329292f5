"""Point-spread functions: sum, centre, widths, and the law of the camera's path."""

import math

import pytest
import torch

from sciinstruct.operators.kernels import box_kernel, disc_kernel, gaussian_kernel, motion_kernel


def _moments(kernel):
    """Centre (2,) and covariance (2, 2) of a kernel in pixels, y first."""
    axis = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    mean = grid @ kernel.flatten()
    away = grid - mean[:, None]
    return mean, (away * kernel.flatten()) @ away.T


def _motion(seed, length=30.0, intensity=0.5, side=61):
    return motion_kernel(length, intensity, side=side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "kernel",
    [gaussian_kernel(1.2), gaussian_kernel((2.0, 0.8), angle=0.3), disc_kernel(3.7), box_kernel(5), _motion(0)],
    ids=["gaussian", "anisotropic", "disc", "box", "motion"],
)
def test_kernels_are_centred_densities(kernel):
    assert kernel.shape[0] == kernel.shape[1] and len(kernel) % 2 == 1 and (kernel >= 0).all()
    assert abs(float(kernel.sum()) - 1) < 1e-12
    assert _moments(kernel)[0].abs().max() < 1e-10


def test_the_gaussian_has_its_covariance():
    """A turn by 30 degrees of variances 4 (y) and 1 (x); the truncation at 4 sigma takes 1e-3 of the variance."""
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    turn = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)  # (y, x): x towards y
    expected = turn @ torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)) @ turn.T
    measured = _moments(gaussian_kernel((2.0, 1.0), angle=math.pi / 6))[1]
    torch.testing.assert_close(measured, expected, rtol=0, atol=0.01)
    assert measured[0, 1] < 0  # the long axis, y, turns away from x


def test_disc_and_box_have_their_variance():
    """R^2 / 4 per axis for a disc, plus the soft edge's 1/12 to order 1; (n^2 - 1) / 12 for a box."""
    assert float(_moments(disc_kernel(8.0))[1][0, 0]) == pytest.approx(16, rel=0.02)
    assert float(_moments(box_kernel(7))[1][1, 1]) == pytest.approx(4, abs=1e-12)


def test_a_straight_path_is_a_line_of_its_length():
    """Uniform on a segment of length L: variance L^2 / 12 along it; bilinear weights add at most 1/4 per axis."""
    values = torch.linalg.eigvalsh(_moments(_motion(3, length=40.0, intensity=0.0))[1])
    assert float(values[0]) < 0.26
    assert float(values[1]) == pytest.approx(40**2 / 12, abs=0.26)


def _gyration(intensity, n=2000):
    """Expected trace of a path's covariance over its squared length, from the covariance of its headings."""
    u = torch.arange(n, dtype=torch.float64) / n
    turned = 2 * (2 * math.pi * intensity) ** 2 * 0.2 * (u - 0.2 * (1 - torch.exp(-u / 0.2)))  # variance of the turn
    cosine = torch.exp(-turned / 2)
    distance = 2 * (u * cosine.cumsum(0) / n - (u * cosine).cumsum(0) / n)  # mean squared, between points u apart
    return float(((1 - u) * distance).sum() / n)


@pytest.mark.parametrize("intensity", [0.3, 0.5, 1.5])
def test_paths_curl_up_as_their_law_says(intensity):
    """Mean squared radius over 200 paths; bilinear weights add 1/6 per axis on average."""
    radii = torch.stack([torch.trace(_moments(_motion(seed, intensity=intensity))[1]) for seed in range(200)])
    expected = 30**2 * _gyration(intensity) + 1 / 3
    assert abs(float(radii.mean()) - expected) < 4 * float(radii.std()) / 200**0.5 + 0.1


def test_any_path_fits_and_the_generator_decides():
    for seed in range(20):
        assert abs(float(_motion(seed, length=18.0, intensity=0.3, side=21).sum()) - 1) < 1e-12
    assert torch.equal(_motion(1), _motion(1)) and not torch.equal(_motion(1), _motion(2))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gaussian_kernel(0.0), "sigma"),
        (lambda: gaussian_kernel((1.0, float("nan"))), "sigma"),
        (lambda: gaussian_kernel(1.0, side=4), "side"),
        (lambda: disc_kernel(-1.0), "radius"),
        (lambda: box_kernel(2), "side"),
        (lambda: motion_kernel(60.0, side=61), "length"),
        (lambda: motion_kernel(10.0, -0.1), "intensity"),
        (lambda: motion_kernel(10.0, side=60), "side"),
    ],
)
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
