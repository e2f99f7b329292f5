"""The floors of docs/architecture.md: an import may point down or sideways within its own folder, never up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Floor of every part. Two parts on one floor may not see each other.
FLOORS = {
    "core": 0,
    "operators": 1,
    "datasets": 1,
    "diffusion": 2,
    "priors": 3,
    "divergences": 4,
    "flows": 4,
    "inference": 5,
    "implicit": 5,
    "purification": 5,
    "calibration": 6,
    "jobs": 7,
    "cli_options": 8,
    "cli_flowdiff": 9,
    "cli_pde": 9,
    "cli_purify": 9,
    "cli": 10,
}
# The package's own front page gathers names, and the checkout finder serves it.
FRONT = {"__init__", "_checkout"}


def modules() -> Iterator[tuple[str, Path]]:
    """(full module name, file) of all the package's source, operators and datasets included."""
    for folder, prefix in [("sciinstruct", "sciinstruct"), ("operators", None), ("datasets", None)]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = list(path.relative_to(ROOT / folder).with_suffix("").parts)
            if parts[-1] == "__init__" and len(parts) > 1:
                parts.pop()
            yield ".".join(["sciinstruct", *([folder] if prefix is None else []), *parts]), path


def part(module: str) -> str:
    """The part of the house a module belongs to: ``sciinstruct.core.noise`` -> ``core``; ``__init__`` for itself."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


def imported(source: str) -> list[tuple[int, str]]:
    """(line, module) of every import of the package, lazy ones and names of subpackages included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found.append((node.lineno, "<relative>"))
            elif node.module == "sciinstruct":  # from sciinstruct import priors
                found += [(node.lineno, f"sciinstruct.{alias.name}") for alias in node.names]
            elif node.module:
                found.append((node.lineno, node.module))
    return [(line, name) for line, name in found if name == "<relative>" or name.split(".")[0] == "sciinstruct"]


def wrong_arrows(module: str, source: str) -> list[str]:
    """What is wrong with a module's imports, one line each."""
    here = part(module)
    wrong = []
    for line, name in imported(source):
        if name == "<relative>":
            wrong.append(f"{module}:{line}: relative import; use the full name")
            continue
        there = part(name)
        if there == here or there not in FLOORS:  # sciinstruct.__version__ and the like
            continue
        if FLOORS[there] >= FLOORS[here]:
            wrong.append(f"{module}:{line}: {here} (floor {FLOORS[here]}) imports {name} (floor {FLOORS[there]})")
    return wrong


SOURCES = [(name, path) for name, path in modules() if part(name) not in FRONT]


@pytest.mark.parametrize(("module", "path"), SOURCES, ids=[name for name, _ in SOURCES])
def test_imports_point_down(module, path):
    assert part(module) in FLOORS, f"{module} has no floor: add its folder here and to docs/architecture.md"
    assert not (wrong := wrong_arrows(module, path.read_text())), "\n".join(wrong)


@pytest.mark.parametrize(("module", "path"), SOURCES, ids=[name for name, _ in SOURCES])
def test_folders_beside_the_package_are_imported_by_their_full_name(module, path):
    """`operators` and `datasets` at top level would be second copies of every class."""
    bad = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] in {"operators", "datasets"} for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"operators", "datasets"})
    ]
    assert not bad


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sciinstruct.core.x", "from sciinstruct.priors.base import Prior"),
        ("sciinstruct.core.x", "def f():\n    from sciinstruct import inference"),
        ("sciinstruct.operators.x", "from sciinstruct.datasets.blackholes import sample"),
        ("sciinstruct.datasets.x", "import sciinstruct.operators.blur"),
        ("sciinstruct.priors.x", "from ..inference import ppm"),
        ("sciinstruct.diffusion.x", "from sciinstruct.divergences import pair"),
    ],
)
def test_an_arrow_that_points_up_is_caught(module, source):
    assert wrong_arrows(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sciinstruct.cli", "from sciinstruct import jobs, __version__"),
        (
            "sciinstruct.inference.ppm",
            "from sciinstruct.divergences import pair\nfrom sciinstruct.inference.base import run",
        ),
        ("sciinstruct.operators.x", "import torch\nfrom sciinstruct.core import Operator"),
    ],
)
def test_an_arrow_that_points_down_passes(module, source):
    assert not wrong_arrows(module, source)
