"""Forward, inverse and joint problems from a few sensors: the student as a prior, and what it is compared with.

Run ``python -m benchmarks.pde_conditional --teacher burgers-32 --student burgers-32`` from the root of a checkout.
Methods are the student with k calls (samples by `LatentRTO`, and the most probable field), image annealing under the
denoiser of the student's samples and under the teacher, DiffusionPDE on the teacher, neuralop's FNO trained on the same
data, the best linear estimate (kriging), and the classical solver: under the true law of coefficients where that is
smooth, and alone where all of a is measured. Tasks are 3 % of the nodes of both fields (``joint``), of the coefficient
(``forward``) or of the solution (``inverse``); for Burgers' equation 5 columns.

Each result, one (task, method, instance), is a line of the file ``--out``: an interrupted run goes on where it stopped,
and a method whose settings changed is run afresh. A table of means and standard errors goes to the same name with
``.md``, a summary to ``.json``. Twenty instances of one task take about a quarter of an hour of one core at 32 x 32.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.bench import end_line, read_records
from benchmarks.pde_fno import FNOTraining, describe, train_fno
from benchmarks.pde_methods import (
    Annealed,
    Guided,
    Kriging,
    Method,
    NeuralOperator,
    Solve,
    StudentMAP,
    StudentPosterior,
    Variational,
    tune_guided,
)
from benchmarks.pde_tasks import MaskDraw, dense_tasks_of, make_instance, measure, tasks_of
from sciinstruct.core import atomic_path
from sciinstruct.datasets.pde import simulate_pairs
from sciinstruct.inference.phys_instruct import Student, equation_from_card, load_student
from sciinstruct.operators.pde import Burgers, Darcy, Equation, pde_error
from sciinstruct.priors import NetworkPrior, zoo

FEWER = 19  # levels of a quick annealing: a twenty-first of the calls of DiffusionPDE's 100 steps
TUNING = (-2, -1)  # instances whose truths lie before the first
Record = dict[str, Any]


class Setting(NamedTuple):
    """What all methods share."""

    teacher: NetworkPrior
    student: Student
    equation: Equation
    fields: Tensor  # training data, physical
    args: argparse.Namespace

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each channel, (c,)."""
        return self.fields.transpose(0, 1).flatten(1).std(1)


def methods_of(setting: Setting, task: str, draw: MaskDraw, dense: bool) -> dict[str, tuple[str, Callable[[], Method]]]:
    """By name: what tells one setting from another, and how the method is made when it is first needed."""
    args, equation = setting.args, setting.equation
    training = FNOTraining(steps=args.fno_steps)
    same = f"{len(setting.fields)} fields, noise {args.noise}"
    found: dict[str, tuple[str, Callable[[], Method]]] = {
        "FNO": (f"{training}, {same}", lambda: fno_method(setting, draw, training)),
    }
    if dense:
        found["solver"] = ("exact coefficient", lambda: Solve(equation))
        return found
    found["kriging"] = (same, lambda: Kriging.of(setting.fields))
    if not isinstance(equation, Darcy):
        found["solver, true law"] = (f"{args.samples} samples, {same}", lambda: Variational(equation, args.samples))
    for k in args.calls:
        mu = args.mu * k / 2
        about = f"{setting.student.card.get('weights_sha256', '')[:12]}, {same}"
        posterior = StudentPosterior(setting.student, k, args.samples, args.rounds, mu)
        label = f"n {args.samples}, rounds {args.rounds}, mu {mu}, {about}"
        found[f"student k={k}"] = (label, lambda posterior=posterior: posterior)
        best = StudentMAP(setting.student, k, args.rounds, mu)
        found[f"student k={k}, MAP"] = (f"rounds {args.rounds}, mu {mu}, {about}", lambda best=best: best)
    teacher, student = setting.teacher.card.weights_sha256[:12], setting.student.card.get("weights_sha256", "")[:12]
    for name, levels, digest, prior in (
        ("teacher, annealing", 30, teacher, setting.teacher),
        ("student, annealing", 30, student, setting.student.denoiser()),
        ("student, fewer levels", FEWER, student, setting.student.denoiser()),
    ):
        annealed = Annealed(prior, args.samples, levels)
        found[name] = (f"n {args.samples}, {digest}, {same}", lambda annealed=annealed: annealed)
    label = f"n {args.samples}, steps {args.guided_steps}, {teacher}, {same}"
    found["DiffusionPDE"] = (label, lambda: guided_method(setting, draw))
    return found


def fno_method(setting: Setting, draw: MaskDraw, training: FNOTraining) -> Method:
    """Train an FNO for one task."""
    x = setting.teacher.from_physical(setting.fields)
    fno = train_fno(x, draw, training, setting.args.noise * float(x.std()))
    print(f"{describe(training, fno.network)}: loss {fno.loss:.4f} after {fno.seconds:.0f} s", flush=True)
    return NeuralOperator(fno, setting.teacher)


def guided_method(setting: Setting, draw: MaskDraw) -> Method:
    """DiffusionPDE with strengths chosen for one task."""
    args, equation = setting.args, setting.equation
    instances = [make_instance(equation, draw, seed, args.noise, setting.spread) for seed in TUNING]
    tuned = tune_guided(setting.teacher, equation, instances, args.guided_steps, args.noise)
    print(f"DiffusionPDE: {tuned.solver}; tried {tuned.errors}", flush=True)
    return Guided(setting.teacher, tuned.solver, args.samples)


def study(setting: Setting, path: Path) -> list[Record]:
    """Fill what is missing in the file of results; prints a line for each."""
    args, equation = setting.args, setting.equation
    kept = read_records(path)
    end_line(path)
    sparse, dense = tasks_of(equation), dense_tasks_of(equation)
    wanted = [task for task in {**sparse, **dense} if "all" in args.tasks or task in args.tasks]
    done = []
    for task in wanted:
        draw = {**sparse, **dense}[task]
        for name, (settings, make) in methods_of(setting, task, draw, task in dense).items():
            if task.startswith("inverse") and name == "solver":
                continue  # it goes one way
            if args.methods and not any(name.startswith(start) for start in args.methods):
                continue
            make = cache(make)
            for seed in range(args.instances):
                record = kept.get((task, name, seed), {})
                if record.get("settings") != settings:
                    record = {"problem": task, "solver": name, "seed": seed, "settings": settings}
                    record |= one_run(setting, make(), draw, seed)
                    with path.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    print(line(record), flush=True)
                done.append(record)
    return done


def one_run(setting: Setting, method: Method, draw: MaskDraw, seed: int) -> dict[str, float]:
    """Answer one instance and judge it."""
    instance = make_instance(setting.equation, draw, seed, setting.args.noise, setting.spread)
    began = time.process_time()
    answer = method(instance, seed)
    return {"seconds": time.process_time() - began, **measure(setting.equation, instance.truth, answer)}


def line(record: Record) -> str:
    """One result for the terminal."""
    numbers = {k: v for k, v in record.items() if isinstance(v, float)}
    shown = "  ".join(f"{k} {v:.3g}" for k, v in numbers.items())
    return f"{record['problem']:<18} {record['solver']:<18} {record['seed']:>3}  {shown}"


def summarise(records: list[Record]) -> list[Record]:
    """Mean and standard error over instances, one row for each task and method."""
    rows: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        rows.setdefault((record["problem"], record["solver"]), []).append(record)
    table = []
    for (task, name), some in rows.items():
        row: Record = {"task": task, "method": name, "instances": len(some)}
        for key in (k for k, v in some[0].items() if isinstance(v, int | float) and k != "seed"):
            values = torch.tensor([float(record[key]) for record in some], dtype=torch.float64)
            error = float(values.std() / len(some) ** 0.5) if len(some) > 1 else float("nan")
            row[key] = [float(values.mean()), error]
        table.append(row)
    return table


def markdown(rows: list[Record], floor: float) -> str:
    """The table, every number with its standard error where it has one."""
    keys = list(dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, list)))
    head = ["task", "method", "instances", *keys]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [f"{row[k][0]:.3g} ± {row[k][1]:.1g}" if k in row else "" for k in keys]
        lines.append("| " + " | ".join([row["task"], row["method"], str(row["instances"]), *cells]) + " |")
    lines.append(f"\nPDE error of true fields: {floor:.2g} (own scale). Calls count gradients through the network too.")
    return "\n".join(lines) + "\n"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="name or folder of a teacher prior")
    parser.add_argument("--student", required=True, help="name or folder of its student")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", default=["joint", "columns"], help="or all")
    parser.add_argument("--methods", nargs="+", help="beginnings of the names of methods to run; all by default")
    parser.add_argument("--calls", type=int, nargs="+", default=[2, 4], help="network calls of the student")
    parser.add_argument("--samples", type=int, default=8, help="posterior samples of each instance")
    parser.add_argument("--rounds", type=int, help="Gauss-Newton rounds of the student's samples, default 2; Burgers 1")
    parser.add_argument("--mu", type=float, default=3.0, help="weight of the equation at k = 2, twice that at k = 4")
    parser.add_argument("--noise", type=float, default=0.01, help="of the sensors, in standard deviations of a channel")
    parser.add_argument("--guided-steps", type=int, default=100, help="of DiffusionPDE; published: 2000")
    parser.add_argument("--fno-steps", type=int, default=300)
    parser.add_argument("--train", type=int, default=4000, help="training fields of FNO and kriging")
    parser.add_argument("--out", type=Path, help="file of results, default pde_conditional_EQUATION.jsonl")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Run what is missing and write the tables."""
    torch.set_num_threads(1)
    args = parse(words)
    teacher, student = zoo.load(args.teacher), load_student(args.student)
    equation = equation_from_card(teacher.card)
    if args.rounds is None:
        args.rounds = 1 if isinstance(equation, Burgers) else 2  # columns are many data, and each costs a gradient
    fields = simulate_pairs(equation, args.train, generator=torch.Generator().manual_seed(teacher.card.seed))
    path = args.out or Path(f"pde_conditional_{equation.name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    records = study(Setting(teacher, student, equation, fields, args), path)
    rows = summarise(records)
    text = markdown(rows, pde_error(equation, fields[:500]))
    for suffix, content in ((".md", text), (".json", json.dumps(rows, indent=1) + "\n")):
        with atomic_path(path.with_suffix(suffix)) as temporary:
            temporary.write_text(content)
    print(text)


if __name__ == "__main__":
    main()
