"""Bessel functions against SciPy, and their derivative identities."""

import pytest
import torch

from sciinstruct.core.bessel import bessel_i_ratios, bessel_j, bessel_j01


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


def test_the_quick_pair_equals_the_integrals_and_can_be_differentiated_twice():
    x = torch.linspace(-20, 60, 801, dtype=torch.float64)
    for k, found in enumerate(bessel_j01(x)):
        torch.testing.assert_close(found, bessel_j(k, x), atol=6e-7, rtol=0)
    few = torch.tensor([0.0, 0.3, 2.0, 17.0], dtype=torch.float64, requires_grad=True)
    for k in (0, 1):
        assert torch.autograd.gradcheck(lambda z, k=k: bessel_j01(z)[k], few)
    away = few.detach()[1:].requires_grad_()
    for k in (0, 1):
        assert torch.autograd.gradgradcheck(lambda z, k=k: bessel_j01(z)[k], away)
