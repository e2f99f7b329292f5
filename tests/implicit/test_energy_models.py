"""Energies: losses against closed forms, densities learned from data, files, bad input."""

import math

import pytest
import torch

from sciinstruct.core import SolverError
from sciinstruct.implicit import FunctionTarget, ImplicitSampler, check_target
from sciinstruct.implicit.energy_models import (
    EnergyModel,
    EnergyTraining,
    contrastive_loss,
    diffusion_contrastive_loss,
    langevin,
)

QUICK = {"width": 32, "depth": 2, "batch": 128, "steps": 300, "proposals": 8, "chain_steps": 10}


def test_diffusion_contrastive_loss_of_a_gaussian_is_its_closed_form(generator):
    """E = x^2 / 2v on data of variance 1: the loss is smallest where v is 1."""
    tau, n, m = 0.8, 4000, 400
    x, noise = (torch.randn(n, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    xi = torch.randn(m, n, 1, generator=generator, dtype=torch.float64)
    losses = {}
    for v in (0.6, 1.0, 1.6):
        losses[v] = float(diffusion_contrastive_loss(lambda z, v=v: 0.5 * z[:, 0].square() / v, x, noise, xi, tau))
        y = x + tau * noise
        mean = 0.5 * float(x.square().mean()) / v - 0.5 * float(y.square().mean()) / (v + tau**2)
        exact = mean - 0.5 * math.log1p(tau**2 / v)
        # M proposals: the logarithm of an average is low by its variance / 2M, the bounding 1 raises it by about 1/M
        assert losses[v] == pytest.approx(exact, abs=6 / m)
    assert losses[1.0] < min(losses[0.6], losses[1.6])


def test_contrastive_loss_moves_energies_of_data_down_and_of_chains_up():
    weight = torch.tensor(2.0, requires_grad=True)
    energy = lambda z: weight * z[:, 0]
    loss = contrastive_loss(energy, torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]]), 0.1)
    assert loss.item() == pytest.approx(2 * (2 - 5) + 0.1 * (4 * (1 + 9) / 2 + 4 * 25))
    loss.backward()
    assert float(weight.grad) == pytest.approx((2 - 5) + 0.1 * 2 * 2 * (5 + 25))


def test_langevin_has_the_variance_of_its_step(generator):
    """On N(0, 1) the chain is a first-order autoregression of variance 1 / (1 - h/4)."""
    target = FunctionTarget(lambda x: -0.5 * x.square().sum(1), 2)
    x = torch.zeros(8000, 2, dtype=torch.float64)
    y = langevin(target, x, steps=40, step=0.8, generator=generator)
    assert abs(float(y.var()) * (1 - 0.2) - 1) < 4.5 * (2 / 16000) ** 0.5
    assert torch.equal(x, torch.zeros_like(x))
    with pytest.raises(ValueError, match="step"):
        langevin(target, x, steps=1, step=0.0, generator=generator)


@pytest.mark.parametrize("objective", ["dcd", *(pytest.param(o, marks=pytest.mark.slow) for o in ("cd", "pcd"))])
def test_two_bumps_are_learned(objective, generator):
    """Two thirds at -1, one third at 1, width 0.3: KL on a grid to 0.1 for a run of seconds."""
    label = torch.rand(5000, 1, generator=generator) < 1 / 3
    data = torch.where(label, 1.0, -1.0) + 0.3 * torch.randn(5000, 1, generator=generator)
    settings = EnergyTraining(objective=objective, learning_rate=5e-3, tau=0.4, **QUICK)
    model = settings.train(data, generator=0)
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64)[:, None]
    bumps = torch.stack([-((x[:, 0] + 1) ** 2) / 0.18 + math.log(2), -((x[:, 0] - 1) ** 2) / 0.18]).logsumexp(0)
    true, found = bumps.log_softmax(0), model.log_prob(x).log_softmax(0)
    assert float((true.exp() * (true - found)).sum()) < 0.1
    short = EnergyTraining(objective=objective, **QUICK | {"steps": 10})
    twice = [short.train(data, generator=0).log_prob(x) for _ in range(2)]
    assert torch.equal(*twice)


@pytest.mark.parametrize("objective", ["dcd", "cd", "pcd"])
def test_an_interrupted_training_resumes_to_the_same_model(objective, tmp_path, generator):
    """Bit for bit: weights, their average, optimiser, chains and random state are all kept."""
    data, path = torch.randn(200, 2, generator=generator), tmp_path / "run.pt"
    settings = EnergyTraining(objective=objective, **QUICK | {"steps": 12, "chain_steps": 2})
    whole = settings.train(data, generator=1)

    def stop(step, info):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.train(data, generator=1, callback=stop, checkpoint=path)
    seen = []
    resumed = settings.train(
        data, generator=99, callback=lambda step, info: seen.append(step), checkpoint=path, resume=True
    )
    assert seen == [8, 9, 10, 11]
    assert torch.equal(resumed.log_prob(data), whole.log_prob(data))


def test_a_failed_training_keeps_its_state(tmp_path, generator):
    """A loss that becomes infinite ends the run with the step named and the state written."""
    data, path = torch.randn(50, 2, generator=generator), tmp_path / "run.pt"
    settings = EnergyTraining(**QUICK | {"steps": 30, "learning_rate": 1e30})
    with pytest.raises(SolverError, match="at step"):
        settings.train(data, generator=0, checkpoint=path)
    assert path.is_file()


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path, generator):
    data, path = torch.randn(50, 2, generator=generator), tmp_path / "run.pt"
    short = QUICK | {"steps": 2}
    settings = EnergyTraining(**short)
    settings.train(data, generator=0, checkpoint=path)
    others = [
        (EnergyTraining(**short | {"batch": 64}), data),
        (EnergyTraining(**short | {"objective": "pcd"}), data),
        (settings, data[:40]),
        (settings, 2 * data),
    ]
    for other, x in others:
        with pytest.raises(SolverError, match="other data or other settings"):
            other.train(x, checkpoint=path, resume=True)
    with pytest.raises(SolverError, match="does not exist"):
        settings.train(data, checkpoint=tmp_path / "none.pt", resume=True)
    with pytest.raises(ValueError, match="checkpoint"):
        settings.train(data, resume=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SolverError, match="damaged"):
        settings.train(data, checkpoint=path, resume=True)


def test_a_model_is_a_target_and_survives_files(tmp_path, generator):
    images = torch.rand(64, 1, 4, 4, generator=generator)
    model = EnergyTraining(**QUICK | {"steps": 5}).train(images, generator=0, name="squares")
    check_target(model, twice=True)
    settings = {"steps": 3, "warmup": 2, "batch": 16, "width": 8, "depth": 1, "particles": 64, "start_scale": 1.0}
    x = ImplicitSampler(**settings).train(model, generator=0).sample(5, 0)
    assert model.constrain(x).shape == (5, 1, 4, 4)
    assert torch.equal(model.unconstrain(model.constrain(x)), x)
    assert model.base_draws(7, generator).shape == (7, 16)
    model.save(tmp_path / "m")
    loaded = EnergyModel.load(tmp_path / "m")
    assert loaded.name == "squares" and torch.equal(loaded.log_prob(x), model.log_prob(x))
    (tmp_path / "m" / "card.json").write_text('{"format": 1, "kind": "other"}')
    with pytest.raises(SolverError):
        EnergyModel.load(tmp_path / "m")


def test_what_cannot_be_learned_from_is_refused():
    for wrong, text in [({"objective": "score"}, "objective"), ({"steps": 0}, "steps"), ({"tau": 0.0}, "tau")]:
        with pytest.raises(ValueError, match=text):
            EnergyTraining(**wrong)
    for data, text in [(torch.zeros(5, 2), "different points"), (torch.full((3, 2), math.nan), "finite")]:
        with pytest.raises(ValueError, match=text):
            EnergyTraining(**QUICK).train(data)
    with pytest.raises(ValueError, match="scale"):
        EnergyModel((2,), scale=0.0)
    with pytest.raises(ValueError, match="depth"):
        EnergyModel((2,), depth=0)
