"""The command line: parse, call the API, say where the results are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sciinstruct import __version__, cli_flowdiff, cli_pde, cli_purify
from sciinstruct.cli_options import Device, Out, Quiet, Resume, Samples, Seed, readable_errors, resume_hint

if TYPE_CHECKING:
    from sciinstruct.jobs import CalibrationResult, JobResult, MicrographResult, StackResult
    from sciinstruct.operators.microscopy import Camera, Optics

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
train_app.command("teacher")(cli_pde.train_teacher)
train_app.command("student")(cli_pde.train_student)
train_app.command("flowdiff")(cli_flowdiff.train_flowdiff)
app.command("purify")(cli_purify.purify)


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
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of torch; more pay for large images on an idle machine only.")
    ] = 1,
) -> None:
    """Options before the command."""
    import torch

    torch.set_num_threads(threads)


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
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs

        _announce(
            jobs.demo(out, npix=npix, n_samples=samples, seed=seed, device=device, progress=not quiet, resume=resume)
        )


_PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_OF_SKIES = ("flux", "systematic", "snr_min", "terms")
_OF_MICROGRAPHS = (
    "na", "wavelength", "pixel", "index", "offset", "conversion", "read", "bits", "saturation", "background", "plane",
    "all_planes", "workers",
)  # fmt: skip


@app.command()
def reconstruct(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .uvfits observation, or a micrograph (TIFF).")],
    out: Out = Path("sciinstruct-run"),
    prior: Annotated[
        str | None,
        typer.Option(help="A packaged prior (`sciinstruct priors list`) or a folder with one; by default the file's."),
    ] = None,
    na: Annotated[float | None, typer.Option(help="Micrographs: numerical aperture.")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Micrographs: emission wavelength, nm.")] = None,
    pixel: Annotated[
        float | None, typer.Option(help="Micrographs: camera pixel in the sample, nm; the file's own by default.")
    ] = None,
    index: Annotated[float, typer.Option(help="Micrographs: refractive index of the immersion medium.")] = 1.515,
    offset: Annotated[float | None, typer.Option(help="Micrographs: counts of a dark pixel.")] = None,
    conversion: Annotated[float | None, typer.Option(help="Micrographs: electrons per count.")] = None,
    read: Annotated[float, typer.Option(help="Micrographs: read noise, electrons.")] = 1.6,
    bits: Annotated[int | None, typer.Option(min=1, max=16, help="Micrographs: bits of the camera's counts.")] = None,
    saturation: Annotated[
        float | None, typer.Option(help="Micrographs: smallest count that is saturated; the file's by default.")
    ] = None,
    background: Annotated[
        float | None, typer.Option(help="Micrographs: electrons per pixel where the specimen is dark.")
    ] = None,
    plane: Annotated[
        list[str] | None, typer.Option(help="Micrographs: which plane of a stack, as C=0; may be repeated.")
    ] = None,
    all_planes: Annotated[
        bool,
        typer.Option("--all-planes", help="Micrographs: every plane, or all that --plane leaves, into a Zarr store."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes for --all-planes; more than 0 needs Dask. Same numbers.")
    ] = 0,
    flux: Annotated[float, typer.Option(min=0.0, help="Skies: compact flux in Jy; closures do not see it.")] = 0.6,
    systematic: Annotated[
        float, typer.Option(min=0.0, help="Skies: fraction of each amplitude added to the noise: the noise budget.")
    ] = 0.02,
    snr_min: Annotated[
        float,
        typer.Option(
            min=0.0, help="Skies: drop fainter visibilities, in noise units: their closures are not Gaussian."
        ),
    ] = 4.0,
    terms: Annotated[
        str, typer.Option(help="Skies: data terms joined by '+': closures, cphase, logcamp, amp, vis, flux, ...")
    ] = "closures+flux",
    samples: Annotated[
        int | None, typer.Option(min=2, help="Posterior samples to draw: 256 skies or 64 micrographs by default.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Posterior images of one observation, with a calibration report."""
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs

        how: dict[str, Any] = {"seed": seed, "device": device, "progress": not quiet, "resume": resume}
        if file.suffix.lower() not in _PICTURES:
            _refuse(context, _OF_MICROGRAPHS, "a sky's visibilities")
            sky: dict[str, Any] = {"flux": flux, "systematic": systematic, "snr_min": snr_min, "terms": terms}
            prior, samples = prior or "blackhole-32", samples or 256
            _announce(jobs.reconstruct_uvfits(file, out, prior=prior, n_samples=samples, **sky, **how))
            return
        _refuse(context, _OF_SKIES, "a micrograph")
        microscope = _optics(na, wavelength, index)
        data: dict[str, Any] = {
            "pixel_um": None if pixel is None else pixel / 1000,
            "camera": _camera(offset, conversion, read),
            "bits": bits,
            "saturation": saturation,
            "background": background,
            "prior": prior or "cells-64",
            "planes": _planes(plane or []),
        }
        if all_planes:
            with jobs.local_cluster(workers) as client:
                stack = jobs.reconstruct_stack(
                    file, out, microscope, n_samples=samples or 32, client=client, **data, **how
                )
            _announce_stack(stack)
            return
        _refuse(context, ("workers",), "one plane")
        result = jobs.reconstruct_micrograph(file, out, microscope, n_samples=samples or 64, **data, **how)
        _announce(result)
        typer.echo(f"images: {result.summary} (mean, sd, quantiles), {result.samples}")


def _optics(na: float | None, wavelength: float | None, index: float) -> "Optics":
    """The objective as told; both numbers are needed."""
    if na is None or wavelength is None:
        raise typer.BadParameter("a micrograph needs --na (numerical aperture) and --wavelength (emission, nm)")
    from sciinstruct.operators.microscopy import Optics

    return Optics(na, wavelength, index)


def _camera(offset: float | None, conversion: float | None, read: float) -> "Camera | None":
    """The camera as told, None where nothing was."""
    if offset is None and conversion is None:
        return None
    if offset is None or conversion is None:
        raise typer.BadParameter("--offset and --conversion go together: a camera's calibration sheet gives both")
    from sciinstruct.operators.microscopy import Camera

    return Camera(read=read, conversion=conversion, offset=offset)


def _planes(texts: list[str]) -> dict[str, int]:
    """``["C=0", "Z=4"]`` as a dict."""
    found = {}
    for text in texts:
        axis, _, number = text.partition("=")
        if axis.upper() not in ("T", "C", "Z") or not number.isdigit():
            raise typer.BadParameter(f"--plane must look like C=0, Z=4 or T=2, got {text!r}")
        found[axis.upper()] = int(number)
    return found


_OF_FILES, _OF_STUDIES = ("truth", "kind", "chains"), ("solver", "n", "draws", "workers", "seed")


def _refuse(context: typer.Context, names: tuple[str, ...], beside: str) -> None:
    """Say which options were given that do nothing beside `beside`, rather than ignore them."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]
    if given:
        raise typer.BadParameter(f"{', '.join(given)} has no meaning beside {beside}: leave it out")


@app.command()
def calibrate(
    context: typer.Context,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Samples (N, S, ...): .npz or .npy, .nc (arviz too), or a folder of .nc, one per observation."
        ),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Truths (N, ...), unless --samples holds them.")] = None,
    kind: Annotated[
        str,
        typer.Option(help="Where those truths come from: 'held-out', or the method's own prior 'self-consistency'."),
    ] = "held-out",
    chains: Annotated[
        int | None, typer.Option(min=1, help="Markov chains behind each observation's samples, one after the other.")
    ] = None,
    problem: Annotated[str | None, typer.Option(help="Or: a packaged problem, such as '16x16 blur'.")] = None,
    solver: Annotated[str, typer.Option(help="What solves it: PPM, DPS, RedDiff, ... or exact.")] = "PPM",
    n: Annotated[
        int,
        typer.Option(
            "--n", min=16, help="Problems to solve, each with its own truth; PPM takes about 25 s for an image."
        ),
    ] = 100,
    draws: Annotated[int, typer.Option(min=8, help="Posterior samples of each.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes; more than 0 needs Dask. Same numbers.")] = 0,
    out: Out = Path("sciinstruct-calibration"),
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Test posterior samples against known truths: those of a file, or a solver's on a packaged problem.

    Exits with 0 if no check failed and with 3 if one did. A study that was interrupted goes on with the same command.
    """
    if (samples is None) == (problem is None):
        raise typer.BadParameter("give either --samples or --problem")
    _refuse(context, _OF_STUDIES if problem is None else _OF_FILES, "--samples" if problem is None else "--problem")
    with readable_errors("The same command goes on from what is in --out."):
        from sciinstruct import jobs

        if samples is not None:
            result = jobs.calibrate_files(samples, out, truth=truth, kind=kind, chains=chains)
        else:
            result = jobs.calibrate_solver(
                str(problem), solver, out, n=n, n_samples=draws, seed=seed, workers=workers, progress=not quiet
            )
        _announce_verdict(result)


@priors_app.command("list")
def list_priors() -> None:
    """Name, size and one line for each packaged prior."""
    with readable_errors():
        from rich.console import Console
        from rich.table import Table

        from sciinstruct.priors import zoo

        table = Table("name", "image", "units", "steps", "about", box=None, pad_edge=False)
        for name in zoo.available():
            card = zoo.card(name)
            shape = "x".join(str(n) for n in card.event_shape)
            table.add_row(name, shape, card.units, str(card.steps), card.description or card.data)
        Console().print(table)


@priors_app.command("show")
def show_prior(name: Annotated[str, typer.Argument(help="A packaged prior, or a trained prior's folder.")]) -> None:
    """The card of one prior: what it learnt from, how, and its known limits."""
    with readable_errors():
        from sciinstruct.priors import zoo

        typer.echo(zoo.card(name).to_json(), nl=False)


@train_app.command("prior")
def train_prior(
    data: Annotated[
        str, typer.Option(help="'blackholes' or 'cells' (simulated), a folder of images, or an .npy (n, 1, H, W).")
    ],
    out: Out,
    npix: Annotated[int, typer.Option(min=8, help="Pixels on a side, a multiple of 8; an .npy brings its own.")] = 32,
    fov: Annotated[
        float | None, typer.Option(min=0.0, help="Side of the image in microarcseconds; interferometry needs it.")
    ] = None,
    pixel: Annotated[
        float | None, typer.Option(min=0.0, help="Side of a pixel in nm: a folder of micrographs is cut into crops.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
    images: Annotated[int, typer.Option(min=1, help="Images to simulate for 'blackholes' or 'cells'.")] = 20000,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a diffusion prior that --prior accepts."""
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs

        width = ("" if fov is None else f" --fov {fov:g}") + ("" if pixel is None else f" --pixel {pixel:g}")
        command = f"sciinstruct train prior --data {data} --npix {npix}{width} --steps {steps} --seed {seed}"
        prior = jobs.train_from(
            data,
            out,
            npix=npix,
            fov=fov,
            pixel_um=None if pixel is None else pixel / 1000,
            steps=steps,
            n_images=images,
            seed=seed,
            device=device,
            progress=not quiet,
            resume=resume,
            command=f"{command} --images {images}" if data in ("blackholes", "cells") else command,
        )
        typer.echo(f"prior: {out} (loss {prior.card.loss:.3f}, {prior.card.seconds:.0f} s)")


@train_app.command("reconstructor")
def train_reconstructor(
    setup: Annotated[str, typer.Argument(help="'cells-64-blur' or 'cells-64-mask'.")],
    out: Out,
    scoring: Annotated[int, typer.Option(min=0, help="Steps by the energy score of simulated pairs.")] = 1500,
    steps: Annotated[int, typer.Option(min=0, help="Steps of posterior matching after those.")] = 0,
    images: Annotated[int, typer.Option(min=1024, help="Structures to simulate.")] = 20000,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a network that draws posterior samples in one pass, for one of the packaged set-ups."""
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs

        command = f"sciinstruct train reconstructor {setup} --scoring {scoring} --steps {steps} --seed {seed}"
        made = jobs.train_reconstructor(
            setup,
            out,
            scoring_steps=scoring,
            steps=steps,
            n_images=images,
            seed=seed,
            device=device,
            progress=not quiet,
            resume=resume,
            command=f"{command} --images {images}",
        )
        typer.echo(f"reconstructor: {out} ({made.attributes['seconds']:.0f} s)")


def _announce(result: "JobResult | MicrographResult") -> None:
    """Say what came out, what to distrust, and where it lies."""
    from rich.console import Console

    console = Console()
    for warning in result.posterior.diagnostics.get("warnings", []):
        console.print(f"[red]warning:[/red] {warning}", highlight=False)
    console.print(f"{len(result.posterior.samples)} samples in {result.seconds:.0f} s", highlight=False)
    typer.echo(f"report: {result.report.html}")


def _announce_stack(result: "StackResult") -> None:
    """Say which planes have no result, and where the others lie."""
    for plane, reason in result.failed.items():
        where = ", ".join(f"{axis}={i}" for axis, i in zip("TCZ", plane))
        typer.echo(f"no result for plane {where}: {' '.join(reason.split())}", err=True)
    noted = [record for record in result.planes if record.notes]
    if noted:
        typer.echo(f"warning: {noted[0].notes[0]} ({len(noted)} planes with notes: see planes.jsonl)", err=True)
    done = len(result.planes) - len(result.failed)
    typer.echo(f"{done} of {len(result.planes)} planes in {result.seconds:.0f} s")
    typer.echo(f"images: {result.store} (mean, sd, quantiles)")


def _announce_verdict(result: "CalibrationResult") -> None:
    """One line of verdict, one with the report's place; exit code 3 if a check failed."""
    typer.echo(result.report.verdict)
    typer.echo(f"report: {result.paths.html}")
    if result.report.status == "fail":
        raise typer.Exit(3)


def main() -> None:
    """Entry point of the `sciinstruct` command."""
    app()
