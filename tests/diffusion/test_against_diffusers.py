"""Our SA-Solver and discrete schedule against the diffusers package, where it is installed."""

import pytest
import torch

from sciinstruct.diffusion import DiscreteVP, SASolver
from sciinstruct.priors import GaussianMixture

diffusers = pytest.importorskip("diffusers", reason="the cross-check needs the diffusers package")

STEPS = [10, 25, 100]


@pytest.fixture(scope="module")
def prior():
    means = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.3]], dtype=torch.float64)
    return GaussianMixture(
        means, torch.stack([0.1 * torch.eye(3), torch.diag(torch.tensor([0.5, 0.05, 0.2]))]).double()
    )


def run_theirs(prior, order, tau, steps):
    """Run diffusers' scheduler in float64 on E[x0]; return its grid, start, and states after each corrector, as x."""
    scheduler = diffusers.SASolverScheduler(
        predictor_order=order, corrector_order=order, tau_func=lambda t: tau, prediction_type="sample"
    )
    scheduler.set_timesteps(steps)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    vp = DiscreteVP.from_betas(betas)
    exact = vp.sigma(torch.cat([scheduler.timesteps, torch.zeros(1)]).double())
    assert (exact / scheduler.sigmas.double() - 1).abs().max() < 1e-4  # theirs are rounded to float32
    scheduler.sigmas = exact
    g = torch.Generator().manual_seed(5)
    z = torch.randn(16, 3, generator=g, dtype=torch.float64)
    start = z * (1 + exact[0] ** 2).sqrt()
    noise, states = torch.Generator().manual_seed(6), []
    for i, t in enumerate(scheduler.timesteps):
        clean = prior.denoise(z * (1 + exact[i] ** 2).sqrt(), exact[i].item())
        z = scheduler.step(clean, t, z, generator=noise).prev_sample
        states.append(scheduler.last_sample * (1 + exact[i] ** 2).sqrt())
    return exact, start, states[1:]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sa_solver_agrees_with_diffusers_in_float64(prior, order, tau, steps):
    sigmas, x, theirs = run_theirs(prior, order, tau, steps)
    solver = SASolver(sigmas, order, order, tau, simple_order2=True)
    noise = torch.Generator().manual_seed(6)
    ours = solver.path(prior.denoise, x, lambda: torch.randn(x.shape, generator=noise, dtype=x.dtype))
    gaps = [((a - b).square().mean().sqrt()).item() for a, b in zip(ours, theirs)]
    assert len(gaps) == steps - 1
    assert max(gaps) < 1e-9, gaps
