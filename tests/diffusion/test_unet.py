"""The default network."""

import pytest
import torch
import torch.nn.functional as F

from sciinstruct.diffusion import PRESETS, UNet, UNetConfig
from sciinstruct.diffusion.unet import _places, _Wrap

F64 = torch.float64


def _network(**settings):
    torch.manual_seed(0)
    net = UNet(UNetConfig(**settings)).double()
    for p in net.parameters():
        if not p.any():
            p.data = 0.05 * torch.randn_like(p)
    return net


def _images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("settings", [{}, {"in_channels": 3, "out_channels": 2}, {"multipliers": (1,), "blocks": 2}])
def test_shapes(settings):
    net = _network(**settings)
    out = net(_images(2, net.config.in_channels, 16, 24), torch.zeros(2, dtype=F64))
    assert out.shape == (2, net.config.out_channels, 16, 24)


def test_starts_silent():
    out = UNet()(torch.randn(2, 1, 16, 16), torch.zeros(2))
    assert (out == 0).all()


def test_periodic_network_commutes_with_shifts():
    net, x, c = _network(periodic=True), _images(1, 1, 32, 32), torch.zeros(1, dtype=F64)
    for shift in ((8, 0), (0, 16), (24, 8)):
        torch.testing.assert_close(net(x.roll(shift, (2, 3)), c), net(x, c).roll(shift, (2, 3)), rtol=1e-9, atol=1e-10)


def test_a_network_told_positions_does_not_commute_with_shifts():
    net, x, c = _network(periodic=True, positions=True), _images(1, 1, 32, 24), torch.zeros(1, dtype=F64)
    difference = net(x.roll(8, 2), c) - net(x, c).roll(8, 2)
    assert difference.std() > 0.01 * net(x, c).std()


def test_positions_go_once_around_the_image():
    rows_sin, rows_cos, columns_sin, columns_cos = _places(_images(2, 3, 8, 12))[1]
    assert rows_sin.shape == (8, 12)
    torch.testing.assert_close(rows_sin.square() + rows_cos.square(), torch.ones(8, 12, dtype=F64))
    for wave, axis in ((rows_cos, 0), (columns_sin, 1)):
        power = torch.fft.rfft(wave, dim=axis).abs().sum(1 - axis)
        assert power[1] > 1e6 * power[2:].max()
    assert rows_sin[2, 0] == 1 and columns_cos[0, 6] == -1  # a quarter and half of the way


@pytest.mark.parametrize("side", [1, 2, 5])
def test_periodic_padding_and_its_gradients_are_those_of_circular_padding(side):
    x, v = _images(2, 3, side, side + 1), _images(2, 3, side + 2, side + 3, seed=1)
    x.requires_grad_()
    ours, reference = _Wrap.apply(x), F.pad(x, (1, 1, 1, 1), mode="circular")
    assert torch.equal(ours, reference)
    pull = lambda y: torch.autograd.grad((y.sin() * v).sum(), x)[0]
    torch.testing.assert_close(pull(ours), pull(reference))
    assert torch.autograd.gradgradcheck(lambda z: _Wrap.apply(z).sin(), _images(1, 1, 3, 3).requires_grad_())


def test_zero_padding_does_not_wrap_around():
    net, c = _network(multipliers=(1,)), torch.zeros(1, dtype=F64)
    x = _images(1, 1, 32, 32)
    assert not torch.allclose(net(x.roll(8, 3), c), net(x, c).roll(8, 3), rtol=1e-3)


def test_noise_level_reaches_the_output_smoothly():
    net, x = _network(), _images(1, 1, 16, 16)
    at = lambda c: net(x, torch.tensor([c], dtype=F64))
    far, near, nearer = [(at(0.1 + d) - at(0.1)).norm() for d in (0.5, 1e-3, 1e-4)]
    assert far > 0
    assert 9 < near / nearer < 11  # differentiable: ten times closer, ten times less


def test_rows_do_not_mix():
    net, x, c = _network(), _images(3, 1, 16, 16), torch.tensor([-1.0, 0.0, 0.9], dtype=F64)
    torch.testing.assert_close(net(x, c)[1:2], net(x[1:2], c[1:2]))


def test_every_parameter_is_used():
    net = _network()
    net(_images(2, 1, 16, 16), torch.tensor([0.1, 0.5], dtype=F64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_presets_grow():
    sizes = [sum(p.numel() for p in UNet(PRESETS[name]).parameters()) for name in ("unet_s", "unet_m", "unet_l")]
    assert 0.5e6 < sizes[0] < 1.5e6 < sizes[1] < 8e6 < sizes[2] < 40e6


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"channels": 20}, "multiple of 16"),
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (1, 0)}, "multipliers"),
        ({"blocks": 0}, "blocks"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_bad_shapes_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        UNetConfig(**settings)


def test_odd_images_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="multiples of 8.*pad"):
        UNet()(torch.zeros(1, 1, 20, 16), torch.zeros(1))
