"""Rules of docs/contributing.md that a linter does not know."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ["sciinstruct", "operators", "datasets", "examples", "benchmarks", "tests", "docs"]
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "docs/_build" not in str(path))
TEXTS = [*SOURCES, *sorted((ROOT / "docs").glob("**/*.md")), *sorted(ROOT.glob("*.md")), ROOT / "pyproject.toml"]
# written in pieces, so that this file passes its own test
MACHINE_PATH = re.compile("/" + "(work|root|home|tmp|Users)" + "/[A-Za-z0-9_.-]+")


def relative(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f != "docs"])
def test_a_module_has_one_subject(folder):
    """Under 450 lines each."""
    long = {
        relative(p): n
        for p in SOURCES
        if relative(p).startswith(folder) and (n := len(p.read_text().splitlines())) >= 450
    }
    assert not long


def test_no_path_of_somebodys_machine():
    found = [f"{relative(p)}: {m.group()}" for p in TEXTS for m in MACHINE_PATH.finditer(p.read_text(encoding="utf-8"))]
    assert not found


def test_links_between_pages_lead_somewhere():
    """README and docs, as they are read on a forge."""
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+\.(?:md|cff|py))\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).is_file():
                broken.append(f"{relative(page)} -> {target}")
    assert not broken
