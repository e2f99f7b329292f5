"""The command `sciinstruct purify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sciinstruct.cli_options import Device, Out, Quiet, Seed, readable_errors

if TYPE_CHECKING:
    from sciinstruct.jobs import PurifyResult

_ROWS = 20
_NOTABLE = 2.0  # per cent


def purify(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="FITS, TIFF or npy images.")],
    prior: Annotated[str, typer.Option(help="A packaged prior (`sciinstruct priors list`) or a folder with one.")],
    out: Out = Path("sciinstruct-purified"),
    method: Annotated[str, typer.Option(help="scoreopt-o, scoreopt-n, purify++, diffpure or one-shot.")] = "scoreopt-o",
    sigma: Annotated[
        float, typer.Option(help="Noise level, in standard deviations of the prior's images: more changes more.")
    ] = 0.5,
    unit: Annotated[float, typer.Option(help="The file's value of 1 in the prior's unit.")] = 1.0,
    offset: Annotated[float, typer.Option(help="The file's value of 0 in the prior's unit.")] = 0.0,
    draws: Annotated[int, typer.Option(min=2, help="Purifications of each image: mean and scatter are kept.")] = 8,
    tile: Annotated[
        bool, typer.Option("--tile", help="Larger images: spread a prior whose images are crops of larger scenes.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Move images to where a prior puts its mass, and tell what that did to their fluxes."""
    with readable_errors():
        from sciinstruct import jobs

        result = jobs.purify_files(
            files,
            out,
            prior=prior,
            method=method,
            sigma=sigma,
            unit=unit,
            offset=offset,
            draws=draws,
            tile=tile,
            seed=seed,
            device=device,
            progress=not quiet,
        )
        _announce(result, out)


def _announce(result: "PurifyResult", out: Path) -> None:
    """The table of fluxes, and what purified images are not for."""
    rows = [("image", "flux before", "after", "change", "of the brightest tenth", "of a pixel")]
    rows += [
        (
            row.file if row.plane is None else f"{row.file} [{row.plane}]",
            f"{row.flux_before:.5g}",
            f"{row.flux_after:.5g} ± {row.flux_sd:.2g}",
            _percent(row.change_percent),
            _percent(row.bright_change_percent),
            f"{row.largest_change:.3g}",
        )
        for row in result.table[:_ROWS]
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for name, *numbers in rows:
        typer.echo("  ".join([name.ljust(widths[0]), *(n.rjust(width) for n, width in zip(numbers, widths[1:]))]))
    if len(result.table) > _ROWS:
        typer.echo(f"and {len(result.table) - _ROWS} more in {result.csv}")
    changed = sum(abs(row.change_percent or 0.0) > _NOTABLE for row in result.table)
    if changed:
        typer.echo(f"warning: {changed} of {len(result.table)} images changed their flux by over 2 %", err=True)
    typer.echo("Purified images are for a model that expects clean ones, not for photometry or a search for the rare.")
    typer.echo(f"results: {out} ({result.seconds:.0f} s)")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f} %"
