"""Ambient training: its losses are least at the clean expectation, and it says where it does not apply."""

import pytest
import torch

from sciinstruct.core import GaussianNoise, PriorError
from sciinstruct.inference.baselines.ambient import Ambient, masked_denoiser
from sciinstruct.inference.baselines.ambient_losses import ambient_loss, consistency_loss
from sciinstruct.inference.baselines.ambient_prior import AmbientPrior
from sciinstruct.inference.baselines.coordinates import Coordinates
from sciinstruct.inference.blur_simulator import BlurSimulator
from sciinstruct.inference.simulator import MaskSimulator, OperatorSimulator
from sciinstruct.operators import GaussianBlur, ImageMask
from sciinstruct.priors import GaussianPrior, NetworkPrior
from sciinstruct.priors.problems.base import MatrixOperator

F64 = torch.float64
N = 40000
MU = torch.tensor([0.3, -0.2, 0.1], dtype=F64)
SIGMA = torch.tensor([[0.3, 0.15, 0.0], [0.15, 0.25, 0.1], [0.0, 0.1, 0.2]], dtype=F64)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def normal(*shape, g):
    return torch.randn(*shape, generator=g, dtype=F64)


def events(g, n=N):
    return MU + normal(n, 3, g=g) @ torch.linalg.cholesky(SIGMA).T


def expectation(x, sigma, seen):
    """E[u | x at level sigma on the seen coordinates] under N(MU, SIGMA), item by item."""
    inverse = torch.linalg.inv(SIGMA)
    weight = seen / sigma[:, None].square()
    right = inverse @ MU + weight * x
    return torch.linalg.solve(inverse + weight.diag_embed(), right[..., None])[..., 0]


def slopes(denoise, data, hidden, g):
    """Mean gradient of the loss in an affine change of the denoiser, in standard errors: 0 at the minimiser."""
    change = torch.zeros(N, 3, 4, dtype=F64, requires_grad=True)
    sigma = 0.4 + torch.rand(N, generator=g, dtype=F64)

    def moved(x, level, seen):
        return denoise(x, level, seen) + (change @ torch.cat([x, torch.ones_like(x[:, :1])], 1)[..., None])[..., 0]

    loss = ambient_loss(moved, data, sigma, hidden, normal(N, 3, g=g), (3,))
    (each,) = torch.autograd.grad(loss.sum(), change)
    return each.mean(0) / (each.std(0) / N**0.5)


def cases(g):
    """Data of each kind: the noise of every coordinate its own; and masks, with more hidden."""
    u, noise = events(g), torch.tensor([0.4, 0.2, 0.05], dtype=F64)
    none = torch.zeros(N, 3, dtype=torch.bool)
    measured = torch.rand(N, 3, generator=g) < 0.6
    hidden = torch.rand(N, 3, generator=g) < 0.3
    s = torch.where(measured, noise, torch.ones_like(noise))
    masked = torch.where(measured, u + s * normal(N, 3, g=g), torch.zeros_like(u))
    return {
        "noise": (Coordinates(u + noise * normal(N, 3, g=g), noise.square().reciprocal()[None], None), none),
        "masks": (Coordinates(masked, measured / s.square(), None), hidden),
    }


@pytest.mark.parametrize("kind", ["noise", "masks"])
def test_the_loss_is_least_at_the_clean_expectation_given_what_is_shown(kind):
    g = seeded()
    data, hidden = cases(g)[kind]
    found = slopes(expectation, data, hidden, g)
    assert float(found.abs().max()) < 4


@pytest.mark.parametrize("kind", ["noise", "masks"])
def test_it_is_not_least_at_the_expectation_of_the_noisy_data(kind):
    """What regression on the data as they are would give, at the same power of the test."""
    g = seeded()
    data, hidden = cases(g)[kind]
    extra = torch.diag(torch.tensor([0.4, 0.2, 0.05], dtype=F64).square())

    def noisy(x, sigma, seen):
        clean = expectation(x, sigma, seen)
        return clean + seen * (x - clean) @ extra / sigma[:, None].square()

    assert float(slopes(noisy, data, hidden, g).abs().max()) > 20


def test_clean_data_have_the_usual_weight():
    """Without noise or masks the loss is the weighted denoising error, one for an untrained network."""
    g = seeded()
    u = 0.5 * normal(N, 3, g=g)
    data, sigma = Coordinates(u, torch.full((1, 3), 1e30, dtype=F64), None), torch.full((N,), 0.7, dtype=F64)
    noise, none = normal(N, 3, g=g), torch.zeros(N, 3, dtype=torch.bool)

    def skip(x, level, seen):
        return 0.25 / (0.25 + level[:, None].square()) * x

    found = ambient_loss(skip, data, sigma, none, noise, (3,))
    error = skip(u + 0.7 * noise, sigma, None) - u
    torch.testing.assert_close(found, (0.25 + 0.49) / (0.25 * 0.49) * error.square().mean(1))
    assert abs(float(found.mean()) - 1) < 4 * float(found.std()) / N**0.5


def test_consistency_holds_for_the_exact_denoiser_and_for_no_other():
    """A Gaussian's denoiser is affine: draws and their mirror images leave no noise at all."""
    prior, g = GaussianPrior(MU, SIGMA), seeded()
    x = MU + 0.6 * normal(500, 3, g=g)
    found = consistency_loss(prior.denoise, x, 0.5, 0.1, g)
    assert float(found.abs().max()) < 1e-20
    wrong = consistency_loss(lambda u, s: 0.9 * prior.denoise(u, s), x, 0.5, 0.1, g)
    assert float(wrong.min()) >= 0 and float(wrong.mean()) > 1e-3


def half_masks(n, generator):
    return torch.rand(n, 1, 8, 8, generator=generator) < 0.5


def ramps(n=64):
    g = seeded(8)
    return torch.randn(n, 1, 1, 1, generator=g) + torch.linspace(0, 1, 8).expand(n, 1, 8, 8)


def test_what_the_mask_hides_does_not_reach_the_network():
    network, g = masked_denoiser((1, 8, 8), 0), seeded()
    for p in network.parameters():
        p.data.add_(0.05 * torch.randn(p.shape, generator=g))
    x, seen = torch.randn(3, 1, 8, 8, generator=g), half_masks(3, g).float()
    other = torch.where(seen > 0, x, 100 * torch.ones_like(x))
    torch.testing.assert_close(network(other, 0.3, seen), network(x, 0.3, seen))


def test_masked_images_train_and_give_a_prior_and_expectations():
    law = MaskSimulator((1, 8, 8), 0.1, half_masks)
    y = law.simulate(ramps(), seeded(1))
    settings = Ambient(steps=6, batch=16)
    found, again = (settings.train(y, law, generator=3) for _ in range(2))
    assert found.losses == again.losses and len(found.losses["ambient"]) == 6
    assert isinstance(found.prior, AmbientPrior) and found.prior.sigma_range[0] == found.lowest
    sample = found.prior.sample(2, generator=seeded(4))
    assert sample.shape == (2, 1, 8, 8) and sample.isfinite().all()
    torch.testing.assert_close(sample, again.prior.sample(2, generator=seeded(4)))
    assert found.mean(y[:3]).shape == (3, 1, 8, 8)


def test_noisy_images_give_a_prior_of_the_package():
    law = OperatorSimulator(ImageMask(torch.ones(1, 8, 8, dtype=torch.bool)), GaussianNoise(0.2))
    found = Ambient(steps=4, batch=16).train(law.simulate(ramps(), seeded(1)), law, generator=3)
    assert isinstance(found.prior, NetworkPrior) and found.prior.sigma_range[0] == 0.01
    assert len(found.losses["consistency"]) == 2
    above = Ambient(steps=4, batch=16, consistent=0.0).train(law.simulate(ramps(), seeded(1)), law, generator=3)
    assert above.prior.sigma_range[0] == above.lowest
    assert abs(above.lowest * above.prior.scale - 0.2) < 1e-6  # the data's noise, in physical units


@pytest.mark.slow
def test_a_gaussian_law_and_its_expectations_come_out_of_noisy_data():
    """Through a matrix and noise: the law within a tenth, as of joint training."""
    matrix = torch.tensor([[1.0, 0.3], [0.0, 0.8]])
    law, covariance = OperatorSimulator(MatrixOperator(matrix), GaussianNoise(0.5)), SIGMA[:2, :2] * 4
    prior = GaussianPrior(MU[:2], covariance)
    y = law.simulate(prior.sample(20000, generator=seeded(), dtype=F64).float(), seeded(1))
    found = Ambient(steps=2000, batch=256).train(y, law, generator=1)
    x = found.prior.to_physical(found.prior.sample(20000, generator=seeded(2))).double()
    assert (torch.cov(x.T) - covariance).abs().max() < 0.1 * float(covariance.diagonal().max())


REFUSED = {
    "a blur": (OperatorSimulator(GaussianBlur(1.5, (8, 8)), GaussianNoise(0.05)), "times more noise|no trace"),
    "blurs": (BlurSimulator((1, 8, 8), (0.5, 1.0), (0.05, 0.1)), "mixes the event's numbers"),
    "a fixed mask": (
        OperatorSimulator(ImageMask(torch.arange(64).reshape(1, 8, 8) > 9), GaussianNoise(0.05)),
        "10 of 64 directions",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_instruments_it_does_not_apply_to_are_refused(name):
    law, said = REFUSED[name]
    x = ramps() + torch.randn(64, 1, 8, 8, generator=seeded(2))
    with pytest.raises(PriorError, match=said):
        Ambient(steps=4, batch=4).train(law.simulate(x, seeded()), law, generator=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps and batch"),
        ({"hide": 0.0}, "hide must lie between"),
        ({"consistent": 1.0}, "consistent must lie"),
        ({"rate": 0.0}, "rate and clip"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Ambient(**wrong)
