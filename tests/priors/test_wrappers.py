"""Priors made from networks of any parametrisation: all of them are the same denoiser."""

from types import SimpleNamespace

import pytest
import torch

from sciinstruct.core import PriorError
from sciinstruct.diffusion import DiscreteVP, FlowSchedule, GeometricVE, LinearVP, log_uniform
from sciinstruct.priors import GaussianMixture
from sciinstruct.priors.wrappers import (
    DenoiserPrior,
    EpsPrior,
    FlowPrior,
    ScorePrior,
    VPrior,
    from_diffusers,
)

DISCRETE = DiscreteVP.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@pytest.fixture(scope="module")
def law():
    """An exact mixture on images of shape (1, 2, 2)."""
    g = torch.Generator().manual_seed(0)
    root = 0.4 * torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    covariances = root @ root.mT + 0.05 * torch.eye(4, dtype=torch.float64)
    return GaussianMixture(torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64), covariances)


def network(law, schedule, kind):
    """What a perfectly trained network of each kind returns, written in the model's own variables z, t."""

    def call(z, t):
        t = t.double()
        sigma = schedule.sigma(t)
        alpha = schedule.alpha(sigma).reshape(-1, 1, 1, 1)
        wide = sigma.reshape(-1, 1, 1, 1)
        clean = law.denoise(z.double() / alpha, sigma)
        noise = (z.double() - alpha * clean) / (alpha * wide)
        outputs = {
            "eps": noise,
            "v": alpha * noise - alpha * wide * clean,
            "score": -noise / (alpha * wide),
            "flow": noise - clean,
        }
        return outputs[kind].to(z.dtype)

    return call


WRAPPED = {
    "eps linear": (EpsPrior, LinearVP(), "eps"),
    "eps discrete": (EpsPrior, DISCRETE, "eps"),
    "v linear": (VPrior, LinearVP(), "v"),
    "v discrete": (VPrior, DISCRETE, "v"),
    "score vp": (ScorePrior, LinearVP(), "score"),
    "score ve": (ScorePrior, GeometricVE(0.01, 100.0), "score"),
    "flow": (FlowPrior, FlowSchedule(), "flow"),
}


@pytest.fixture(params=list(WRAPPED))
def wrapped(request, law):
    make, schedule, kind = WRAPPED[request.param]
    return make(network(law, schedule, kind), law.event_shape, schedule)


def batch(sigmas, dtype=torch.float64):
    x = torch.randn(len(sigmas), 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ((1 + sigmas.reshape(-1, 1, 1, 1)) * x).to(dtype)


def test_every_parametrisation_gives_the_exact_denoiser(wrapped, law):
    sigmas = log_uniform(12, 0.02, 80.0)
    x = batch(sigmas)
    torch.testing.assert_close(wrapped.denoise(x, sigmas), law.denoise(x, sigmas), rtol=1e-10, atol=1e-10)


def test_one_level_per_sample_is_the_levels_one_by_one(wrapped):
    sigmas = log_uniform(5, 0.1, 10.0)
    x = batch(sigmas)
    together = wrapped.denoise(x, sigmas)
    for i in range(5):
        for level in (sigmas[i], sigmas[i].item(), sigmas[i : i + 1]):
            torch.testing.assert_close(
                wrapped.denoise(x[i : i + 1], level), together[i : i + 1], rtol=1e-12, atol=1e-12
            )


def test_float32_stays_float32_and_close(wrapped, law):
    sigmas = log_uniform(8, 0.05, 20.0)
    x = batch(sigmas)
    got = wrapped.denoise(x.float(), sigmas.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), law.denoise(x, sigmas), rtol=1e-4, atol=1e-4)


def test_the_score_is_that_of_the_law(wrapped, law):
    sigmas = log_uniform(6, 0.1, 10.0)
    x = batch(sigmas)
    torch.testing.assert_close(wrapped.score(x, sigmas), law.score(x, sigmas), rtol=1e-8, atol=1e-8)


def test_the_default_range_is_the_schedules(law):
    low, high = EpsPrior(network(law, DISCRETE, "eps"), law.event_shape, DISCRETE).sigma_range
    ends = DISCRETE.sigma(torch.tensor([0.0, 999.0], dtype=torch.float64)).tolist()
    assert (low, high) == tuple(ends)
    assert abs(high - 157.4) < 0.1  # the noisiest level of DDPM's linear betas


def test_sampling_a_wrapped_network_draws_from_the_law(law):
    prior = VPrior(network(law, DISCRETE, "v"), law.event_shape, DISCRETE, sigma_range=(0.02, 100.0))
    n = 4000
    x = prior.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).flatten(1)
    covariance = sum(w * law.dense_covariance(k) for k, w in enumerate(law.weights))
    centred = law.means.flatten(1) - law.mean.flatten()
    covariance = covariance + (law.weights[:, None] * centred).T @ centred
    error = (x.mean(0) - law.mean.flatten()) / (covariance.diagonal() / n).sqrt()
    assert error.abs().max() < 4
    spread = x.var(0) / covariance.diagonal() - 1
    assert spread.abs().max() < 4 * (2 / n) ** 0.5 + 0.02  # + final denoise and discretisation


def test_a_module_is_registered_and_a_denoiser_is_used_as_it_is():
    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x, sigma):
            assert sigma.shape == (len(x),) and sigma.dtype == x.dtype
            return self.gain * x

    prior = DenoiserPrior(Half(), (1, 2, 2), (0.01, 10.0), scale=3.0, shift=1.0)
    x = torch.ones(3, 1, 2, 2)
    assert torch.equal(prior.denoise(x, 0.3), 0.5 * x)
    assert [name for name, _ in prior.named_parameters()] == ["network.gain"]
    assert torch.equal(prior.to_physical(x), 4 * x)


def test_gradients_reach_x_and_the_network(law):
    prior = EpsPrior(network(law, LinearVP(), "eps"), law.event_shape, LinearVP())
    x = batch(torch.tensor([0.5, 2.0], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: prior.denoise(x, 0.7), (x,))


@pytest.mark.parametrize("kind, make", [("epsilon", EpsPrior), ("v_prediction", VPrior)])
def test_a_diffusers_model_is_wrapped_by_what_its_scheduler_says(law, kind, make):
    short = {"epsilon": "eps", "v_prediction": "v"}[kind]
    inner = network(law, DISCRETE, short)
    scheduler = SimpleNamespace(alphas_cumprod=DISCRETE.alphas_cumprod, config=SimpleNamespace(prediction_type=kind))
    prior = from_diffusers(lambda z, t: SimpleNamespace(sample=inner(z, t)), scheduler, law.event_shape)
    assert isinstance(prior, make)
    sigmas = log_uniform(4, 0.1, 10.0)
    torch.testing.assert_close(prior.denoise(batch(sigmas), sigmas), law.denoise(batch(sigmas), sigmas))


def test_bad_settings_are_named(law):
    fine = network(law, DISCRETE, "eps")
    with pytest.raises(TypeError, match="network must be a callable"):
        DenoiserPrior(None, (1, 2, 2), (0.1, 1.0))
    with pytest.raises(ValueError, match="event_shape"):
        DenoiserPrior(fine, (), (0.1, 1.0))
    with pytest.raises(ValueError, match="sigma_range must rise"):
        DenoiserPrior(fine, (1, 2, 2), (1.0, 0.1))
    with pytest.raises(ValueError, match="sigma_range must be positive"):
        DenoiserPrior(fine, (1, 2, 2), (0.0, 0.1))
    with pytest.raises(ValueError, match="scale"):
        DenoiserPrior(fine, (1, 2, 2), (0.1, 1.0), scale=0.0)
    with pytest.raises(TypeError, match="LinearVP or DiscreteVP for v prediction, got FlowSchedule"):
        VPrior(fine, (1, 2, 2), FlowSchedule())
    with pytest.raises(TypeError, match="FlowSchedule, got LinearVP"):
        FlowPrior(fine, (1, 2, 2), LinearVP())
    with pytest.raises(TypeError, match="schedule must be a sciinstruct.diffusion.Schedule, got list"):
        EpsPrior(fine, (1, 2, 2), [0.1, 0.2])
    with pytest.raises(PriorError, match="alphas_cumprod"):
        from_diffusers(fine, SimpleNamespace(), (1, 2, 2))
    with pytest.raises(PriorError, match="prediction_type must be one of"):
        scheduler = SimpleNamespace(alphas_cumprod=[0.9, 0.1], config=SimpleNamespace(prediction_type="sample"))
        from_diffusers(fine, scheduler, (1, 2, 2))


def test_bad_calls_are_named(law):
    prior = EpsPrior(network(law, DISCRETE, "eps"), law.event_shape, DISCRETE)
    x = torch.zeros(3, 1, 2, 2)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 1, 2, 2\)"):
        prior.denoise(torch.zeros(3, 2, 2), 1.0)
    with pytest.raises(ValueError, match="sigma must be positive"):
        prior.denoise(x, 0.0)
    with pytest.raises(ValueError, match=r"of shape \(3,\), got \(2,\)"):
        prior.denoise(x, torch.ones(2))
    wrong = EpsPrior(lambda z, t: z[:, :, :1], (1, 2, 2), DISCRETE)
    with pytest.raises(PriorError, match=r"shape \(3, 1, 2, 2\), got \(3, 1, 1, 2\)"):
        wrong.denoise(x, 1.0)
    with pytest.raises(PriorError, match="got SimpleNamespace"):
        EpsPrior(lambda z, t: SimpleNamespace(sample=z), (1, 2, 2), DISCRETE).denoise(x, 1.0)
