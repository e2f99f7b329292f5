"""The few-step generator, and the gradients that train it, against closed forms."""

import math

import pytest
import torch

from sciinstruct.core import randn_like
from sciinstruct.divergences import Divergence, LogNormal
from sciinstruct.inference.phys_instruct import amplitude_ratio, draw_latents, generate, radial_spectrum
from sciinstruct.inference.phys_instruct.objective import level_law, matching_divergence, matching_pull, tilted
from sciinstruct.operators.pde import relative_residual

F64 = torch.float64
LEVELS = (2.5, 1.0, 0.4, 0.15)
COVARIANCE = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=F64)
ROOT = torch.tensor([[0.7, -0.1], [0.2, 0.4]], dtype=F64)
LO, HI = 0.02, 20.0


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gain(covariance, sigma):
    """Matrices (B, 2, 2) of the exact denoiser of N(0, covariance)."""
    return covariance @ torch.linalg.inv(covariance + sigma.reshape(-1, 1, 1) ** 2 * torch.eye(2, dtype=F64))


def exact(covariance):
    return lambda x, sigma: (gain(covariance, sigma) @ x[..., None])[..., 0]


def network(x, sigma):
    return torch.tanh(x) / (1 + sigma.reshape(-1, 1))


def test_fewer_calls_are_the_first_of_more():
    latents = draw_latents(5, 4, (3,), seeded())
    whole = generate(network, 4, *latents, LEVELS)
    for k in (1, 2, 3, 4):
        part = generate(network, k, *draw_latents(5, k, (3,), seeded()), LEVELS)
        assert torch.equal(part.x, whole.prefixes[k - 1]) and part.calls == len(part.prefixes) == k


def test_a_stand_in_takes_all_calls_but_the_last():
    seen = []

    def named(name):
        return lambda x, sigma: (seen.append((name, float(sigma[0]))), network(x, sigma))[1]

    latents = draw_latents(5, 3, (3,), seeded())
    found = generate(named("last"), 3, *latents, LEVELS, early=named("early"))
    assert [name for name, _ in seen] == ["early", "early", "last"]
    assert torch.equal(found.x, generate(network, 3, *latents, LEVELS).x)


def test_the_network_is_called_k_times_at_the_levels_in_turn():
    seen = []

    def counting(x, sigma):
        seen.append(float(sigma[0]))
        return network(x, sigma)

    assert generate(counting, 3, *draw_latents(5, 3, (3,), seeded()), LEVELS).calls == 3
    assert seen == pytest.approx(LEVELS[:3])


def test_the_first_input_is_pure_noise_of_the_first_level():
    z = torch.randn(4, 3, generator=seeded())
    assert torch.equal(generate(lambda x, s: x, 1, z, None, LEVELS).x, 2.5 * z)


def test_the_gradient_goes_through_the_last_call_alone_if_asked():
    weight = torch.ones((), requires_grad=True)
    scaled = lambda x, sigma: weight * x
    z, noise = draw_latents(5, 3, (3,), seeded())
    one = generate(scaled, 3, z, noise, LEVELS, last_call_only=True).x
    slope = torch.autograd.grad(one.sum(), weight)[0]
    torch.testing.assert_close(slope, (one / weight).detach().sum())
    every = generate(scaled, 3, z, noise, LEVELS).x
    assert not torch.isclose(torch.autograd.grad(every.sum(), weight)[0], slope)


@pytest.mark.parametrize(
    "k, noise, text",
    [
        (0, None, "k must be between 1 and 4"),
        (5, None, "k must be between 1 and 4"),
        (2, None, "2 calls need 1 noises"),
        (3, torch.zeros(1, 5, 3), "at least 2, 5 or 1, 3"),
        (2, torch.zeros(1, 4, 3), "at least 1, 5 or 1, 3"),
        (2, torch.zeros(1, 5, 2), "at least 1, 5 or 1, 3"),
    ],
)
def test_bad_calls_are_named(k, noise, text):
    with pytest.raises(ValueError, match=text):
        generate(network, k, torch.zeros(5, 3), noise, LEVELS)


@pytest.mark.parametrize("weighting", ["sigma2", "one"])
def test_the_pull_is_the_analytic_ikl_gradient_in_a_linear_generator(weighting):
    """With x = W z the gradient in W is the mean of c(s) (A_q - A_p) W over the law of s."""
    n, law = 200_000, LogNormal()
    z = torch.randn(n, 2, generator=seeded(), dtype=F64)
    divergence = matching_divergence("ikl", weighting)
    slope = matching_pull(
        divergence, z @ ROOT.T, exact(COVARIANCE), exact(ROOT @ ROOT.T), law, LO, HI, seeded(1)
    ).slope * (2 * n)
    each = slope[:, :, None] * z[:, None, :]
    found, error = each.mean(0), each.std(0) / n**0.5
    u = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    sigma = law.quantile(u, LO, HI).sigma
    c = torch.ones_like(sigma) if weighting == "sigma2" else (1 / sigma**2).clamp(max=1 / 0.02**2)
    expected = (c[:, None, None] * (gain(ROOT @ ROOT.T, sigma) - gain(COVARIANCE, sigma))).mean(0) @ ROOT
    assert ((found - expected).abs() < 3 * error).all()


@pytest.mark.parametrize("kind", ["ikl", "sid", "sim"])
def test_pulls_are_the_published_losses_with_the_dmd_normaliser(kind):
    n, law = 64, LogNormal()
    x = torch.randn(n, 2, generator=seeded(), dtype=F64) @ ROOT.T
    teacher, student = exact(COVARIANCE), exact(ROOT @ ROOT.T)
    pull = matching_pull(matching_divergence(kind, "dmd"), x, teacher, student, law, LO, HI, seeded(1))
    rng = seeded(1)
    sigma = law.sample(n, LO, HI, generator=rng, like=x).sigma
    leaf = x.clone().requires_grad_()
    noisy = leaf + sigma[:, None] * randn_like(x, rng)
    dp, dq = teacher(noisy, sigma), student(noisy, sigma)
    c = 1 / (x - dp).abs().mean(1, keepdim=True).clamp(min=1e-5).detach()
    if kind == "ikl":
        loss = c * (dq - dp).detach() * leaf
    else:
        loss = c * (dp - dq) * (dp - leaf - {"sid": 1.2, "sim": 1.0}[kind] * (dp - dq))
    torch.testing.assert_close(pull.slope, torch.autograd.grad(loss.mean(), leaf)[0])


def test_the_exact_kl_pull_is_the_gradient_of_the_kl():
    n = 100_000
    z = torch.randn(n, 2, generator=seeded(), dtype=F64)
    law = level_law("exact_kl", LogNormal())
    divergence = matching_divergence("exact_kl", None)
    pull = matching_pull(divergence, z @ ROOT.T, exact(COVARIANCE), exact(ROOT @ ROOT.T), law, 0.005, 60.0, seeded(1))
    each = (pull.slope * (2 * n))[:, :, None] * z[:, None, :]
    expected = torch.linalg.inv(COVARIANCE) @ ROOT - torch.linalg.inv(ROOT).T
    error = each.std(0) / n**0.5
    assert ((each.mean(0) - expected).abs() < 3 * error + 2e-3 * expected.abs()).all()  # levels cut at both ends


def fit_linear_generator(target, weighting, equation=None, lam=0.0):
    """Covariance of x = W z after Adam on both pulls, with exact scores throughout."""
    w = ROOT.clone().requires_grad_()
    optimiser = torch.optim.Adam([w], lr=0.01, betas=(0.0, 0.999))
    divergence, rng = matching_divergence("ikl", weighting), seeded(2)
    for step in range(500):
        x = torch.randn(128, 2, generator=rng, dtype=F64) @ w.T
        law = (w @ w.T).detach()
        slope = matching_pull(divergence, x, exact(target), exact(law), LogNormal(), LO, HI, rng).slope
        optimiser.zero_grad()
        loss = (slope * x).sum()
        if lam:
            loss = loss + lam * relative_residual(equation, x.reshape(-1, 1, 1, 2))
        loss.backward()
        optimiser.param_groups[0]["lr"] = 0.01 * (0.01 ** (step / 500))
        optimiser.step()
    return (w @ w.T).detach()


@pytest.mark.parametrize("weighting", ["dmd", "sigma2", "one"])
def test_a_linear_generator_recovers_the_teachers_covariance(weighting):
    """Exact scores, no residual: to 1 %."""
    found = fit_linear_generator(COVARIANCE, weighting)
    assert float((found - COVARIANCE).norm() / COVARIANCE.norm()) < 0.01


def test_a_residual_that_the_data_obey_leaves_the_optimum_alone(pair):
    """The teacher's law lies in the null space of the residual: with weights 0 and 1 the same optimum, to 5 %."""
    target = torch.full((2, 2), 0.25, dtype=F64)
    plain, physical = (fit_linear_generator(target, "dmd", pair, lam) for lam in (0.0, 1.0))
    assert float((physical - plain).norm() / plain.norm()) < 0.05
    assert float((plain - target).norm() / target.norm()) < 0.05


def test_a_linear_denoiser_and_a_small_energy_tilt_like_the_exact_posterior():
    """Energy |a.x|^2 times a small number: the plug-in score is exact to first order in it."""
    direction, strength = torch.tensor([1.0, -1.0], dtype=F64), 1e-4
    energy = lambda x: (x @ direction).square().sum()
    sigma = torch.full((6,), 0.5, dtype=F64)
    x = torch.randn(6, 2, generator=seeded(), dtype=F64)
    precision = torch.linalg.inv(COVARIANCE) + 2 * strength * torch.outer(direction, direction)
    expected = exact(torch.linalg.inv(precision))(x, sigma) - exact(COVARIANCE)(x, sigma)
    found = tilted(exact(COVARIANCE), energy, strength)(x, sigma) - exact(COVARIANCE)(x, sigma)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)


def test_a_tilt_moves_no_further_than_the_denoiser():
    x, sigma = torch.randn(6, 2, generator=seeded(), dtype=F64), torch.full((6,), 3.0, dtype=F64)
    clean = exact(COVARIANCE)(x, sigma)
    moved = tilted(exact(COVARIANCE), lambda v: v.square().sum(), 1e6)(x, sigma) - clean
    torch.testing.assert_close(moved.norm(dim=1), (clean - x).norm(dim=1))


def test_normalised_rows_do_not_change_with_the_size_of_the_teachers_error():
    x = torch.randn(8, 2, generator=seeded(), dtype=F64)
    ikl = Divergence("ikl", weight=lambda s: s**2, normalise=True)
    far = lambda x, s: 0 * x
    slopes = [
        matching_pull(ikl, f * x, far, lambda v, s, f=f: f * torch.ones_like(v), LogNormal(), LO, HI, seeded(1)).slope
        for f in (1.0, 10.0)
    ]
    torch.testing.assert_close(slopes[0], slopes[1])
    with pytest.raises(ValueError, match="fixes its level weight"):
        Divergence("exact_kl", normalise=True)


def test_amplitude_and_spectrum_of_a_wave():
    x = torch.randn(400, 2, 16, 16, generator=seeded(), dtype=F64)
    torch.testing.assert_close(
        amplitude_ratio(x * torch.tensor([[[2.0]], [[0.5]]]), x), torch.tensor([2.0, 0.5]).to(F64)
    )
    phase = 2 * math.pi * torch.rand(400, 1, 1, 1, generator=seeded(), dtype=F64)
    wave = (2 * math.pi * 3 * torch.arange(16, dtype=F64) / 16 + phase).cos().expand(400, 1, 16, 16)
    spectrum = radial_spectrum(wave)
    assert (
        spectrum.shape == (1, 9) and int(spectrum[0].argmax()) == 3 and float(spectrum[0, [0, 1, 5, 8]].max()) < 1e-20
    )
    with pytest.raises(ValueError, match="differ in shape"):
        amplitude_ratio(x, wave)
