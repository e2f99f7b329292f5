"""Commands of `sciinstruct train` for fields of partial differential equations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sciinstruct.cli_options import Device, Out, Quiet, Resume, Seed, readable_errors, resume_hint

if TYPE_CHECKING:
    from sciinstruct.inference.phys_instruct import Student

_EQUATIONS = "burgers, darcy, helmholtz, navier-stokes or poisson"


def train_teacher(
    pde: Annotated[str, typer.Option(help=f"Equation: {_EQUATIONS}.")],
    out: Out,
    npix: Annotated[int, typer.Option(min=8, help="Nodes on a side, a multiple of 8.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 8000,
    samples: Annotated[int, typer.Option(min=1, help="Solved fields to simulate.")] = 20000,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a diffusion prior of an equation's fields: the teacher of `sciinstruct train student`."""
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs

        told = f"--pde {pde} --npix {npix} --steps {steps} --samples {samples} --seed {seed}"
        prior = jobs.train_teacher(
            pde,
            out,
            npix=npix,
            steps=steps,
            n_samples=samples,
            seed=seed,
            device=device,
            progress=not quiet,
            resume=resume,
            command=f"sciinstruct train teacher {told}",
        )
        typer.echo(f"teacher: {out} (loss {prior.card.loss:.4f}, {prior.card.seconds:.0f} s)")


def train_student(
    out: Out,
    teacher: Annotated[
        str | None,
        typer.Option(help="A packaged teacher, or a folder `sciinstruct train teacher` wrote; --pde's by default."),
    ] = None,
    pde: Annotated[str | None, typer.Option(help=f"Equation of the teacher: {_EQUATIONS}.")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Steps of the generator; that of PhysInstruct by default.")
    ] = None,
    lam: Annotated[
        float | None, typer.Option(min=0.0, help="Weight of the equation's residual, 0: none; likewise.")
    ] = None,
    auto_lambda: Annotated[
        float | None,
        typer.Option(min=0.0, help="Set that weight by the gradients instead; 20 is moderate."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher into a generator of one to four calls that obeys its equation."""
    if teacher is None and pde is None:
        raise typer.BadParameter("give --teacher, --pde, or both")
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs
        from sciinstruct.inference.phys_instruct import PhysInstruct

        source = teacher or f"{pde}-32"
        given = {"iterations": iterations, "lam": lam, "auto_lambda": auto_lambda}
        settings = PhysInstruct(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
        weight = f"--lam {settings.lam:g}" if auto_lambda is None else f"--auto-lambda {auto_lambda:g}"
        told = f"--teacher {source} --iterations {settings.iterations} {weight} --seed {seed}"
        student = jobs.train_student(
            source,
            out,
            settings,
            pde=pde,
            seed=seed,
            device=device,
            progress=not quiet,
            resume=resume,
            command=f"sciinstruct train student {told}",
        )
        _announce(student, out)


def _announce(student: "Student", out: Path) -> None:
    """Say how well the student obeys its equation, beside what true fields do."""
    card = student.card
    typer.echo(f"student: {out} ({card['seconds']:.0f} s)")
    kept = card["selected"]
    if kept is None:
        typer.echo("warning: no state of the run passed the selection; the last one was kept", err=True)
        return
    errors = ", ".join(f"{error:.3g} (k = {k})" for k, error in enumerate(kept["pde_error"], 1))
    typer.echo(f"own-scale PDE error: {errors}; true fields {card['data_floor']:.2g}")
