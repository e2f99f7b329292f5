"""What every equation promises: matched data, self-tests, gradients, precision, errors at the door."""

import re

import pytest
import torch

from sciinstruct.core import EquationError, Likelihood
from sciinstruct.operators.pde import (
    Burgers,
    Darcy,
    Helmholtz,
    NavierStokes,
    Poisson,
    ResidualOperator,
    magnitude_rms,
    pde_error,
    pde_error_data,
    relative_residual,
    sample_errors,
    solve_gap,
    weak_error,
)
from sciinstruct.operators.pde.sine import weak_norm2

KINDS = {
    "poisson": Poisson,
    "helmholtz": Helmholtz,
    "darcy": Darcy,
    "darcy-arithmetic": lambda n=32, **more: Darcy(n, "arithmetic", **more),
    "burgers": lambda n=32, **more: Burgers(n, n, **more),
    "burgers-cn": lambda n=32, **more: Burgers(n, n, residual="cn", **more),
    "burgers-fd": lambda n=128, **more: Burgers(n, n, residual="fd", **more),
    "navier-stokes": NavierStokes,
}
EXACT = ["poisson", "helmholtz", "darcy", "darcy-arithmetic", "burgers"]


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def truth(equation, fields, generator, count=4):
    """True fields by the law of the published data."""
    n = equation.event_shape[-1]
    laws = {
        "darcy": lambda: Darcy.threshold(fields.cosine(count, n, generator) + 7.5),
        "burgers": lambda: fields.burgers(count, 20, generator)(n),
        "navier-stokes": lambda: fields.periodic(count, n, generator),
    }
    return equation.solve(laws.get(equation.name, lambda: fields.cosine(count, n, generator))())


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("n", [32, 64])
def test_data_of_the_reference_solver_have_no_residual(name, n, fields, generator):
    equation = KINDS[name](n)
    assert equation.residual(truth(equation, fields, generator)).abs().max() < 1e-10


@pytest.mark.parametrize("n", [32, 64])
def test_four_steps_of_flow_are_near_the_solvers_eight(n, fields, generator):
    """2.8e-5 relative to w over many fields; twice that relative to w(T) - w(0)."""
    equation = NavierStokes(n)
    x = truth(equation, fields, generator, 32)
    assert equation.residual(x).square().mean().sqrt() / x[:, 1].square().mean().sqrt() < 1e-4


def test_equal_steps_make_the_flow_map_exact(fields, generator):
    equation = NavierStokes(32, steps=6, residual_steps=6)
    assert pde_error(equation, truth(equation, fields, generator)) < 1e-13


def test_self_test_passes_on_own_and_given_data(kind, fields, generator):
    equation = kind()
    for found in (equation.self_test(), equation.self_test(truth(equation, fields, generator).float())):
        assert found.matched < 0.1 * min(found.perturbed, found.respaced)


def test_a_spacing_off_by_two_is_refused_before_anything_is_trained(kind, fields, generator):
    x = truth(kind(), fields, generator)
    with pytest.raises(EquationError, match="spacing"):
        kind(length=2.0).self_test(x)
    with pytest.raises(EquationError, match="spacing"):
        kind().respaced(2.0).self_test(x)


def test_burgers_of_another_duration_is_refused(fields, generator):
    x = truth(Burgers(), fields, generator)
    with pytest.raises(EquationError, match="spacing"):
        Burgers(duration=2.0).self_test(x)


def test_swapped_axes_and_normalised_fields_are_refused(fields, generator):
    x = truth(Burgers(), fields, generator)
    for wrong in (x.mT, x / 1.415 * 0.5 + 0.3):
        with pytest.raises(EquationError, match="own-scale error"):
            Burgers().self_test(wrong)
    x = truth(Poisson(), fields, generator)
    for wrong in (
        x.flip(1),
        x * torch.tensor([1 / 2.15, 36.5]).reshape(2, 1, 1),
        x * torch.tensor([-1.0, 1]).reshape(2, 1, 1),
    ):
        with pytest.raises(EquationError, match="own-scale error"):
            Poisson().self_test(wrong)


def test_second_differences_on_a_coarse_grid_cannot_tell_noise_from_truth(fields, generator):
    """Their own error on 32 x 32 is some 0.1: the self-test says so."""
    equation = Burgers(32, 32, residual="fd")
    with pytest.raises(EquationError):
        equation.self_test(truth(equation, fields, generator))


def rough(equation, generator, count=2):
    """Fields that solve nothing, near enough to the physical range."""
    x = torch.randn(count, *equation.event_shape, generator=generator, dtype=torch.float64)
    return x + 7.5 if equation.name == "darcy" else x


@pytest.mark.parametrize("mode", ["smaller", "batch", "data"])
def test_gradient_of_the_penalty_is_that_of_differences(kind, mode, generator):
    equation = kind(9)
    x = rough(equation, generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: relative_residual(equation, v, mode), (x,))


@pytest.mark.parametrize("name", ["poisson", "helmholtz", "darcy", "darcy-arithmetic"])
def test_gradient_of_the_weak_norm_is_that_of_differences(name, generator):
    equation = KINDS[name](9)
    x = rough(equation, generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: weak_norm2(equation.residual(v), equation.spacing), (x,))


def test_gradient_of_the_solver_is_that_of_differences(kind, generator):
    equation = kind(7)
    start = equation.coefficient(rough(equation, generator)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: equation.solve(v), (start,))


def test_penalty_and_solver_have_functional_gradients(kind, generator):
    """torch.func, which samplers use, sees the same as autograd."""
    equation = kind(9)
    x = rough(equation, generator)
    for function, point in ((lambda v: relative_residual(equation, v), x), (equation.solve, equation.coefficient(x))):
        value, pull = torch.func.vjp(function, point)
        leaf = point.clone().requires_grad_()
        (expected,) = torch.autograd.grad(function(leaf).sum(), leaf)
        torch.testing.assert_close(pull(torch.ones_like(value))[0], expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_gives_the_same(kind, generator):
    equation = kind()
    x = rough(equation, generator)
    far = x.cuda().requires_grad_()
    loss = relative_residual(equation, far)
    loss.backward()
    torch.testing.assert_close(loss.cpu(), relative_residual(equation, x))
    torch.testing.assert_close(equation.boundary(far).cpu(), equation.boundary(x))
    start = equation.coefficient(equation.impose_boundary(far)).detach()
    torch.testing.assert_close(equation.solve(start).cpu(), equation.solve(start.cpu()))


def test_penalty_scales(kind, generator):
    equation = kind()
    x = rough(equation, generator, 3)
    r2, m2 = equation.residual(x).square().mean(), equation.magnitude(x).square().mean()
    torch.testing.assert_close(relative_residual(equation, x), r2 / m2)
    torch.testing.assert_close(relative_residual(equation, x, "data"), r2 / equation.scale**2)
    for scale in (0.5 * float(m2.sqrt()), 2 * float(m2.sqrt())):
        equation.scale = scale
        torch.testing.assert_close(relative_residual(equation, x, "smaller"), r2 / m2.clamp(max=scale**2))
    assert pde_error(equation, x) == pytest.approx(float((r2 / m2).sqrt()))
    assert pde_error_data(equation, x) == pytest.approx(float(r2.sqrt()) / equation.scale)
    assert magnitude_rms(equation, x) == pytest.approx(float(m2.sqrt()))


def test_samples_do_not_see_each_other(kind, generator):
    equation = kind()
    x = rough(equation, generator, 3)
    alone = torch.cat([sample_errors(equation, row) for row in x.split(1)])
    torch.testing.assert_close(sample_errors(equation, x), alone, rtol=1e-12, atol=0)


def test_single_precision_follows_the_input(kind, generator):
    equation = kind()
    x = rough(equation, generator)
    assert equation.residual(x.float()).dtype == torch.float32
    assert equation.solve(equation.coefficient(x).float()).dtype == torch.float32
    torch.testing.assert_close(
        relative_residual(equation, x.float()).double(), relative_residual(equation, x), rtol=1e-4, atol=0
    )


def test_float32_is_enough_for_poisson_and_bfloat16_is_not(fields, generator):
    """Relative residual of true data at 64 x 64: section 12, item 12."""
    equation = Poisson(64)
    x = truth(equation, fields, generator, 16)
    assert relative_residual(equation, x.float()).sqrt() < 1e-4
    assert relative_residual(equation, x.bfloat16()).sqrt() > 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative_residual(equation, x.float()).sqrt() < 1e-4


def test_solve_gap_is_zero_for_true_fields_and_sees_a_wrong_solution(kind, fields, generator):
    equation = kind()
    x = truth(equation, fields, generator)
    assert solve_gap(equation, x).max() < 1e-12
    wrong = x.clone()
    equation.solved(wrong).mul_(1.1)
    torch.testing.assert_close(
        solve_gap(equation, wrong), torch.full((4,), 0.1, dtype=torch.float64), rtol=1e-9, atol=0
    )


def test_boundary_terms(kind, fields, generator):
    equation = kind()
    x = truth(equation, fields, generator)
    assert (equation.boundary(x) == 0).all()
    torch.testing.assert_close(equation.impose_boundary(x), x, rtol=0, atol=0)
    lifted = x + 0.5
    periodic = equation.name in ("burgers", "navier-stokes")
    expected = 0.0 if periodic else 0.25
    torch.testing.assert_close(equation.boundary(lifted), torch.full((4,), expected).double())
    assert (equation.boundary(equation.impose_boundary(lifted)) == 0).all()


def test_a_residual_stands_in_a_likelihood(kind, fields, generator):
    equation = kind()
    operator = ResidualOperator(equation)
    x = truth(equation, fields, generator).float()
    assert operator(x).shape == (4, *operator.range_shape)
    likelihood = Likelihood(operator, 0.1, torch.zeros(operator.range_shape))
    noisy = x + 0.1 * x.std() * torch.randn(x.shape, generator=generator)
    assert (likelihood.log_prob(x) > likelihood.log_prob(noisy)).all()
    assert torch.isfinite(likelihood.score(noisy)).all()


def test_a_coefficient_made_under_inference_mode_may_stand_in_a_graph_later(generator):
    with torch.inference_mode():
        Burgers(24, 24).residual(torch.zeros(1, 1, 24, 24))
        NavierStokes(24).residual(torch.zeros(1, 2, 24, 24))
    for equation in (Burgers(24, 24), NavierStokes(24)):
        x = rough(equation, generator).requires_grad_()
        relative_residual(equation, x).backward()
        assert torch.isfinite(x.grad).all()


def test_permeability_of_a_continuous_sample_is_made_two_valued(fields, generator):
    x = truth(Darcy(), fields, generator)
    blurred = x.clone()
    blurred[:, 0] += 2 * torch.rand(x[:, 0].shape, generator=generator, dtype=x.dtype) - 1
    torch.testing.assert_close(Darcy().thresholded(blurred), x, rtol=0, atol=0)


def test_weak_error_is_for_zero_boundary_values(generator):
    with pytest.raises(TypeError, match="burgers"):
        weak_error(Burgers(), torch.ones(1, 1, 32, 32))


def test_wrong_shapes_are_named(kind):
    equation = kind()
    shape = re.escape(str(equation.event_shape[1:])[1:-1])
    for call in (equation.residual, equation.magnitude, equation.boundary, equation.coefficient):
        with pytest.raises(ValueError, match=f"x must have shape .*{shape}.*got"):
            call(torch.zeros(1, 3, 7, 7))
    with pytest.raises(ValueError, match="coefficient must have shape"):
        equation.solve(torch.zeros(3, 7))
    with pytest.raises(TypeError, match="bfloat16"):
        equation.residual(torch.zeros(1, *equation.event_shape, dtype=torch.bfloat16))


def test_fields_that_are_not_finite_are_named(kind):
    equation = kind()
    x = torch.ones(2, *equation.event_shape)
    x[0, 0, 3, 3] = torch.nan
    for call in (pde_error, pde_error_data, sample_errors, solve_gap):
        with pytest.raises(ValueError, match="x must be finite, 1 of"):
            call(equation, x)
    with pytest.raises(ValueError, match="x must be finite"):
        equation.self_test(x)
    with pytest.raises(ValueError, match="coefficient must be finite"):
        equation.solve(torch.full((1, *equation.coefficient_shape), torch.inf))


def test_a_start_too_large_for_the_time_steps_is_named():
    with pytest.raises(EquationError, match="solution of burgers is not finite: coefficients up to 1e"):
        Burgers().solve(1e6 * torch.linspace(-1, 1, 32)[None])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Poisson(4), "n must be a whole number of at least 5, got 4"),
        (lambda: Darcy(32.0), "n must be a whole number of at least 5, got 32.0"),
        (lambda: Helmholtz(32, k=5.0), "k must lie between 0 and the grid's first resonance 4.4"),
        (lambda: Darcy(32, "geometric"), "faces must be one of 'harmonic', 'arithmetic', got 'geometric'"),
        (lambda: Burgers(32, 3), "nt must be a whole number of at least 4"),
        (lambda: Burgers(residual="upwind"), "residual must be one of 'step', 'fd', 'cn', got 'upwind'"),
        (lambda: Burgers(viscosity=0.0), "viscosity must be positive"),
        (lambda: NavierStokes(32, steps=0), "steps must be a whole number of at least 1"),
        (lambda: Poisson(length=-1.0), "length must be positive"),
        (lambda: Darcy().solve(torch.zeros(1, 1, 32, 32)), "coefficient must be positive"),
        (lambda: relative_residual(Poisson(), torch.ones(1, 2, 32, 32), "mean"), "scale_mode must be"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
