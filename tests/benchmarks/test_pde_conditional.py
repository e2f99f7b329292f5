"""The conditional benchmark draws, answers, judges, resumes and averages as it says."""

import json
from dataclasses import asdict

import pytest
import torch

from benchmarks import pde_conditional
from benchmarks.pde_fno import FNOTraining, masked, train_fno
from benchmarks.pde_methods import (
    Guided,
    Kriging,
    NeuralOperator,
    Simulator,
    Solve,
    StudentMAP,
    StudentPosterior,
    Variational,
    tune_guided,
)
from benchmarks.pde_tasks import Answer, Instance, dense_tasks_of, make_instance, measure, of_samples, tasks_of
from sciinstruct.core import Likelihood
from sciinstruct.datasets.pde import simulate_pairs
from sciinstruct.diffusion import EDMPrecond, UNetConfig
from sciinstruct.diffusion.unet import make_unet
from sciinstruct.inference.baselines import DiffusionPDE
from sciinstruct.inference.phys_instruct import Student
from sciinstruct.inference.phys_instruct.auxiliary import CallAuxiliary
from sciinstruct.operators.mask import PixelMask
from sciinstruct.operators.pde import Burgers, Darcy, Poisson
from sciinstruct.operators.pde_sensors import random_nodes
from sciinstruct.priors import Card, NetworkPrior

SMALL = UNetConfig(channels=16, multipliers=(1, 2), embedding=32)


@pytest.fixture(scope="module")
def burgers():
    return Burgers(8, 8, viscosity=0.05)


@pytest.fixture(scope="module")
def networks(burgers):
    """An untrained teacher and the student that is its copy."""
    card = Card((1, 8, 8), (0.02, 20.0), 0.5, 0.0, 0.5, asdict(SMALL), name="small", weights_sha256="0" * 64)
    network = make_unet(SMALL, seed=1)
    teacher = NetworkPrior(EDMPrecond(network, 0.5), card)
    auxiliary = CallAuxiliary(NetworkPrior(EDMPrecond(make_unet(SMALL, seed=1), 0.5), card), 4)
    return teacher, Student(teacher, auxiliary, burgers, (2.5, 1.0, 0.4, 0.15), {"weights_sha256": "1" * 64})


@pytest.fixture(scope="module")
def instance(burgers):
    return make_instance(burgers, tasks_of(burgers)["columns"], 0, 0.1, torch.tensor([0.2]))


def test_instances_are_solutions_with_data_of_the_stated_noise(burgers):
    draw, spread = tasks_of(burgers)["columns"], torch.tensor([0.2])
    found = [make_instance(burgers, draw, seed, 0.1, spread) for seed in range(60)]
    away = torch.stack([i.likelihood.y[0] - i.truth[i.mask] for i in found])
    assert abs(float(away.square().mean()) / 0.02**2 - 1) < 4 * (2 / away.numel()) ** 0.5
    again = make_instance(burgers, draw, 7, 0.1, spread)
    assert torch.equal(again.truth, found[7].truth) and torch.equal(again.likelihood.y, found[7].likelihood.y)
    assert burgers.residual(found[7].truth[None]).abs().max() < 1e-4
    assert all(int(i.mask.sum()) == 5 * 8 for i in found)


def test_tasks_measure_what_they_are_named_after():
    equation, g = Darcy(32), torch.Generator().manual_seed(0)
    counts = {name: draw(g).flatten(1).sum(1).tolist() for name, draw in tasks_of(equation).items()}
    assert counts == {"joint": [31, 31], "forward": [31, 0], "inverse": [0, 31]}
    dense = {name: draw(g).flatten(1).sum(1).tolist() for name, draw in dense_tasks_of(equation).items()}
    assert dense == {"forward, all of a": [1024, 0], "inverse, all of u": [0, 1024]}


def test_intervals_of_few_draws_cover_as_they_should():
    """Student's prediction interval is exact for Gaussian draws."""
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(5, 1, 100, 100, generator=g)
    answer = of_samples(draws, 35)
    truth = torch.randn(1, 100, 100, generator=g)
    inside = ((answer.low <= truth) & (truth <= answer.high)).float().mean()
    assert abs(float(inside) - 0.9) < 4 * (0.09 / 10_000) ** 0.5
    assert answer.calls == 35 and answer.calls_per_sample == 7
    assert of_samples(draws[:1], 3).low is None


def test_measures_of_known_answers():
    equation = Darcy(9)
    truth = equation.solve(equation.draw_coefficient(1, torch.Generator().manual_seed(2)))[0]
    wide = Answer(1.1 * truth, 1.1 * truth - 1, 1.1 * truth + 1, None, 10, 2)
    found = measure(equation, truth, wide)
    assert found["error_a"] == pytest.approx(0.1) and found["error_u"] == pytest.approx(0.1)
    assert found["wrong_a"] == 0 and found["projected_u"] == pytest.approx(0, abs=1e-6)
    assert found["coverage_u"] == 1 and 0 < found["coverage_a"] < 1  # 12 lies 1.2 away
    assert found["calls"] == 10 and found["calls_per_sample"] == 2


def test_kriging_is_the_gaussian_posterior():
    """Mean and intervals against conditioning written out with the inverse of the joint covariance."""
    g = torch.Generator().manual_seed(1)
    fields = torch.randn(500, 1, 3, 3, generator=g, dtype=torch.float64).cumsum(2)
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 1] = True
    operator, y = PixelMask(mask), torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    found = Kriging.of(fields)(Instance(fields[0], mask, Likelihood(operator, 0.5, y)), 0)
    flat = fields.flatten(1)
    precision = torch.linalg.inv(flat.T.cov()) + operator.to_dense().T @ operator.to_dense() / 0.25
    covariance = torch.linalg.inv(precision)
    moved = y - flat.mean(0)[mask.flatten()]
    mean = flat.mean(0) + covariance @ operator.to_dense().T @ moved / 0.25
    torch.testing.assert_close(found.mean.flatten(), mean)
    torch.testing.assert_close((found.high - found.low).flatten() / 3.2898, covariance.diagonal().sqrt())


def test_the_solver_under_the_true_law_solves_and_covers():
    """Poisson is linear and its sources Gaussian: intervals cover, data are fitted, fields are solutions."""
    equation = Poisson(9)
    assert equation.residual(Simulator(equation)(torch.randn(2, *Simulator(equation).domain_shape))).abs().max() < 1e-10
    draw, spread = (lambda g: random_nodes(equation.event_shape, share=0.2, generator=g)), torch.tensor([0.29, 0.004])
    found = []
    for seed in range(8):
        instance = make_instance(equation, draw, seed, 0.05, spread)
        found.append(measure(equation, instance.truth, Variational(equation, 8)(instance, seed)))
    coverage = torch.tensor([f["coverage_u"] for f in found])
    assert abs(float(coverage.mean()) - 0.9) < 4 * float(coverage.std()) / 8**0.5
    assert max(f["pde_error"] for f in found) < 1e-3


def test_the_solver_alone_is_exact():
    equation = Darcy(9)
    draw = dense_tasks_of(equation)["forward, all of a"]
    instance = make_instance(equation, draw, 0, 0.01, torch.tensor([4.5, 0.004]))
    assert measure(equation, instance.truth, Solve(equation)(instance, 0))["error_u"] < 1e-6


def test_calls_and_shapes_of_the_network_methods(burgers, networks, instance):
    teacher, student = networks
    posterior = StudentPosterior(student, 2, 3, 1, 1.0)(instance, 0)
    best = StudentMAP(student, 1, 1, 0.0)(instance, 0)
    guided = Guided(teacher, DiffusionPDE(burgers, 1e-3, 0.0, 4), 3)(instance, 0)
    assert posterior.samples.shape == guided.samples.shape == (3, 1, 8, 8) and best.samples.shape == (1, 1, 8, 8)
    assert guided.calls == 3 * 14 and guided.calls_per_sample == 14
    assert posterior.calls_per_sample > 2 * (2 * 20 + 2 * 40)  # 20 steps, and one gradient for each of 40 data


def test_tuning_takes_the_least_error(burgers, networks, instance):
    tuned = tune_guided(networks[0], burgers, [instance], 8, 0.1)
    best = min(tuned.errors, key=tuned.errors.get)
    assert best == f"{tuned.solver.zeta_obs:.3g}, {tuned.solver.zeta_pde:.3g}" and len(tuned.errors) >= 5


def test_an_operator_learns_to_fill_in(networks, burgers):
    """Far nearer than zeros where nothing is measured."""
    fields = 2 * simulate_pairs(burgers, 400, generator=torch.Generator().manual_seed(0))
    pytest.importorskip("neuralop")
    draw = tasks_of(burgers)["columns"]
    fno = train_fno(fields[:300], draw, FNOTraining(4, 12, 2, steps=120, batch=16))
    g = torch.Generator().manual_seed(9)
    mask = torch.stack([draw(g) for _ in range(100)])
    errors = [(x - fields[300:]).square().mean() for x in (fno(fields[300:], mask), fields[300:] * mask)]
    assert errors[0] < 0.6 * errors[1] and fno.loss < 0.6 * errors[1]
    assert masked(fields[:1], mask[:1]).shape == (1, 2, 8, 8)
    instance = make_instance(burgers, draw, 0, 0.01, torch.tensor([0.2]))
    answer = NeuralOperator(fno, networks[0])(instance, 0)
    assert measure(burgers, instance.truth, answer)["error_u"] < 0.5 and answer.low is None


def test_a_study_resumes_and_runs_changed_settings_afresh(burgers, networks, tmp_path, monkeypatch):
    fields = simulate_pairs(burgers, 50, generator=torch.Generator().manual_seed(0))
    words = ["--teacher", "t", "--student", "s", "--instances", "1", "--calls", "1", "--samples", "2", "--rounds", "0"]
    args = pde_conditional.parse([*words, "--guided-steps", "3"])
    setting = pde_conditional.Setting(*networks, burgers, fields, args)
    monkeypatch.setattr(pde_conditional, "fno_method", lambda *_: Kriging.of(fields))
    path = tmp_path / "results.jsonl"
    first = pde_conditional.study(setting, path)
    lines = path.read_text().splitlines()
    methods = {"FNO", "kriging", "solver, true law", "student k=1", "student k=1, MAP", "DiffusionPDE"}
    methods |= {"teacher, annealing", "student, annealing", "student, fewer levels"}
    assert {r["solver"] for r in first} == methods and len(lines) == len(first) == 9
    path.write_text("\n".join(lines[:-1]) + '\n{"problem": "colu')  # cut off in the last line
    again = pde_conditional.study(setting, path)
    assert len(path.read_text().splitlines()) == 10
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in again] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in first
    ]
    args.guided_steps = 4
    pde_conditional.study(setting, path)
    new = [json.loads(text) for text in path.read_text().splitlines()[10:]]
    assert [r["solver"] for r in new] == ["DiffusionPDE"] and new[0]["calls_per_sample"] == 14
    args.methods = ["student,", "krig"]
    assert {r["solver"] for r in pde_conditional.study(setting, path)} == {
        "student, annealing",
        "student, fewer levels",
        "kriging",
    }


def test_the_table_gives_means_and_standard_errors():
    records = [
        {"problem": "joint", "solver": "a", "seed": i, "settings": "", "error_u": e} for i, e in enumerate((0.1, 0.3))
    ]
    rows = pde_conditional.summarise(records)
    assert rows[0]["error_u"] == pytest.approx([0.2, 0.1]) and rows[0]["instances"] == 2
    assert "| joint | a | 2 | 0.2 ± 0.1 |" in pde_conditional.markdown(rows, 1e-6)
