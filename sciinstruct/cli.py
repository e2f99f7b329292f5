"""The command line: parse, call the API, say where the results are."""

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sciinstruct import SciinstructError, __version__

if TYPE_CHECKING:
    from sciinstruct.jobs import JobResult

app = typer.Typer(
    name="sciinstruct",
    help="Posterior samples under diffusion priors for scientific imaging, with a report on how far to trust them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
priors_app = typer.Typer(help="The priors the package carries.", no_args_is_help=True)
train_app = typer.Typer(help="Train what the package does not carry.", no_args_is_help=True)
app.add_typer(priors_app, name="priors")
app.add_typer(train_app, name="train")


class Term(StrEnum):
    """Data terms of an interferometric likelihood."""

    cphase = "cphase"
    logcamp = "logcamp"


Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")]
Samples = Annotated[int, typer.Option(min=2, help="Posterior samples to draw.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same machine: same result.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint an interrupted run left in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@contextlib.contextmanager
def _readable_errors(on_interrupt: str = "") -> Iterator[None]:
    """Turn what the API raises on purpose into one line on stderr and an exit code: 1, or 130 after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\ninterrupted. {on_interrupt}".rstrip(), err=True)
        raise typer.Exit(130) from None
    except (SciinstructError, ValueError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None


def _resume_hint(out: Path) -> str:
    """What to do after Ctrl-C."""
    return f"The last checkpoint is kept in {out}: give the same command with --resume to go on."


def _version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"sciinstruct {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def demo(
    out: Out = Path("sciinstruct-demo"),
    seed: Seed = 0,
    samples: Samples = 256,
    device: Device = "cpu",
    npix: Annotated[int, typer.Option(help="Pixels on a side: 32 or 64, the sizes of the packaged priors.")] = 32,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Observe a simulated black hole with the EHT of 2017, reconstruct it, and show the truth beside the posterior."""
    with _readable_errors(_resume_hint(out)):
        from sciinstruct import jobs

        _announce(
            jobs.demo(out, npix=npix, n_samples=samples, seed=seed, device=device, progress=not quiet, resume=resume)
        )


@app.command()
def reconstruct(
    file: Annotated[Path, typer.Argument(metavar="FILE.uvfits", help="Interferometric observation, Stokes I.")],
    out: Out = Path("sciinstruct-run"),
    prior: Annotated[str, typer.Option(help="A packaged prior (`sciinstruct priors list`) or a folder with one.")] = (
        "blackhole-32"
    ),
    flux: Annotated[float, typer.Option(min=0.0, help="Compact flux in Jy; closures do not see it.")] = 0.6,
    systematic: Annotated[
        float, typer.Option(min=0.0, help="Fraction of each amplitude added to the noise: the noise budget.")
    ] = 0.02,
    terms: Annotated[
        list[Term] | None, typer.Option(help="Data terms to use; repeat for several. Default: both.")
    ] = None,
    samples: Samples = 256,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Posterior images of one observation, with a calibration report."""
    with _readable_errors(_resume_hint(out)):
        from sciinstruct import jobs

        result = jobs.reconstruct_uvfits(
            file,
            out,
            prior=prior,
            flux=flux,
            systematic=systematic,
            terms=tuple(str(term) for term in terms or Term),
            n_samples=samples,
            seed=seed,
            device=device,
            progress=not quiet,
            resume=resume,
        )
        _announce(result)


def _announce(result: "JobResult") -> None:
    """Say what came out, what to distrust, and where it lies."""
    from rich.console import Console

    console = Console()
    for warning in result.posterior.diagnostics.get("warnings", []):
        console.print(f"[red]warning:[/red] {warning}", highlight=False)
    console.print(f"{len(result.posterior.samples)} samples in {result.seconds:.0f} s", highlight=False)
    typer.echo(f"report: {result.report}")
