"""Teachers and students of PDE fields: what training leaves on disk is enough to build everything again."""

import functools
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sciinstruct import cli
from sciinstruct.core import PriorError, SolverError
from sciinstruct.datasets.pde import simulate_pairs
from sciinstruct.inference import phys_instruct
from sciinstruct.inference.phys_instruct import PhysInstruct, available_students, equation_from_card, load_student, zoo
from sciinstruct.jobs import held_out_fields, reconstruct_uvfits, train_student, train_teacher
from sciinstruct.jobs.pde_training import _REFERENCE, _other_fields
from sciinstruct.operators.pde import all_parameters, make_equation, pde_error
from sciinstruct.operators.pde.named import EQUATIONS, square
from sciinstruct.priors import Card, load


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Two steps on 16 x 16 nodes: the path through the code is that of a long run."""
    folder = tmp_path_factory.mktemp("teacher") / "burgers-16"
    train_teacher(
        "burgers", folder, npix=16, parameters={"viscosity": 0.02}, steps=2, n_samples=80, progress=False, command="it"
    )
    return folder


@pytest.mark.parametrize("name", EQUATIONS)
def test_an_equation_is_what_its_parameters_say(name):
    told = all_parameters(name, **square(name, 16))
    equation = make_equation(name, **told)
    assert equation.name == name and equation.event_shape[1:] == (16, 16)
    again = make_equation(name, **told)
    assert (again.spacing, again.scale) == (equation.spacing, equation.scale)


def test_unknown_equations_and_parameters_are_named():
    with pytest.raises(ValueError, match="there are burgers, darcy"):
        make_equation("laplace")
    with pytest.raises(ValueError, match="burgers takes nx, nt, viscosity.*not speed"):
        make_equation("burgers", speed=1)


def test_the_equation_comes_back_from_the_card(teacher):
    prior = load(teacher)
    equation = equation_from_card(prior.card)
    assert (equation.name, equation.viscosity, equation.event_shape) == ("burgers", 0.02, (1, 16, 16))
    assert prior.event_shape == equation.event_shape and prior.sigma_range[0] == 0.002
    assert prior.card.command == "it" and prior.card.limits
    rms_of_u_t = equation.scale  # near that of the package's data at viscosity 0.01, but measured
    assert 0.2 < rms_of_u_t < 0.35 and rms_of_u_t != type(equation).scale


def test_channels_have_units_of_their_own(tmp_path):
    prior = train_teacher("poisson", tmp_path / "p", npix=16, steps=1, n_samples=80, progress=False)
    a, u = prior.card.scale  # physical standard deviations over 0.5
    assert a == pytest.approx(2 * 0.3, rel=0.15) and u == pytest.approx(2 * 0.0042, rel=0.3)


def test_a_run_goes_on_only_as_it_began(teacher):
    with pytest.raises(PriorError):
        train_teacher("burgers", teacher, npix=16, steps=3, n_samples=80, seed=1, progress=False, resume=True)


def test_only_a_prior_of_fields_has_an_equation():
    sky = Card((1, 32, 32), (0.01, 40.0), 1.0, 0.0, 0.5, {}, name="sky", pixel={"fov_uas": 128})
    with pytest.raises(PriorError, match="'sky' is not one of fields of an equation"):
        equation_from_card(sky)
    odd = Card((1, 8, 8), (0.01, 40.0), 1, 0, 0.5, {}, pixel={"equation": "x", "parameters": {}, "scale": 1.0})
    with pytest.raises(PriorError, match="no equation named 'x'"):
        equation_from_card(odd)


def test_bad_grids_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="multiple of 8"):
        train_teacher("darcy", tmp_path / "a", npix=20, progress=False)
    assert not (tmp_path / "a").exists()


def test_held_out_fields_are_other_fields_of_the_same_law(teacher):
    card = load(teacher).card
    equation = equation_from_card(card)
    held_out = torch.cat([held_out_fields(card, 40), _other_fields(card, 40, _REFERENCE, progress=False)])
    seen = simulate_pairs(equation, 40, generator=torch.Generator().manual_seed(card.seed))
    far = torch.cdist(torch.cat([held_out, seen]).flatten(1), torch.cat([held_out, seen]).flatten(1))
    nearest = far.fill_diagonal_(torch.inf).min(1).values
    assert (nearest > 1e-3 * seen.flatten(1).norm(dim=1).mean()).all()
    assert pde_error(equation, held_out) < 1e-4  # float32


@pytest.mark.filterwarnings("ignore:no state of the run passed")
def test_a_student_comes_back_with_its_equation(teacher, tmp_path):
    settings = PhysInstruct(
        pairs=0, law_steps=0, iterations=2, batch=8, eval_every=2, eval_samples=16, levels=(2.5, 0.4)
    )
    options = {"pde": "burgers", "n_reference": 32, "progress": False, "command": "it"}
    student = train_student(teacher, tmp_path / "s", settings, **options)
    again = load_student(tmp_path / "s")
    assert again.equation.viscosity == 0.02 and again.card["command"] == "it"
    fields = [s.sample(2, 2, generator=torch.Generator().manual_seed(0)) for s in (student, again)]
    torch.testing.assert_close(*fields)


@pytest.mark.filterwarnings("ignore:no state of the run passed")
def test_the_page_on_students_runs(teacher, tmp_path, monkeypatch):
    """What docs/pde.md shows under "Use a student", with a packaged student of two steps in place of a good one."""
    settings = PhysInstruct(pairs=0, law_steps=0, iterations=2, batch=8, eval_every=2, eval_samples=16)
    train_student(teacher, tmp_path / "burgers-32", settings, n_reference=32, progress=False)
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    short = functools.partial(phys_instruct.LatentRTO, steps=5, rounds=1)
    monkeypatch.setattr(phys_instruct, "LatentRTO", short)
    assert available_students() == ["burgers-32"]
    page = (Path(__file__).resolve().parents[2] / "docs" / "pde.md").read_text(encoding="utf-8")
    use = page[page.index("## Use a student") : page.index("## The objective")]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", use, flags=re.DOTALL):
        exec(compile(block, "pde.md", "exec"), names)
    assert names["posterior"].samples.shape == (16, 1, 16, 16)
    assert pde_error(names["student"].equation, names["exact"]) < 1e-4 < names["student"].pde_error(4, 64)


def test_a_teacher_of_another_equation_is_refused(teacher, tmp_path):
    with pytest.raises(PriorError, match="one of burgers, not of darcy"):
        train_student(teacher, tmp_path / "s", pde="darcy", progress=False)
    assert not (tmp_path / "s").exists()


def test_a_prior_of_images_teaches_nothing(tmp_path):
    with pytest.raises(PriorError, match="not one of fields of an equation"):
        train_student("blackhole-32", tmp_path / "s", progress=False)


def test_unknown_students_are_named(tmp_path):
    with pytest.raises(SolverError, match="no student named 'laplace-32': packaged are"):
        load_student("laplace-32")
    with pytest.raises(SolverError, match="a student is a folder with"):
        load_student(tmp_path)


def test_a_teacher_is_no_student(teacher):
    with pytest.raises(SolverError, match="not one of a student"):
        load_student(teacher)


def test_a_sky_is_not_reconstructed_with_a_teacher(teacher, uvfits, tmp_path):
    with pytest.raises(PriorError, match="'fov_uas' in the card"):
        reconstruct_uvfits(uvfits, tmp_path, prior=str(teacher), progress=False)


@pytest.mark.filterwarnings("ignore:no state of the run passed")
def test_commands_train_and_say_what_came_out(tmp_path):
    folder, quick = tmp_path / "darcy-8", ["--steps", "1", "--samples", "40", "--quiet"]
    done = CliRunner().invoke(cli.app, ["train", "teacher", "--pde", "darcy", "--npix", "8", *quick, "-o", str(folder)])
    assert done.exit_code == 0, done.output
    told = load(folder).card.command
    assert told == "sciinstruct train teacher --pde darcy --npix 8 --steps 1 --samples 40 --seed 0"
    arguments = ["train", "student", "--pde", "darcy", "--teacher", str(folder), "--iterations", "1", "--quiet"]
    done = CliRunner().invoke(cli.app, [*arguments, "-o", str(tmp_path / "s")])
    assert done.exit_code == 0, done.output
    assert "true fields" in done.output or "no state of the run passed" in done.output
    assert load_student(tmp_path / "s").equation.n == 8
    done = CliRunner().invoke(cli.app, [*arguments, "--auto-lambda", "10", "-o", str(tmp_path / "t")])
    assert done.exit_code == 0, done.output
    card = load_student(tmp_path / "t").card
    assert card["settings"]["auto_lambda"] == 10 and "--auto-lambda 10 --seed 0" in card["command"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["teacher", "--pde", "laplace"], 1, "no equation named 'laplace'"),
        (["teacher", "--pde", "darcy", "--npix", "20"], 1, "multiple of 8"),
        (["student", "--pde", "laplace"], 1, "no prior named 'laplace-32'"),
        (["student"], 2, "give --teacher, --pde, or both"),
    ],
)
def test_commands_refuse_in_one_line(arguments, code, word, tmp_path):
    done = CliRunner().invoke(cli.app, ["train", *arguments, "-o", str(tmp_path / "out")])
    assert done.exit_code == code and word in done.stderr
    assert not (tmp_path / "out").exists()
