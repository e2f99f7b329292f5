"""SA-Solver's weights against closed forms."""

import math

import pytest

from sciinstruct.diffusion.solvers.sa_weights import adams_weights, plan, simple_weights

CASES = [(h, tau) for h in (0.05, 0.4, 1.0, 3.0) for tau in (0.0, 0.5, 1.0, 2.0)]
NODES = {1: [0.0], 2: [0.0, -0.7], 3: [0.0, -0.7, -1.6], 4: [0.0, -0.7, -1.6, -2.0]}


@pytest.mark.parametrize("order", list(NODES))
@pytest.mark.parametrize("h, tau", CASES)
def test_weights_sum_to_the_exact_total(h, tau, order):
    total = -math.expm1(-(1 + tau**2) * h)
    assert math.isclose(sum(adams_weights(NODES[order], h, tau)), total, rel_tol=0, abs_tol=1e-12)
    with_corrector = [h, *NODES[order][:-1]]
    assert math.isclose(sum(adams_weights(with_corrector, h, tau)), total, rel_tol=0, abs_tol=1e-12)


@pytest.mark.parametrize("h, tau", CASES)
def test_order_2_closed_form(h, tau):
    a = 1 + tau**2
    total, first_moment = -math.expm1(-a * h), h + math.expm1(-a * h) / a
    newest, older = adams_weights([0.0, -0.7], h, tau)
    assert math.isclose(older, -first_moment / 0.7, rel_tol=0, abs_tol=1e-12)
    assert math.isclose(newest, total + first_moment / 0.7, rel_tol=0, abs_tol=1e-12)


@pytest.mark.parametrize("order", list(NODES))
@pytest.mark.parametrize("h, tau", [(h, tau) for h, tau in CASES if h >= 0.4])
def test_weights_are_exact_for_polynomials_below_the_order(h, tau, order):
    a = 1 + tau**2
    weights = adams_weights(NODES[order], h, tau)
    moment = -math.expm1(-a * h)  # integral of a exp(-a (h - u)) u^m over the step, by parts from m = 0
    for m in range(order):
        if m:
            moment = h**m - m / a * moment
        got = sum(w * node**m for w, node in zip(weights, NODES[order]))
        assert math.isclose(got, moment, rel_tol=0, abs_tol=1e-11)


def test_simple_order_2_differs_from_the_exact_integral_by_the_cube_of_the_step():
    gaps = []
    for h in (0.02, 0.01):
        exact, simple = adams_weights([0.0, -1.0], h, 0.5), simple_weights([0.0, -1.0], h, 0.5)
        assert math.isclose(sum(simple), sum(exact), rel_tol=1e-12)
        gaps.append(abs(simple[1] - exact[1]))
    assert abs(math.log2(gaps[0] / gaps[1]) - 3) < 0.05


def test_orders_rise_at_the_start_and_fall_at_the_end():
    steps = plan((16.0, 8.0, 4.0, 2.0, 1.0, 0.5), (0.0,) * 5, 3, 3, False)
    assert [len(step.predictor) for step in steps] == [1, 2, 3, 2, 1]
    assert [len(step.corrector) for step in steps] == [2, 3, 3, 3, 2]


def test_decay_and_noise_keep_unit_variance_of_pure_noise():
    step = plan((4.0, 1.0), (0.8,), 1, 0, False)[0]
    assert math.isclose((step.decay * 4.0) ** 2 + step.noise**2, 1.0, rel_tol=1e-12)
