"""Distillation as a program: what it recovers, what it leaves alone, how it stops, resumes and is kept on disk."""

import copy
import json
import math

import pytest
import torch

from sciinstruct.core import GaussianNoise, InverseProblem, Likelihood, PriorError, SolverError
from sciinstruct.core.errors import EquationError
from sciinstruct.inference.phys_instruct import PhysInstruct, Student
from sciinstruct.inference.phys_instruct.selection import Measured, Selection
from sciinstruct.operators.pde import Burgers

SHORT = PhysInstruct(
    pairs=0, law_steps=0, iterations=6, batch=8, n_aux=2, eval_every=2, eval_samples=16, warmup=0.2, ramp=0.3
)
pytestmark = pytest.mark.filterwarnings("ignore:no state of the run passed the selection")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(student):
    return torch.cat([p.flatten() for p in (*student.network.parameters(), *student.auxiliary.parameters())])


def covariance(student, n=20_000):
    x = student.sample(n, 1, generator=seeded(9), batch=n).double().reshape(n, 2)
    return x.T @ x / n


ONE_CALL = dict(
    pairs=0,
    law_steps=0,
    levels=(2.5,),
    iterations=300,
    batch=128,
    learning_rate=0.01,
    auxiliary_rate=0.02,
    ema=0.95,
    warmup=0.1,
    ramp=0.1,
)


def test_the_students_law_is_the_teachers_where_networks_can_represent_it(pair, gaussian_teacher):
    """A learned auxiliary; Adam wanders by a few per cent around the optimum: 8 % is allowed."""
    target = torch.tensor([[0.30, 0.12], [0.12, 0.20]])
    student = PhysInstruct(**ONE_CALL, lam=0.0).train(gaussian_teacher(target), pair, generator=0)
    found = covariance(student)
    assert float((found - target).norm() / target.norm()) < 0.08


def test_the_law_is_that_of_the_fields_kept(pair, gaussian_teacher):
    """After a run far too short for the auxiliary to follow the generator."""
    settings = {**ONE_CALL, "iterations": 20, "law_steps": 400, "lam": 0.0}
    student = PhysInstruct(**settings).train(gaussian_teacher([[0.30, 0.12], [0.12, 0.20]]), pair, generator=0)
    root, found = student.denoiser().root.double(), covariance(student)
    assert float((root @ root.T - found).norm() / found.norm()) < 0.06


@pytest.mark.parametrize("settings", [{"lam": 0.3}, {"lam": 1.0, "diffused_residual": True}], ids=["penalty", "tilt"])
def test_the_residual_pulls_a_law_that_does_not_obey(pair, gaussian_teacher, settings):
    """The teacher's own-scale error is (2 (0.3 - 0.2) / 0.3)^(1/2)."""
    target = torch.tensor([[0.30, 0.20], [0.20, 0.30]])
    student = PhysInstruct(**ONE_CALL, **settings).train(gaussian_teacher(target), pair, generator=0)
    assert student.pde_error(1, generator=seeded()) < 0.7 * math.sqrt(0.2 / 0.3)


def test_the_weight_is_set_by_the_share_of_the_gradients(teacher, burgers):
    """Exact at the first iteration, where the running means are the gradients' sizes themselves."""
    seen = []
    settings = PhysInstruct(
        pairs=0, law_steps=0, iterations=2, batch=8, n_aux=1, warmup=0.0, ramp=0.0, auto_lambda=0.25
    )
    settings.train(teacher, burgers, generator=0, callback=lambda step, info: seen.append(info["residual_share"]))
    assert seen[0] == pytest.approx(0.25, rel=1e-5)


def test_the_teacher_is_left_alone_and_both_networks_move(teacher, burgers, true_fields):
    before = copy.deepcopy(teacher.state_dict())
    student = SHORT.train(teacher, burgers, true_fields, generator=0)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    start = torch.cat([p.flatten() for p in teacher.parameters()])
    generator, auxiliary = weights(student)[: len(start)], weights(student)[len(start) :][: len(start)]
    assert (student.auxiliary.law.denoiser.network.embed.layers[2].offsets != 0).any()
    assert (generator != start).any() and (auxiliary != start).any() and (generator != auxiliary).any()


@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "sid"},
        {"divergence": "sim", "weighting": "one"},
        {"divergence": "exact_kl"},
        {"weighting": "sigma2", "scale_mode": "data"},
        {"scale_mode": "smaller"},
        {"auto_lambda": 0.3},
        {"diffused_residual": True},
        {"precision": "bfloat16"},
    ],
    ids=lambda s: " ".join(map(str, s.values())),
)
def test_every_kind_of_run_gives_finite_fields(teacher, burgers, settings):
    run = PhysInstruct(pairs=0, law_steps=0, iterations=3, batch=8, n_aux=1, warmup=0.0, ramp=0.0, **settings)
    student = run.train(teacher, burgers, generator=0)
    assert torch.isfinite(student.sample(3, 4, generator=seeded())).all()
    assert len(student.curves["residual"]) == 3


def test_one_seed_one_student(teacher, burgers, true_fields):
    quick = PhysInstruct(**{**vars(SHORT), "iterations": 2})
    a, b, c = (weights(quick.train(teacher, burgers, true_fields, generator=s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("stop, auto", [(0, None), (3, 0.3)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(teacher, burgers, true_fields, tmp_path, stop, auto):
    settings = PhysInstruct(**{**vars(SHORT), "auto_lambda": auto})
    whole = settings.train(teacher, burgers, true_fields, generator=1)

    def interrupt(step, info):
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.train(teacher, burgers, true_fields, generator=1, checkpoint=tmp_path / "state", callback=interrupt)
    seen = []
    again = settings.train(
        teacher,
        burgers,
        true_fields,
        generator=7,  # the checkpoint's random state counts
        checkpoint=tmp_path / "state",
        resume=True,
        callback=lambda step, info: seen.append(step),
    )
    assert seen == list(range(stop + 1, 6))
    assert torch.equal(weights(whole), weights(again))
    assert whole.curves == again.curves and whole.history == again.history
    assert {**whole.card, "seconds": 0} == {**again.card, "seconds": 0}


def test_a_checkpoint_of_another_run_is_refused(teacher, burgers, true_fields, tmp_path):
    path = tmp_path / "state"
    SHORT.train(teacher, burgers, true_fields, generator=1, checkpoint=path)
    other = PhysInstruct(**{**vars(SHORT), "lam": 2.0})
    with pytest.raises(SolverError, match="another settings"):
        other.train(teacher, burgers, true_fields, checkpoint=path, resume=True)
    with pytest.raises(SolverError, match="another equation"):
        SHORT.train(teacher, Burgers(8, 8, viscosity=0.06), checkpoint=path, resume=True)
    changed = copy.deepcopy(teacher)
    next(changed.parameters()).data[0] += 1
    with pytest.raises(SolverError, match="another teacher"):
        SHORT.train(changed, burgers, true_fields, checkpoint=path, resume=True)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SolverError, match="damaged"):
        SHORT.train(teacher, burgers, true_fields, checkpoint=path, resume=True)


class Breaking(Burgers):
    """Its residual turns NaN once it is to be differentiated."""

    def compute_residual(self, x):
        return super().compute_residual(x) * (torch.nan if x.requires_grad else 1.0)


def test_a_residual_that_breaks_stops_the_run_with_the_last_good_state_kept(teacher, true_fields, tmp_path):
    broken = Breaking(8, 8, viscosity=0.05)
    with pytest.raises(SolverError, match=r"the residual term became NaN or infinite at step 2; lower"):
        SHORT.train(teacher, broken, true_fields, generator=0, checkpoint=tmp_path / "state")
    kept = torch.load(tmp_path / "state", weights_only=True)
    assert kept["step"] == 2
    assert all(torch.isfinite(v).all() for part in ("network", "auxiliary") for v in kept[part].values())


def test_wrong_spacing_is_refused_before_training(teacher, burgers, true_fields):
    never = lambda step, info: pytest.fail("training began")
    with pytest.raises(EquationError, match="spacing"):
        SHORT.train(teacher, burgers.respaced(2.0), true_fields, callback=never)
    with pytest.raises(EquationError, match="physical units"):
        SHORT.train(teacher, burgers, teacher.from_physical(true_fields), callback=never)


def test_mismatched_problems_are_named(teacher, burgers, pair, true_fields):
    with pytest.raises(PriorError, match=r"teacher makes fields of shape \(1, 8, 8\), the equation burgers expects"):
        SHORT.train(teacher, Burgers(16, 8))
    with pytest.raises(ValueError, match=r"reference must have shape \(batch, 1, 8, 8\)"):
        SHORT.train(teacher, burgers, true_fields[:, :, :4])
    with pytest.raises(ValueError, match="reference must be finite"):
        SHORT.train(teacher, burgers, true_fields * torch.nan)
    with pytest.raises(ValueError, match="at least 4 fields"):
        SHORT.train(teacher, burgers, true_fields[:2])
    small = copy.deepcopy(teacher)
    small.scale = 10 * small.scale
    with pytest.raises(ValueError, match="differ in units or normalisation"):
        SHORT.train(small, burgers, true_fields)


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"weighting": "edm"}, "weighting must be one of .*dmd.*'edm'"),
        ({"divergence": "kl"}, "divergence must be one of"),
        ({"divergence": "exact_kl", "weighting": "dmd"}, "exact KL fixes its weighting"),
        ({"levels": (1.0, 2.0)}, "levels must fall"),
        ({"levels": (1.0, 0.0)}, "levels must fall and be positive"),
        ({"lam": -1.0}, "lam must be finite and not negative"),
        ({"auto_lambda": 0.0}, "auto_lambda must be positive"),
        ({"scale_mode": "own"}, "scale_mode must be"),
        ({"diffused_residual": True, "divergence": "sid"}, "diffused_residual goes with"),
        ({"diffused_residual": True, "auto_lambda": 0.3}, "diffused_residual goes with"),
        ({"batch": 3}, "batch must be at least 4"),
        ({"n_aux": 0}, "n_aux must be at least 1"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"warmup": 0.7, "ramp": 0.7}, "shares of the run"),
        ({"ema": 1.0}, "ema must be"),
        ({"select_k": 5}, "select_k must be between 1 and 4"),
        ({"precision": "half"}, "precision must be"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        PhysInstruct(**settings)


def test_the_weight_rises_after_the_warm_up():
    settings = PhysInstruct(pairs=0, law_steps=0, iterations=100, warmup=0.2, ramp=0.2)
    assert [settings.weight_at(i) for i in (0, 19, 30, 40, 99)] == pytest.approx([0, 0, 0.5, 1, 1])


def test_the_rates_fall_over_the_last_half():
    settings = PhysInstruct(pairs=0, law_steps=0, iterations=100)
    assert [settings.rate_at(i) for i in (0, 50, 75, 100)] == pytest.approx([1, 1, 0.525, 0.05])


def measured(step, error, swd, amplitude):
    return Measured(step, (9.0, error), (9.0, swd), (9.0, amplitude))


def test_selection_takes_the_lowest_error_that_the_guards_allow():
    selection = Selection(2)
    for row in [
        measured(1, 0.50, 0.10, 1.0),
        measured(2, 0.40, 0.14, 1.04),
        measured(3, 0.30, 0.16, 1.0),  # further than 1.5 times the least distance
        measured(4, 0.20, 0.12, 0.7),  # shrunk
        measured(5, 0.45, 0.145, 1.0),  # beaten by step 2 in both
    ]:
        selection.add(row, {"step": row.step})
    assert set(selection.kept) == {1, 2}
    assert selection.best()[1] == {"step": 2}
    selection.add(measured(6, 0.9, 0.09, 1.0), {"step": 6})  # a smaller least distance: step 2 is too far now
    assert selection.best()[1] == {"step": 1}


def test_errors_that_are_alike_are_decided_by_distance():
    selection = Selection(2)
    for row in [measured(1, 0.40, 0.14, 1.0), measured(2, 0.41, 0.10, 1.0), measured(3, 0.50, 0.095, 1.0)]:
        selection.add(row, {"step": row.step})
    assert set(selection.kept) == {1, 2, 3} and selection.best()[1] == {"step": 2}


def test_fields_that_shrank_are_rejected_with_a_warning():
    selection = Selection(2)
    selection.add(measured(1, 0.1, 0.1, 0.4), {})
    with pytest.warns(UserWarning, match="amplitude ratio 0.4"):
        assert selection.best() is None


@pytest.fixture(scope="module")
def student(teacher, burgers, true_fields):
    return SHORT.train(teacher, burgers, true_fields, generator=0)


def test_samples_do_not_depend_on_the_batch_size(student):
    a, b = (student.sample(7, 2, generator=seeded(), batch=n) for n in (7, 3))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert a.shape == (7, 1, 8, 8) and a.dtype == torch.float32


def test_a_push_forward_is_the_sampler_and_differentiable(student):
    z = torch.randn(3, 2, 1, 8, 8, generator=seeded(), requires_grad=True)
    field = student.push_forward(2)(z)
    field.square().sum().backward()
    assert (z.grad.abs().flatten(2).sum(2) > 0).all()
    rng = seeded(4)
    drawn = torch.stack([torch.randn(3, 1, 8, 8, generator=rng) for _ in range(2)], 1)
    unrounded = copy.copy(student)
    unrounded._early = student.network  # samples may round in early calls, push-forwards never do
    torch.testing.assert_close(student.push_forward(2)(drawn), unrounded.sample(3, 2, generator=seeded(4)))


def test_a_seed_makes_the_first_latent_the_only_one(student):
    fixed = student.push_forward(3, seed=5)
    z = torch.randn(4, 1, 8, 8, generator=seeded())
    assert fixed.domain_shape == (1, 8, 8)
    torch.testing.assert_close(fixed(z)[2:], fixed(z[2:]))
    assert not torch.allclose(fixed(z), student.push_forward(3, seed=6)(z))


def test_the_auxiliary_is_a_prior_of_the_students_fields(student):
    problem = InverseProblem(
        student.denoiser(), Likelihood(student.push_forward(1, seed=0), GaussianNoise(0.1), torch.zeros(1, 8, 8))
    )
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    assert problem.prior.score(x, 0.3).shape == x.shape
    torch.testing.assert_close(problem.prior.to_physical(x), student.to_physical(x))


def test_the_law_after_k_calls_is_the_auxiliarys_part_for_them(student):
    x = torch.randn(8, 1, 8, 8, generator=seeded())
    whole = student.auxiliary.denoise(x, torch.full((8,), 0.3))
    for k, part in enumerate(whole.chunk(4)):
        found = student.denoiser(k + 1).denoise(x.chunk(4)[k], 0.3)
        torch.testing.assert_close(found, part, rtol=0, atol=0.02)  # both may round to bfloat16
    with pytest.raises(ValueError, match="k must be between 1 and 4"):
        student.denoiser(5)
    with pytest.raises(ValueError, match="equal parts for 1 to 4 calls, got 6"):
        student.auxiliary.denoise(x[:6], torch.full((6,), 0.3))


def test_a_saved_student_gives_the_same_fields_and_says_what_it_is(student, burgers, true_fields, tmp_path):
    student.save(tmp_path)
    again = Student.load(tmp_path, burgers)
    for k in (1, 4):
        assert torch.equal(student.sample(5, k, generator=seeded()), again.sample(5, k, generator=seeded()))
    x = torch.randn(2, 1, 8, 8, generator=seeded())
    assert torch.equal(student.denoiser(2).denoise(x, 0.3), again.denoiser(2).denoise(x, 0.3))
    assert again.history == student.history and again.pde_error(2, 8, generator=seeded()) > 0
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["levels"] == list(SHORT.levels)
    assert card["settings"]["weighting"] == "dmd" and card["settings"]["scale_mode"] == "batch"
    assert card["settings"]["lam"] == SHORT.lam and 0 <= card["lambda"] <= SHORT.lam
    assert card["equation"]["kind"] == "step" and card["equation"]["viscosity"] == 0.05
    assert 0 < card["data_floor"] < 1e-4  # rounding of float32 fields
    assert card["teacher"]["scale"] == student.network.card.scale and card["teacher"]["shift"] == 0.1


def test_files_that_do_not_fit_are_refused(student, tmp_path):
    student.save(tmp_path)
    with pytest.raises(PriorError, match=r"viscosity 0.06 \(the student's: 0.05\)"):
        Student.load(tmp_path, Burgers(8, 8, viscosity=0.06))
    weights_file = tmp_path / "weights.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-10])
    with pytest.raises(SolverError, match="truncated or changed"):
        Student.load(tmp_path, student.equation)
    (tmp_path / "card.json").write_text('{"format": 1}')
    with pytest.raises(SolverError, match="not one of a student"):
        Student.load(tmp_path, student.equation)
    with pytest.raises(SolverError, match="a student is a folder"):
        Student.load(tmp_path / "nowhere", student.equation)


def test_a_teacher_that_cannot_be_saved_says_so(pair, gaussian_teacher, tmp_path):
    settings = PhysInstruct(pairs=0, law_steps=0, iterations=2, batch=4)
    student = settings.train(gaussian_teacher(torch.eye(2)), pair, generator=0)
    with pytest.raises(PriorError, match="only students of a NetworkPrior"):
        student.save(tmp_path)
