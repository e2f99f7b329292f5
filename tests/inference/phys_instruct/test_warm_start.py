"""Regression on the teacher's own answers: what it is exact for, what it leaves, and that it can be interrupted."""

import pytest
import torch

from sciinstruct.inference.phys_instruct import PhysInstruct
from sciinstruct.inference.phys_instruct.warm_start import Pairs, regression, solve_pairs, warm_start

C = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=torch.float64)
PAIRS = 512


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flow_of_the_gaussian(high):
    """The matrix of the probability flow from noise of standard deviation `high` to zero."""
    values, vectors = torch.linalg.eigh(C)
    return (vectors * (values / (values + high**2)).sqrt() * high) @ vectors.T


def test_pairs_are_the_probability_flow(gaussian_teacher):
    """Twenty-four steps of order three."""
    pairs = solve_pairs(gaussian_teacher(C), 300, seeded())
    exact = pairs.z.double().reshape(-1, 2) @ flow_of_the_gaussian(20.0)
    assert pairs.z.shape == pairs.x.shape == (300, 1, 1, 2)
    assert float((pairs.x.double().reshape(-1, 2) - exact).norm() / exact.norm()) < 0.005


def test_the_first_call_learns_the_law_where_it_can_represent_the_flow(gaussian_teacher):
    """S (S + s^2)^-1 s z is the flow for one S; a copy of the teacher answers with a quarter of the amplitude."""
    teacher, level = gaussian_teacher(C), 2.5
    flow = flow_of_the_gaussian(20.0)
    z = torch.randn(PAIRS, 1, 1, 2, generator=seeded(1))
    pairs = Pairs(z, (z.double().reshape(-1, 2) @ flow).float().reshape(z.shape))
    with torch.no_grad():
        teacher.root.mul_(2.6)  # a few hundred small steps from where it has to go
    warm_start(teacher, pairs, (level,), 8, 0.5, seeded(2))
    found = teacher.denoise(level * z, torch.full((PAIRS,), level)).detach().double().reshape(-1, 2)
    exact = z.double().reshape(-1, 2) @ flow
    assert float((found - exact).norm() / exact.norm()) < 0.02


def test_later_calls_are_denoisers_of_the_same_fields(gaussian_teacher):
    """At the minimum over denoisers the relative error is one: for isotropic fields the teacher is that linear guess.

    The first call answers zeros, whose relative error is one, too.
    """
    teacher = gaussian_teacher(0.25 * torch.eye(2))
    z = torch.zeros(4096, 1, 1, 2)
    x = 0.5 * torch.randn(4096, 1, 1, 2, generator=seeded())

    class OnlyLater(torch.nn.Module):
        def denoise(self, noisy, sigma):
            clean = teacher.denoise(noisy, sigma)
            clean[sigma == 2.5] = 0.0
            return clean

    found = regression(OnlyLater(), Pairs(z, x), (2.5, 0.4, 0.1), 8192, 0.5, seeded(1))
    assert float(found.detach()) == pytest.approx(1.0, abs=0.05)


SHORT = PhysInstruct(
    pairs=12, law_steps=2, iterations=3, batch=8, n_aux=1, eval_every=1, eval_samples=16, warmup=0.0, ramp=0.0
)


def weights(student):
    return torch.cat([p.flatten() for p in (*student.network.parameters(), *student.auxiliary.parameters())])


def test_a_warm_run_resumes_bit_for_bit(teacher, burgers, true_fields, tmp_path):
    path = tmp_path / "state"

    def interrupt(step, info):
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="no state of the run passed"):
        whole = SHORT.train(teacher, burgers, true_fields, generator=1)
        with pytest.raises(KeyboardInterrupt):
            SHORT.train(teacher, burgers, true_fields, generator=1, checkpoint=path, callback=interrupt)
        again = SHORT.train(teacher, burgers, true_fields, generator=7, checkpoint=path, resume=True)
    assert torch.equal(weights(whole), weights(again)) and whole.curves == again.curves
    assert min(whole.curves["anchor"]) > 0


def test_an_interrupted_start_leaves_no_checkpoint(teacher, burgers, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sciinstruct.inference.phys_instruct.run.warm_start", stop)
    with pytest.raises(KeyboardInterrupt):
        SHORT.train(teacher, burgers, generator=1, checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("wrong", [{"pairs": -1}, {"law_steps": -1}, {"anchor": -0.5}, {"anchor": float("nan")}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PhysInstruct(**wrong)
