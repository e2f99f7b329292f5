"""Grids of noise levels and the time schedules behind them."""

import math

import pytest
import torch

from sciinstruct.diffusion import (
    DiscreteVP,
    FlowSchedule,
    GeometricVE,
    LinearVP,
    flow_time,
    from_timesteps,
    karras,
    log_uniform,
    uniform_time,
    vp_time,
)

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SCHEDULES = {
    "linear vp": LinearVP(),
    "discrete vp": DiscreteVP.from_betas(BETAS),
    "flow": FlowSchedule(),
    "ve": GeometricVE(0.01, 50.0),
}
GRIDS = {"log": log_uniform, "karras": karras, "vp": vp_time, "flow": flow_time}


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_falls_strictly_between_exactly_the_ends_asked_for(name):
    sigmas = GRIDS[name](37, 0.01, 20.0)
    assert sigmas.shape == (37,) and sigmas.dtype == torch.float64
    assert sigmas[0] == 20.0 and sigmas[-1] == 0.01
    assert (sigmas.diff() < 0).all()


def test_log_uniform_has_one_ratio_and_is_the_limit_of_karras():
    sigmas = log_uniform(9, 0.01, 100.0)
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full((8,), 10**-0.5, dtype=torch.float64))
    far = (karras(9, 0.01, 100.0, rho=1e6) / sigmas - 1).abs().max()
    assert far < 1e-4  # the difference falls as log(range)^2 / (8 rho)


def test_karras_is_even_in_the_root():
    roots = karras(11, 0.01, 80.0, rho=7.0) ** (1 / 7)
    torch.testing.assert_close(roots.diff(), torch.full((10,), (0.01 ** (1 / 7) - 80 ** (1 / 7)) / 10).double())


def test_vp_time_and_uniform_time_are_even_in_time():
    times = LinearVP().time(vp_time(21, 0.01, 100.0))
    torch.testing.assert_close(times.diff(), times.diff().mean().expand(20), rtol=1e-10, atol=0)
    ve = uniform_time(21, 0.01, 50.0, GeometricVE(0.01, 50.0))
    torch.testing.assert_close(ve, log_uniform(21, 0.01, 50.0), rtol=1e-13, atol=0)


def test_flow_shift_is_the_published_map_of_times():
    shift = 3.0
    plain = torch.linspace(0.9, 0.1, 5, dtype=torch.float64)
    shifted = shift * plain / (1 + (shift - 1) * plain)  # Esser et al. 2024, equation 23
    expected = shifted / (1 - shifted)
    grid = flow_time(5, expected[-1].item(), expected[0].item(), shift=shift)
    torch.testing.assert_close(grid, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_time_and_noise_level_are_exact_inverses(name):
    schedule = SCHEDULES[name]
    first, last = schedule.time_range
    times = torch.linspace(first, last, 501, dtype=torch.float64)
    sigmas = schedule.sigma(times)
    assert (sigmas.diff() > 0).all()
    torch.testing.assert_close(schedule.time(sigmas), times, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(schedule.sigma(schedule.time(sigmas)), sigmas, rtol=1e-12, atol=0)


def test_small_noise_does_not_cancel_in_the_linear_vp_inverse():
    schedule = LinearVP(time_min=1e-8)
    t = torch.tensor([1e-8, 1e-6, 1e-4], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.sigma(t)), t, rtol=1e-14, atol=0)


def test_vp_noise_level_is_the_integral_of_beta():
    t = torch.linspace(0, 0.7, 200_001, dtype=torch.float64)
    integral = torch.trapezoid(0.1 + (20 - 0.1) * t, t)  # exact for a linear beta
    alpha2 = torch.exp(-integral)
    assert math.isclose(LinearVP().sigma(t[-1]), math.sqrt((1 - alpha2) / alpha2), rel_tol=1e-12)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_alpha_belongs_to_the_schedule(name):
    sigma = torch.tensor([0.05, 1.0, 30.0], dtype=torch.float64)
    alpha = SCHEDULES[name].alpha(sigma)
    expected = {"flow": 1 - SCHEDULES["flow"].time(sigma), "ve": torch.ones(3).double()}
    torch.testing.assert_close(alpha, expected.get(name, (1 - (alpha * sigma) ** 2).sqrt()), rtol=1e-12, atol=0)


def test_timesteps_of_a_ddpm_model_give_its_noise_levels():
    bars = torch.cumprod(1 - BETAS, 0)
    sigmas = from_timesteps([999, 500, 20, 0], DiscreteVP(bars))
    torch.testing.assert_close(sigmas, ((1 - bars) / bars).sqrt()[[999, 500, 20, 0]], rtol=1e-12, atol=0)


def test_discrete_time_is_clamped_at_the_table_ends():
    schedule = SCHEDULES["discrete vp"]
    times = schedule.time(torch.tensor([1e-9, 1e9], dtype=torch.float64))
    assert times.tolist() == [0.0, 999.0]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: log_uniform(1, 0.1, 1.0), "n must be at least 2"),
        (lambda: log_uniform(5, 0.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: log_uniform(5, 1.0, 0.1), "0 < sigma_min < sigma_max"),
        (lambda: log_uniform(5, 0.1, math.inf), "0 < sigma_min < sigma_max"),
        (lambda: karras(5, 0.1, 1.0, rho=0.0), "rho must be positive"),
        (lambda: flow_time(5, 0.1, 1.0, shift=-1.0), "shift must be positive"),
        (lambda: vp_time(5, 0.1, 1.0, beta_start=3.0, beta_end=1.0), "beta_start < beta_end"),
        (lambda: LinearVP(time_min=0.0), "time_min"),
        (lambda: FlowSchedule(0.5, 0.2), "time_min < time_max"),
        (lambda: GeometricVE(2.0, 1.0), "sigma_min < sigma_max"),
        (lambda: DiscreteVP([0.5, 0.9]), "fall strictly"),
        (lambda: DiscreteVP([0.5]), "at least 2"),
        (lambda: DiscreteVP([1.0, 0.5]), r"in \(0, 1\)"),
        (lambda: from_timesteps([3, 3], SCHEDULES["discrete vp"]), "fall strictly"),
        (lambda: from_timesteps([3, 30], SCHEDULES["discrete vp"]), "fall strictly"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
