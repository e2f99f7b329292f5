"""Preconditioning, noise levels and loss of denoiser training."""

import math

import pytest
import torch
from torch import nn

from sciinstruct.diffusion import EDMPrecond, NoiseLevels, UNet, UNetConfig, denoising_loss
from sciinstruct.diffusion.edm import LogVariance, loss_weight, resolve_precision
from sciinstruct.diffusion.unet import make_unet

F64 = torch.float64


class Constant(nn.Module):
    """A network whose raw output is its input times a number."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain

    def forward(self, x, c_noise):
        self.seen = x, c_noise
        return self.gain * x


def _wake(network, seed=0):
    """Give the zero-initialised layers weights, as training would."""
    g = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        if not p.any():
            p.data = 0.05 * torch.randn(p.shape, generator=g)
    return network


def test_a_silent_network_is_the_exact_denoiser_of_white_gaussian_images():
    d = EDMPrecond(Constant(0.0), 0.5)
    x, sigma = torch.randn(4, 1, 3, 3, dtype=F64), torch.tensor([0.01, 0.3, 2.0, 80.0], dtype=F64)
    exact = x * (0.25 / (0.25 + sigma**2)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(d(x, sigma), exact, rtol=1e-12, atol=0)


def test_the_network_sees_unit_variance_and_a_quarter_of_log_sigma():
    net = Constant(0.0)
    g = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.02, 0.5, 30.0], dtype=F64)
    clean = 0.5 * torch.randn(3, 1, 64, 64, generator=g, dtype=F64)
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * torch.randn(clean.shape, generator=g, dtype=F64)
    EDMPrecond(net, 0.5)(noisy, sigma)
    seen, c_noise = net.seen
    assert (seen.var((1, 2, 3)) - 1).abs().max() < 4 * math.sqrt(2 / 64**2)
    torch.testing.assert_close(c_noise, sigma.log() / 4)


def test_c_out_scales_the_network():
    x, s = torch.randn(2, 1, 2, 2, dtype=F64), 0.7
    total = math.hypot(s, 0.5)
    expected = x * 0.25 / total**2 + s * 0.5 / total * 3.0 * x / total
    torch.testing.assert_close(EDMPrecond(Constant(3.0), 0.5)(x, s), expected)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 40.0])
def test_loss_of_an_untrained_network_is_one_at_every_level(sigma):
    g = torch.Generator().manual_seed(1)
    clean, noise = 0.5 * torch.randn(64, 1, 32, 32, generator=g), torch.randn(64, 1, 32, 32, generator=g)
    loss = denoising_loss(EDMPrecond(UNet(UNetConfig()), 0.5), clean, torch.full((64,), sigma), noise, 0.5)
    assert loss.shape == (64,)
    assert abs(loss.mean() - 1) < 4 * math.sqrt(2 / clean.numel()) + 1e-3  # float32 leaves 1e-3 at the smallest level


def test_loss_weight_is_the_inverse_square_of_c_out():
    sigma = torch.logspace(-2, 2, 9, dtype=F64)
    c_out = sigma * 0.3 / (sigma**2 + 0.09).sqrt()
    torch.testing.assert_close(loss_weight(sigma, 0.3), c_out**-2)


def test_levels_follow_their_law():
    law, n = NoiseLevels(0.01, 40.0), 20000
    logs = law.sample(n, torch.Generator().manual_seed(2)).double().log().sort().values
    low, high = math.log(0.01), math.log(40.0)
    normal = torch.distributions.Normal(torch.tensor(-1.2, dtype=F64), 1.2)
    a, b = normal.cdf(torch.tensor([low, high], dtype=F64))
    cdf = 0.3 * (logs - low) / (high - low) + 0.7 * (normal.cdf(logs) - a) / (b - a)
    empirical = (torch.arange(n, dtype=F64) + 0.5) / n
    # strata bound the distance of the distribution functions by one per part; float32 logs add 1e-6
    assert (cdf - empirical).abs().max() < 2 / n + 1e-5


def test_no_decade_of_levels_is_missed_and_none_lies_outside():
    levels = NoiseLevels(0.01, 40.0).sample(1000, torch.Generator().manual_seed(3))
    assert levels.min() >= 0.01 * (1 - 1e-6) and levels.max() <= 40 * (1 + 1e-6)
    share = 0.3 * math.log(10) / math.log(4000)  # of the log-uniform part alone
    for start in (0.01, 0.1, 1.0, 4.0):
        assert ((levels >= start) & (levels < 10 * start)).float().mean() > share - 0.002


def test_one_sigma_for_all_equals_one_each_and_images_do_not_mix():
    d = EDMPrecond(_wake(UNet(UNetConfig())), 0.5, precision="float32")
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    together = d(x, 0.3)
    torch.testing.assert_close(d(x, torch.full((3,), 0.3)), together)
    torch.testing.assert_close(d(x[1:2], torch.tensor([0.3])), together[1:2], rtol=1e-4, atol=1e-5)


def test_double_network_gives_double_precision_and_double_images_keep_their_type():
    d = EDMPrecond(_wake(UNet(UNetConfig())), 0.5)
    x = torch.randn(2, 1, 16, 16, dtype=F64, generator=torch.Generator().manual_seed(0))
    assert d(x, 0.3).dtype == F64 and d(x.float(), 0.3).dtype == torch.float32
    d = d.double()
    x.requires_grad_()
    v = torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad((d(x, 0.3) * v).sum(), x)
    h = 1e-5
    difference = ((d(x + h * v, 0.3) - d(x - h * v, 0.3)) * v).sum() / (2 * h)
    torch.testing.assert_close((slope * v).sum(), difference, rtol=1e-7, atol=0)


def test_bfloat16_changes_the_answer_by_its_rounding_only():
    """Some forty roundings of 2^-9 rms in a row, in half of the networks; single ones amplify theirs."""
    x = 0.5 * torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for sigma in (0.01, 1.0, 30.0):
        errors = []
        for seed in range(11):
            net = _wake(make_unet(UNetConfig(), seed))
            with torch.no_grad():
                wide = EDMPrecond(net, 0.5, precision="float32")(x, sigma)
                narrow = EDMPrecond(net, 0.5, precision="bfloat16")(x, sigma)
            assert narrow.dtype == torch.float32
            network_part = (wide - 0.25 / (0.25 + sigma**2) * x).square().mean().sqrt()
            errors.append((narrow - wide).square().mean().sqrt() / network_part)
        assert torch.stack(errors).median() < 40**0.5 * 2**-8


def test_log_variance_starts_at_zero_and_depends_on_the_level():
    u = LogVariance()
    sigma = torch.logspace(-2, 1, 5)
    assert (u(sigma) == 0).all()
    u.weight.data.fill_(0.1)
    assert u(sigma).unique().numel() == 5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((0.0, 1.0), "sigma_min"), ((2.0, 1.0), "sigma_min"), ((0.1, math.inf), "sigma_max")],
)
def test_bad_ranges_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        NoiseLevels(*arguments)


def test_bad_precision_and_sigma_data_are_refused():
    with pytest.raises(ValueError, match="precision"):
        EDMPrecond(Constant(0.0), precision="float16")
    with pytest.raises(ValueError, match="sigma_data"):
        EDMPrecond(Constant(0.0), -1.0)
    with pytest.raises(ValueError, match="uniform"):
        NoiseLevels(uniform=2.0)
    assert resolve_precision("float32", "cpu") == torch.float32
