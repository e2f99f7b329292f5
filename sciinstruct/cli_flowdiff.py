"""`sciinstruct train flowdiff`: a prior and a posterior network from corrupted images alone."""

from pathlib import Path
from typing import Annotated

import typer

from sciinstruct.cli_options import Device, Out, Quiet, Resume, Seed, readable_errors, resume_hint


def train_flowdiff(
    data: Annotated[
        Path, typer.Argument(metavar="FILE", help="An .npy array (n, H, W) or (n, C, H, W); NaN: not measured.")
    ],
    out: Out,
    sigma: Annotated[
        float | None, typer.Option(min=0.0, help="Standard deviation of white noise, in the data's units.")
    ] = None,
    blur: Annotated[
        float | None, typer.Option(min=0.0, help="Standard deviation of a Gaussian blur, in pixels.")
    ] = None,
    na: Annotated[
        float | None, typer.Option(help="Micrographs in electrons, instead of both: numerical aperture.")
    ] = None,
    wavelength: Annotated[float | None, typer.Option(help="Micrographs: emission wavelength, nm.")] = None,
    pixel: Annotated[float | None, typer.Option(help="Micrographs: side of a pixel in the sample, nm.")] = None,
    index: Annotated[float, typer.Option(help="Micrographs: refractive index of the immersion medium.")] = 1.515,
    read: Annotated[float, typer.Option(help="Micrographs: read noise, electrons.")] = 1.6,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 4000,
    clean: Annotated[Path | None, typer.Option(help="An .npy array of a few clean images, if there are any.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Learn a prior that --prior accepts, and a posterior network, from corrupted images alone."""
    given = [na, wavelength, pixel]
    if any(v is not None for v in given) and None in given:
        raise typer.BadParameter("--na, --wavelength and --pixel go together")
    with readable_errors(resume_hint(out)):
        from sciinstruct import jobs
        from sciinstruct.operators.microscopy import Optics

        microscope = None
        if na is not None and wavelength is not None and pixel is not None:
            microscope = jobs.Microscope(Optics(na, wavelength, index), pixel / 1000, read)
        told = {"--sigma": sigma, "--blur": blur, "--na": na, "--wavelength": wavelength, "--pixel": pixel}
        words = " ".join(f"{name} {value:g}" for name, value in told.items() if value is not None)
        found = jobs.train_flowdiff(
            data,
            out,
            sigma=sigma,
            blur=blur,
            microscope=microscope,
            steps=steps,
            clean=clean,
            seed=seed,
            device=device,
            progress=not quiet,
            resume=resume,
            command=f"sciinstruct train flowdiff {data.name} {words} --steps {steps} --seed {seed}",
        )
        typer.echo(f"prior: {out / 'prior'}, posterior network: {out / 'reconstructor'}, report: {out / 'report.json'}")
        for said in found.warnings:
            typer.echo(f"warning: {said}", err=True)
