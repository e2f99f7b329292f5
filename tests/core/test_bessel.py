"""Bessel functions against SciPy, and their derivative identities."""

import pytest
import torch

from sciinstruct.core.bessel import bessel_i_ratios, bessel_j


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_bessel_j_equals_scipy(order):
    from scipy.special import jv

    x = torch.linspace(-20, 150, 1001, dtype=torch.float64)
    torch.testing.assert_close(bessel_j(order, x), torch.as_tensor(jv(order, x.numpy())), atol=1e-13, rtol=0)


def test_derivative_of_bessel_j0_is_minus_j1():
    x = torch.linspace(0, 30, 101, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bessel_j(0, x).sum(), x)
    torch.testing.assert_close(slope, -bessel_j(1, x.detach()), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-11), (torch.float32, 2e-6)])
def test_bessel_i_ratios_equal_scipy(dtype, rtol):
    from scipy.special import ive

    z = torch.logspace(-6, 4, 501, dtype=dtype)
    for k, ratio in enumerate(bessel_i_ratios(5, z), start=1):
        exact = torch.as_tensor(ive(k, z.double().numpy()) / ive(k - 1, z.double().numpy()))
        torch.testing.assert_close(ratio.double(), exact, rtol=rtol, atol=0)
