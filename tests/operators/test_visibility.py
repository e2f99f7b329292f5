"""Visibilities: the sum itself, symmetries, backends."""

import math

import pytest
import torch

from sciinstruct.operators.interferometry.observation import MICROARCSECOND as UAS
from sciinstruct.operators.interferometry.visibility import VisibilityOperator


def random_uv(m, generator, longest=8e9):
    return longest * (2 * torch.rand(2, m, generator=generator, dtype=torch.float64) - 1)


def direct_sum(image, u, v, fov_uas, pulse):
    """The definition, term by term."""
    n = image.shape[-1]
    p = fov_uas / n * UAS
    result = torch.zeros(len(u), dtype=torch.complex128)
    for i in range(n):
        for j in range(n):
            x, y = ((n - 1) / 2 - j) * p, ((n - 1) / 2 - i) * p
            result += image[i, j] * torch.exp(2j * math.pi * (u * x + v * y))
    sinc = lambda t: torch.sin(math.pi * t) / (math.pi * t)
    return result * (sinc(p * u) * sinc(p * v)) ** {"average": -1, "delta": 0, "rect": 1, "triangle": 2}[pulse]


@pytest.mark.parametrize("backend", ["dense", "nufft"])
@pytest.mark.parametrize("npix", [8, 7])
@pytest.mark.parametrize("pulse", ["average", "delta", "rect", "triangle"])
def test_equals_the_direct_sum(backend, npix, pulse, generator):
    u, v = random_uv(30, generator, 5e9)
    x = torch.rand(1, 1, npix, npix, generator=generator, dtype=torch.float64)
    expected = direct_sum(x[0, 0], u, v, 160.0, pulse)
    got = VisibilityOperator(u, v, npix, 160.0, pulse, backend)(x)[0]
    assert (got - expected).abs().max() < 1e-11 * expected.abs().max()


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-11), (torch.float32, 3e-6)])
def test_nufft_and_dense_agree_to_the_stated_error(dtype, bound, generator):
    u, v = random_uv(500, generator)
    x = torch.rand(3, 1, 64, 64, generator=generator, dtype=torch.float64)
    exact = VisibilityOperator(u, v, 64, 160.0, backend="dense")(x)
    fast = VisibilityOperator(u, v, 64, 160.0, backend="nufft")(x.to(dtype))
    assert fast.real.dtype == dtype
    assert (fast - exact).abs().max() < bound * exact.abs().max()


def test_float32_dense_error_is_rounding_only(generator):
    u, v = random_uv(200, generator)
    x = torch.rand(2, 1, 32, 32, generator=generator, dtype=torch.float64)
    op = VisibilityOperator(u, v, 32, 128.0).float()
    assert (op(x.float()) - op(x)).abs().max() < 3e-7 * op(x).abs().max()


@pytest.mark.parametrize("backend", ["dense", "nufft"])
def test_reversed_baseline_is_the_conjugate(backend, generator):
    u, v = random_uv(40, generator)
    x = torch.randn(2, 1, 16, 16, generator=generator, dtype=torch.float64)
    there, back = (VisibilityOperator(s * u, s * v, 16, 100.0, backend=backend)(x) for s in (1, -1))
    torch.testing.assert_close(back, there.conj(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["dense", "nufft"])
def test_shift_theorem_east_is_left_and_north_is_up(backend, generator):
    u, v = random_uv(40, generator)
    x = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    x[..., 6:14, 6:14] = torch.rand(8, 8, generator=generator, dtype=torch.float64)
    op = VisibilityOperator(u, v, 20, 100.0, backend=backend)
    pixel = 100.0 / 20 * UAS
    east, north = 2 * pixel, 3 * pixel
    moved = x.roll((-3, -2), (-2, -1))
    phase = torch.exp(2j * math.pi * (u * east + v * north))
    torch.testing.assert_close(op(moved), op(x) * phase, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["dense", "nufft"])
def test_zero_baseline_is_the_total_flux(backend, generator):
    x = torch.rand(3, 1, 12, 12, generator=generator, dtype=torch.float64)
    op = VisibilityOperator(torch.zeros(1), torch.zeros(1), 12, 100.0, backend=backend)
    torch.testing.assert_close(op(x)[:, 0].real, x.sum((1, 2, 3)), rtol=1e-11, atol=0)


def test_gaussian_source_has_its_analytic_transform():
    u, v = random_uv(100, torch.Generator().manual_seed(2), 5e9)
    n, fov, fwhm = 128, 400.0, 50.0
    grid = ((n - 1) / 2 - torch.arange(n, dtype=torch.float64)) * fov / n
    sky = torch.exp(-4 * math.log(2) * (grid[:, None] ** 2 + grid**2) / fwhm**2)
    sky = (sky / sky.sum()).reshape(1, 1, n, n)
    rho = torch.hypot(u, v)
    analytic = torch.exp(-((math.pi * fwhm * UAS * rho) ** 2) / (4 * math.log(2)))
    got = VisibilityOperator(u, v, n, fov, "delta")(sky)[0]
    assert (got - analytic).abs().max() < 1e-10


def test_auto_switches_to_nufft_where_the_matrix_is_large():
    u = torch.linspace(1, 2, 2000)
    assert VisibilityOperator(u, u, 32, 100.0).backend == "dense"
    assert VisibilityOperator(u, u, 64, 100.0).backend == "nufft"


@pytest.mark.parametrize("backend", ["dense", "nufft"])
def test_gradients_to_second_order(backend, generator):
    u, v = random_uv(5, generator)
    op = VisibilityOperator(u, v, 4, 100.0, backend=backend)
    x = torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    energy = lambda z: op(z).abs().pow(3).sum()
    assert torch.autograd.gradcheck(energy, x)
    assert torch.autograd.gradgradcheck(energy, x)


@pytest.mark.parametrize("backend", ["dense", "nufft"])
def test_survives_functional_transforms(backend, generator):
    u, v = random_uv(9, generator)
    op = VisibilityOperator(u, v, 6, 100.0, backend=backend)
    x = torch.randn(3, 1, 6, 6, generator=generator, dtype=torch.float64)
    energy = lambda z: op(z[None]).abs().square().sum()
    per_row = torch.func.vmap(torch.func.grad(energy))(x)
    torch.testing.assert_close(per_row, 2 * op.adjoint(op(x)), rtol=1e-10, atol=1e-10)


def test_dirty_beam_peaks_at_one_in_the_centre_and_its_shape_is_the_curvature(generator):
    u, v = random_uv(200, generator)
    op = VisibilityOperator(u, 0.5 * v, 101, 101.0, "delta")
    beam = op.dirty_beam()[0, 0]
    assert beam[50, 50] == pytest.approx(1, abs=1e-12) and beam.max() == beam[50, 50]
    major, minor, angle = op.beam_shape()
    sigma_x = (-2 * torch.log((beam[50, 51] + beam[50, 49]) / 2)) ** -0.5 * 2.354820045
    sigma_y = (-2 * torch.log((beam[51, 50] + beam[49, 50]) / 2)) ** -0.5 * 2.354820045
    assert float(sigma_x) == pytest.approx(minor, rel=0.03) and float(sigma_y) == pytest.approx(major, rel=0.03)
    assert min(angle, 180 - angle) < 10


def test_dirty_image_of_a_point_is_the_beam(generator):
    u, v = random_uv(50, generator)
    weights = torch.rand(50, generator=generator, dtype=torch.float64)
    op = VisibilityOperator(u, v, 15, 100.0, "delta")
    x = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    x[..., 7, 7] = 0.3
    torch.testing.assert_close(op.dirty_image(op(x), weights), 0.3 * op.dirty_beam(weights))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"u": torch.ones(4)}, "one length"),
        ({"u": torch.tensor([1.0, float("nan"), 0.0])}, "finite"),
        ({"fov_uas": -1.0}, "fov_uas"),
        ({"pulse": "disc"}, "pulse"),
        ({"pulse": "average", "u": torch.full((3,), 4e11)}, "0.8 fringes"),
        ({"backend": "fast"}, "backend"),
    ],
)
def test_bad_arguments_are_named(change, word):
    good = {"u": torch.ones(3), "v": torch.ones(3), "npix": 4, "fov_uas": 10.0}
    with pytest.raises(ValueError, match=word):
        VisibilityOperator(**(good | change))


def test_wrong_image_shape_is_refused():
    op = VisibilityOperator(torch.ones(3), torch.ones(3), 4, 10.0)
    with pytest.raises(ValueError, match="x must have shape"):
        op(torch.ones(1, 1, 5, 5))
