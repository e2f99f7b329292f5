"""The solvers' orders, equivalences, laws and manners."""

import doctest
import math

import pytest
import torch

from sciinstruct.core import SolverError
from sciinstruct.diffusion import (
    Ancestral,
    DPMpp2M,
    Euler,
    Heun,
    SASolver,
    default_solver,
    karras,
    log_uniform,
    solvers,
    tau_band,
)
from sciinstruct.priors import GaussianMixture

SOLVERS = {
    "euler": lambda grid, **kw: Euler(grid, **kw),
    "heun": lambda grid, **kw: Heun(grid, **kw),
    "churn": lambda grid, **kw: Heun(grid, churn=5.0, churn_range=(0.05, 5.0), **kw),
    "ancestral": lambda grid, **kw: Ancestral(grid, **kw),
    "ddim eta": lambda grid, **kw: Ancestral(grid, 0.5, **kw),
    "2m": lambda grid, **kw: DPMpp2M(grid, **kw),
    "2m sde": lambda grid, **kw: DPMpp2M(grid, 1.0, **kw),
    "sa 1/0 sde": lambda grid, **kw: SASolver(grid, 1, 0, 1.0, **kw),
    "sa 2/0": lambda grid, **kw: SASolver(grid, 2, 0, **kw),
    "sa 2/2": lambda grid, **kw: SASolver(grid, 2, 2, **kw),
    "sa 2/0 sde": lambda grid, **kw: SASolver(grid, 2, 0, 1.0, **kw),
    "sa 3/0 sde": lambda grid, **kw: SASolver(grid, 3, 0, 1.0, **kw),
    "sa 3/3 sde": lambda grid, **kw: SASolver(grid, 3, 3, 1.0, **kw),
    "sa 3/3 band": lambda grid, **kw: SASolver(grid, 3, 3, tau_band(0.1, 2.0, 0.8), **kw),
    "sa 3/3 pece": lambda grid, **kw: SASolver(grid, 3, 3, evaluate_corrected=True, **kw),
    "sa 4/4 simple": lambda grid, **kw: SASolver(grid, 4, 4, simple_order2=True, **kw),
}
STOCHASTIC = ["churn", "ancestral", "ddim eta", "2m sde", "sa 3/3 sde", "sa 3/3 band"]


def wiener(variance):
    """Exact denoiser of independent zero-mean Gaussians."""
    return lambda x, sigma: x * (variance / (variance + sigma**2))


def exact_variance(solver, variance, start):
    """Variance of the output for a linear denoiser: one row per independent input, started with variance `start`."""
    rows = torch.eye(solver.steps + 1, dtype=torch.float64)[:, :, None].expand(-1, -1, len(variance))
    draws = iter(rows[1:])
    *_, x = solver.path(wiener(variance), start.sqrt() * rows[0], lambda: next(draws))
    if solver.denoise_final:
        x = wiener(variance)(x, solver.levels[-1])
    return x.square().sum(0)


def slopes(errors):
    return [math.log2(a / b) for a, b in zip(errors, errors[1:])]


@pytest.fixture(scope="module")
def mixture():
    """A 4-D mixture, starts at the largest level, and where the probability flow takes them (DOP853, rtol 1e-12)."""
    from scipy.integrate import solve_ivp

    g = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    root = 0.5 * torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    covariances = root @ root.mT + 0.05 * torch.eye(4, dtype=torch.float64)
    prior = GaussianMixture(means, covariances, torch.tensor([0.5, 0.3, 0.2]))
    low, high = 0.05, 20.0
    x = high * torch.randn(24, 4, generator=g, dtype=torch.float64)

    def velocity(lam, flat):
        state = torch.from_numpy(flat).reshape(x.shape)
        return (prior.denoise(state, math.exp(-lam)) - state).flatten().numpy()

    span = (-math.log(high), -math.log(low))
    run = solve_ivp(velocity, span, x.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    return prior, x, torch.from_numpy(run.y[:, -1]).reshape(x.shape), (low, high)


ORDERS = {
    "euler": (Euler, (), 1.0),
    "heun": (Heun, (), 2.0),
    "2m": (DPMpp2M, (), 2.0),
    "1/0": (SASolver, (1, 0), 1.0),
    "2/0": (SASolver, (2, 0), 2.0),
    "3/0": (SASolver, (3, 0), 2.45),  # 2.7 falling to 2.2: the first step of order 1 limits it
    "1/2": (SASolver, (1, 2), 2.0),
    "2/2": (SASolver, (2, 2), 2.0),
    "2/3": (SASolver, (2, 3), 3.0),
    "3/3": (SASolver, (3, 3), 3.25),  # between 3 and the predictor's gain
    "3/4": (SASolver, (3, 4), 3.7),
    "4/4": (SASolver, (4, 4), 3.5),
}


@pytest.mark.parametrize("name", list(ORDERS))
def test_order_on_the_probability_flow_of_a_mixture(mixture, name):
    make, arguments, order = ORDERS[name]
    prior, x, truth, ends = mixture
    errors = []
    for steps in (40, 320):
        end = make(log_uniform(steps + 1, *ends), *arguments, denoise_final=False)(prior.denoise, x)
        errors.append((end - truth).norm(dim=1).median().item())
    assert abs(math.log2(errors[0] / errors[1]) / 3 - order) < 0.3


@pytest.mark.parametrize(
    "name, order",
    [
        ("sa 1/0 sde", 1),
        ("sa 2/0 sde", 2),
        ("sa 3/0 sde", 2),
        ("sa 3/3 sde", 2),
        ("2m sde", 2),
        ("ancestral", 1),
        ("churn", 2),
    ],
)
def test_weak_order_of_the_variance_with_noise(name, order):
    variance = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    low, high = 0.02, 20.0
    errors = []
    for steps in (80, 160, 320):
        solver = SOLVERS[name](log_uniform(steps + 1, low, high), denoise_final=False)
        got = exact_variance(solver, variance, high**2 + variance)
        errors.append((got / (variance + low**2) - 1).abs().max().item())
    assert all(abs(slope - order) < 0.3 for slope in slopes(errors)), slopes(errors)


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_noise_keeps_the_variances_of_a_field(tau):
    variance = torch.logspace(0, -2, 9, dtype=torch.float64)
    low, high = 0.02, 20.0
    got = exact_variance(SASolver(log_uniform(79, low, high), 2, 2, tau), variance, high**2 + variance)
    denoised = variance**2 / (variance + low**2)  # the final denoise of an exact draw at the lowest level
    assert (got / denoised - 1).abs().max() < 1e-3


@pytest.fixture(scope="module")
def field():
    """Variances of 128 modes, k^-3 over five decades, and the divergence of a solver's output from it."""
    power = torch.arange(1, 129, dtype=torch.float64) ** -3
    power = (power / power.mean()).clamp(min=1e-3)

    def divergence(solver):
        start = torch.full_like(power, solver.levels[0] ** 2)
        ratio = exact_variance(solver, power, start) / power
        return (0.5 * (ratio - 1 - ratio.log())).mean().item()

    return divergence


def test_the_log_grid_beats_karras_tenfold_on_a_field(field):
    on_log = field(SASolver(log_uniform(23, 0.002, 80.0), 2, 2))
    on_karras = field(SASolver(karras(23, 0.002, 80.0), 2, 2))
    assert on_log < 2e-4
    assert on_karras > 10 * on_log


def test_the_default_solver_is_near_exact_on_a_field(field):
    assert field(default_solver((0.002, 80.0), 40)) < 1e-5  # 3.3e-6 is the share of the ends of the grid


def test_order_2_below_20_evaluations_beats_order_3_with_noise(field):
    grid = log_uniform(9, 0.002, 80.0)
    assert field(SASolver(grid, 2, 2, 1.0)) < 0.5 * field(SASolver(grid, 3, 3, 1.0))


def test_default_solver_settings():
    many, few = default_solver((0.01, 20.0)), default_solver((0.01, 20.0), steps=19)
    assert (many.predictor_order, many.corrector_order, many.tau, many.denoise_final) == (3, 3, 0.0, True)
    assert (few.predictor_order, few.corrector_order) == (2, 2)
    assert (many.evaluations, few.evaluations) == (40, 19)
    assert many.levels == tuple(log_uniform(39, 0.01, 20.0).tolist())


def same_noise(make_a, make_b, prior, x):
    return [make(prior.denoise, x, generator=torch.Generator().manual_seed(3)) for make in (make_a, make_b)]


def test_order_1_without_noise_is_euler_is_ddim(mixture):
    prior, x, _, ends = mixture
    grid = log_uniform(30, *ends)
    for other in (SASolver(grid, 1, 0), Ancestral(grid, 0.0)):
        torch.testing.assert_close(other(prior.denoise, x), Euler(grid)(prior.denoise, x), rtol=1e-12, atol=1e-12)


def test_order_1_with_unit_noise_is_ancestral_sampling(mixture):
    prior, x, _, ends = mixture
    grid = log_uniform(30, *ends)
    a, b = same_noise(SASolver(grid, 1, 0, 1.0), Ancestral(grid), prior, x)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_first_step_of_sde_dpm_solver_has_eta_equal_to_tau_squared(mixture, eta):
    prior, x, _, ends = mixture
    grid = log_uniform(2, *ends)
    a, b = same_noise(SASolver(grid, 2, 0, math.sqrt(eta)), DPMpp2M(grid, eta), prior, x)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("simple", [False, True])
def test_second_steps_of_sa_and_2m_differ_by_the_cube_of_the_step(mixture, simple):
    prior, x, _, _ = mixture
    gaps = []
    for h in (0.02, 0.01, 0.005):
        grid = [2.0, 2.0 * math.exp(-h), 2.0 * math.exp(-2 * h), 2.0 * math.exp(-3 * h)]

        def second(solver):
            return list(solver.path(prior.denoise, 0.1 * x, lambda: None))[1]

        sa = SASolver(grid, 2, 0, simple_order2=simple)
        gaps.append((second(sa) - second(DPMpp2M(grid))).norm().item())
    assert all(abs(slope - 3) < 0.1 for slope in slopes(gaps)), slopes(gaps)


def test_heun_is_the_published_step():
    x, (high, low) = torch.tensor([[1.7]], dtype=torch.float64), (2.0, 0.5)
    denoise = wiener(torch.tensor([1.0], dtype=torch.float64))
    slope = (1.7 - 1.7 / 5) / high
    guess = 1.7 + (low - high) * slope
    end = 1.7 + (low - high) * 0.5 * (slope + (guess - guess / 1.25) / low)
    got = Heun([high, low], denoise_final=False)(denoise, x)
    assert math.isclose(got.item(), end, rel_tol=1e-14)
    finished = Heun([high, low])(denoise, x)
    assert math.isclose(finished.item(), end / 1.25, rel_tol=1e-14)


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_stated_number_of_evaluations_is_what_a_run_costs(name, final, generator):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return 0.5 * x

    solver = SOLVERS[name](log_uniform(9, 0.01, 10.0), denoise_final=final)
    solver(denoise, torch.ones(2, 3), generator=generator)
    assert len(calls) == solver.evaluations
    assert all(isinstance(sigma, float) for sigma in calls)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_dtype_follows_x_and_x_is_left_alone(name):
    variance = torch.tensor([1.0, 0.2, 0.01])
    grid = log_uniform(25, 0.01, 20.0)
    x = 20 * torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    kept = x.clone()

    got = SOLVERS[name](grid)(wiener(variance), x, generator=torch.Generator().manual_seed(2))
    assert got.dtype == torch.float32 and torch.equal(x, kept)
    wide = SOLVERS[name](grid)(wiener(variance.double()), x.double(), generator=torch.Generator().manual_seed(2))
    assert wide.dtype == torch.float64
    if name not in STOCHASTIC and "sde" not in name:  # float32 and float64 streams of noise differ
        torch.testing.assert_close(got.double(), wide, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_one_generator_per_sample_makes_sample_i_the_same_in_any_batch(name):
    denoise = wiener(torch.tensor([1.0, 0.1]))
    solver = SOLVERS[name](log_uniform(12, 0.05, 10.0))
    x = 10 * torch.randn(4, 2, generator=torch.Generator().manual_seed(1))

    def run(rows):
        return solver(denoise, x[rows], generator=[torch.Generator().manual_seed(100 + i) for i in rows])

    together = run([0, 1, 2, 3])
    for i in range(4):
        torch.testing.assert_close(run([i])[0], together[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_same_generator_gives_the_same_samples(name):
    solver, x = SOLVERS[name](log_uniform(8, 0.05, 10.0)), torch.ones(3, 2)
    a, b, c = (solver(lambda x, s: 0.5 * x, x, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_gradients_flow_through_the_whole_run(name):
    gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    solver = SOLVERS[name](log_uniform(6, 0.1, 2.0))

    def run(x, gain):
        return solver(lambda x, sigma: torch.tanh(gain * x), x, generator=torch.Generator().manual_seed(0))

    assert torch.autograd.gradcheck(run, (x, gain), atol=1e-7)
    with torch.no_grad():
        assert not run(x, gain).requires_grad


def test_tau_is_taken_at_the_end_of_each_step():
    band = tau_band(1.0, 4.0, 0.7)
    assert SASolver([8.0, 4.0, 2.0, 0.5], tau=band).taus == (0.7, 0.7, 0.0)
    assert SASolver([8.0, 4.0, 2.0, 0.5], tau=lambda s: s).taus == (4.0, 2.0, 0.5)


def test_the_callback_hears_every_step():
    heard = []
    grid = [4.0, 2.0, 1.0]
    Euler(grid)(lambda x, s: 0 * x, torch.full((1, 2), 4.0), callback=lambda step, info: heard.append((step, info)))
    assert heard == [(1, {"sigma": 2.0, "rms": 2.0}), (2, {"sigma": 1.0, "rms": 1.0})]


def test_the_bar_is_on_stderr_and_only_if_asked_for(capfd):
    solver = Euler([4.0, 2.0, 1.0])
    solver(lambda x, s: 0 * x, torch.ones(1, 2))
    assert capfd.readouterr() == ("", "")
    solver(lambda x, s: 0 * x, torch.ones(1, 2), progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "Euler" in err and "2/2" in err


def test_the_example_in_the_docstring():
    result = doctest.testmod(solvers)
    assert result.attempted >= 6 and result.failed == 0


def test_solvers_are_values():
    grid = log_uniform(5, 0.1, 1.0)
    assert SASolver(grid, 2, 2) == SASolver(grid.tolist(), 2, 2) != SASolver(grid, 3, 3)
    assert len({Euler(grid), Euler(grid), Heun(grid)}) == 2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Euler([1.0]), "at least 2"),
        (lambda: Euler([1.0, 0.0]), "positive and finite"),
        (lambda: Euler([1.0, math.nan]), "positive and finite"),
        (lambda: Euler([1.0, 0.5, 0.5]), "fall strictly, but entry 2"),
        (lambda: Euler([0.1, 1.0]), "fall strictly"),
        (lambda: SASolver([1.0, 0.1], predictor_order=0), "predictor_order must be 1 to 4"),
        (lambda: SASolver([1.0, 0.1], corrector_order=5), "corrector_order must be 0"),
        (lambda: SASolver([1.0, 0.1], tau=-1.0), "tau must be finite and not negative"),
        (lambda: SASolver([1.0, 0.1], tau=lambda s: math.nan), "tau must be finite"),
        (lambda: SASolver([1.0, 0.1], 2, 0, evaluate_corrected=True), "needs a corrector"),
        (lambda: tau_band(2.0, 1.0, 1.0), "0 <= low < high"),
        (lambda: tau_band(0.0, 1.0, -1.0), "tau must be"),
        (lambda: DPMpp2M([1.0, 0.1], eta=-1.0), "eta must be"),
        (lambda: Ancestral([1.0, 0.1], eta=1.5), "eta must lie"),
        (lambda: Heun([1.0, 0.1], churn=-1.0), "churn must be"),
        (lambda: Heun([1.0, 0.1], churn_range=(2.0, 1.0)), "churn_range must rise"),
        (lambda: Heun([1.0, 0.1], churn_std=0.0), "churn_std must be"),
        (lambda: default_solver((0.1, 1.0), steps=3), "at least 4"),
        (lambda: default_solver((1.0, 0.1)), "sigma_min < sigma_max"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_bad_runs_are_named():
    solver, fine = Euler([2.0, 1.0, 0.5]), torch.ones(2, 3)
    with pytest.raises(TypeError, match="real floating tensor"):
        solver(lambda x, s: x, fine.long())
    with pytest.raises(TypeError, match="got list"):
        solver(lambda x, s: x, [1.0])
    with pytest.raises(ValueError, match="finite batch"):
        solver(lambda x, s: x, fine * math.nan)
    with pytest.raises(ValueError, match=r"shape of x, \(2, 3\), got \(2, 1\)"):
        solver(lambda x, s: x[:, :1], fine)
    with pytest.raises(ValueError, match=r"one per sample \(2\), got 3"):
        solver(lambda x, s: x, fine, generator=[torch.Generator()] * 3)
    with pytest.raises(SolverError, match=r"not finite after step 2 of 2 \(sigma = 0.5\)"):
        solver(lambda x, s: x if s > 1 else x * math.nan, fine)
