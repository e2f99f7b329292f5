"""Writing a report's files: all of them or none."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sciinstruct.calibration.plots import printed
from sciinstruct.core import OutputError


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Give a temporary folder inside `target`; its files move to `target` together when the block ends well.

    Raises
    ------
    OutputError
        If `target` cannot be made or written, or the disk fails on the way; `target` is then as it was.
    """

    def refused(error: OSError) -> OutputError:
        return OutputError(f"cannot write the report into {target}: {error.strerror or error}")

    new = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".report.", dir=target))
    except OSError as error:
        raise refused(error) from error
    try:
        yield stage
        for file in sorted(stage.iterdir()):
            file.replace(target / file.name)
        new = False
    except OutputError:
        raise
    except OSError as error:
        raise refused(error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):
                target.rmdir()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content`, already JSON-safe; NaN is refused."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")


def write_page(path: Path, template: str, **context: Any) -> None:
    """Render one of the package's templates into a page that stands alone."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sciinstruct.calibration"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": format_number, "printed": printed}
    path.write_text(environment.get_template(template).render(**context), encoding="utf-8")


def format_number(value: float | None) -> str:
    """Three significant digits, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:d}"
    if 0 < abs(value) < 1e-9:
        return "< 1e-9"
    return f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e6 else f"{value:.0f}"
