"""Training: one step, the loop, resuming, what goes wrong."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from sciinstruct.core import PriorError, SolverError
from sciinstruct.diffusion import EDMPrecond, NoiseLevels, PriorTraining, UNet, UNetConfig
from sciinstruct.diffusion.data import batch_index, step_generator
from sciinstruct.diffusion.engine import AccelerateEngine, SingleEngine
from sciinstruct.diffusion.training import (
    CHECKPOINT,
    fit,
    init,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    train_step,
)
from sciinstruct.priors import MixtureOfFields, matern

SMALL = UNetConfig(channels=16, multipliers=(1, 2), embedding=32)
CONFIG = PriorTraining(steps=12, batch=8, warmup=2, checkpoint_every=5, ema=0.9)


def _start(config=CONFIG, engine=None, network=SMALL):
    torch.manual_seed(config.seed)
    return init(UNet(network), config, engine)


def _draw(step, n=8, side=8):
    return 0.5 * torch.randn(n, 1, side, side, generator=step_generator(7, step))


def _same(a, b):
    assert a.losses == b.losses and a.step == b.step
    for x, y in ((a.denoiser.state_dict(), b.denoiser.state_dict()), (a.ema.average, b.ema.average)):
        assert all(torch.equal(x[k], y[k]) for k in x)


def _risk(denoiser, exact, clean, sigma, noise):
    """Excess risk E|D - D*|^2 / E|D* - x0|^2."""
    x = clean + sigma * noise
    with torch.no_grad():
        best = exact.denoise(x, sigma)
        return float((denoiser(x, sigma) - best).square().mean() / (best - clean).square().mean())


def test_200_steps_lower_the_excess_risk_on_a_mixture_of_fields():
    g = torch.Generator().manual_seed(0)
    spectrum = matern((16, 16), 3.0, variance=0.1)
    means = 0.4 * torch.randn(4, 1, 1, 1, generator=g) + MixtureOfFields(
        torch.zeros(1, 1, 16, 16), matern((16, 16), 4.0, variance=0.15)
    ).sample_exact(4, generator=g, dtype=torch.float32)
    exact = MixtureOfFields(means, spectrum)
    config = PriorTraining(steps=200, batch=16, warmup=20, lr=2e-3, ema=0.97, levels=NoiseLevels(0.03, 10.0))
    network = UNetConfig(channels=16, multipliers=(1, 2, 2))
    state = _start(config, network=network)
    clean = exact.sample_exact(128, generator=g, dtype=torch.float32)
    noise = torch.randn(clean.shape, generator=g)
    snapshot = EDMPrecond(UNet(network))
    risks = []

    def look(step, info):
        if step in (0, 49, 99, 199):
            state.ema.copy_to(snapshot)
            risks.append([_risk(snapshot, exact, clean, s, noise) for s in (0.15, 0.5, 1.5)])

    def draw(step):
        return exact.sample_exact(16, generator=step_generator(1, step), dtype=torch.float32)

    fit(state, draw, config, callback=look)
    risks = torch.tensor(risks)
    assert (risks.diff(dim=0) < 0).all(), risks
    assert (risks[-1] < 0.4 * risks[0]).all(), risks


def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = fit(_start(), _draw, CONFIG)
    half = _start()
    for step in range(5):
        train_step(half, _draw(step), CONFIG)
    save_checkpoint(tmp_path / CHECKPOINT, half, CONFIG, "images")
    again = _start(replace(CONFIG, checkpoint_every=3))
    load_checkpoint(tmp_path / CHECKPOINT, again, replace(CONFIG, checkpoint_every=3), "images")
    _same(fit(again, _draw, CONFIG), whole)


def test_ctrl_c_loses_nothing(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored where the suite runs in the background
    whole = fit(_start(), _draw, CONFIG)

    def press(step, info):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="step 6"):
        fit(_start(), _draw, CONFIG, folder=tmp_path, callback=press)
    again = _start()
    load_checkpoint(tmp_path / CHECKPOINT, again, CONFIG)
    assert again.step == 7
    _same(fit(again, _draw, CONFIG, folder=tmp_path), whole)
    assert signal.getsignal(signal.SIGINT) is before


def test_no_half_written_files_are_left(tmp_path):
    fit(_start(), _draw, CONFIG, folder=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_nan_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    def draw(step):
        return _draw(step) * (float("nan") if step == 7 else 1.0)

    state = _start()
    with pytest.raises(SolverError, match="step 7.*denoising loss is nan"):
        fit(state, draw, CONFIG, folder=tmp_path)
    kept = _start()
    load_checkpoint(tmp_path / CHECKPOINT, kept, CONFIG)
    good = fit(_start(), _draw, replace(CONFIG, steps=12), callback=None)
    assert kept.step == 7 and kept.losses == good.losses[:7]
    _same(fit(kept, _draw, CONFIG), good)


def test_gradient_that_overflows_is_named(tmp_path):
    state = _start()
    with torch.no_grad():
        state.denoiser.network.last.weight.fill_(1e38)
    with pytest.raises(SolverError, match="step 0: the (denoising loss|gradient norm) is (inf|nan)"):
        train_step(state, _draw(0), CONFIG)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "pickle"])
def test_damaged_checkpoint_is_one_clear_line(tmp_path, damage):
    path = tmp_path / CHECKPOINT
    fit(_start(), _draw, replace(CONFIG, steps=2), folder=tmp_path)
    content = path.read_bytes()
    if damage == "pickle":
        torch.save({"config": os.system}, path)
    else:
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "foreign": b"not a checkpoint", "empty": b""}[damage]
        )
    with pytest.raises(PriorError, match="cannot resume from .*damaged or foreign") as error:
        load_checkpoint(path, _start(), CONFIG)
    assert "\n" not in str(error.value)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    fit(_start(), _draw, replace(CONFIG, steps=2), folder=tmp_path, data="one")
    path = tmp_path / CHECKPOINT
    with pytest.raises(PriorError, match="lr was 0.001, now 0.002"):
        load_checkpoint(path, _start(), replace(CONFIG, steps=2, lr=2e-3), "one")
    with pytest.raises(PriorError, match="other images"):
        load_checkpoint(path, _start(), replace(CONFIG, steps=2), "two")
    with pytest.raises(PriorError, match="another network"):
        load_checkpoint(path, _start(network=UNetConfig(channels=32)), replace(CONFIG, steps=2), "one")


def test_seed_decides_the_run():
    one, two = (fit(_start(replace(CONFIG, steps=3, seed=s)), _draw, replace(CONFIG, steps=3, seed=s)) for s in (1, 2))
    assert one.losses != two.losses
    _same(one, fit(_start(replace(CONFIG, steps=3, seed=1)), _draw, replace(CONFIG, steps=3, seed=1)))


def test_accumulated_parts_give_the_gradient_of_the_whole():
    config = replace(CONFIG, precision="float32", clip=1e9)
    whole, parts = _start(config), _start(config)
    a = train_step(whole, _draw(0), config)
    b = train_step(parts, _draw(0), replace(config, accumulate=3))
    assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)


def test_learning_rate_rises_holds_and_falls():
    config = PriorTraining(steps=1000, lr=1.0, warmup=100)
    assert learning_rate(config, 0) == pytest.approx(1 / 101)
    assert learning_rate(config, 100) == learning_rate(config, 500) == 1
    assert learning_rate(config, 750) == pytest.approx(0.505)
    assert learning_rate(config, 999) == pytest.approx(0.01, abs=1e-4)


class Silent(torch.nn.Module):
    """A network that stays untrained, so that the loss at every level is known."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, c_noise):
        return 0.0 * self.unused * x


def test_learned_variance_finds_the_log_of_the_loss():
    config = replace(CONFIG, steps=800, learned_variance=True, lr=0.02, warmup=0, ema=0.0)
    state = fit(init(Silent(), config), lambda step: 2 * _draw(step, n=64), config)  # twice as wide as sigma_data
    sigma = torch.tensor([0.05, 0.5, 5.0, 20.0])
    expected = (4 * sigma**2 + 0.25) / (sigma**2 + 0.25)
    torch.testing.assert_close(state.denoiser.log_variance(sigma).exp(), expected, rtol=0.1, atol=0)


def test_accelerate_in_one_process_trains_the_same_weights():
    pytest.importorskip("accelerate")
    config = replace(CONFIG, steps=3)
    one = fit(_start(config, SingleEngine()), _draw, config)
    two = fit(_start(config, AccelerateEngine(cpu=True)), _draw, config)
    _same(one, two)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch", 0), ("lr", 0.0), ("clip", -1.0), ("seed", -1)])
def test_bad_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        PriorTraining(**{name: value})


def test_every_epoch_shows_every_image_once():
    index = torch.cat([batch_index(10, 4, step, seed=3) for step in range(5)])
    first, second = index[:10], index[10:]
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist()


def test_batch_may_exceed_the_set():
    index = batch_index(3, 8, 0, seed=0)
    assert index[:3].sort().values.tolist() == index[3:6].sort().values.tolist() == [0, 1, 2]
