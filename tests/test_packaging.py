"""The folder mapping: what is on disk is what is installed, from the checkout, the wheel and the sdist alike."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
MAPPED = {"sciinstruct": "sciinstruct", "sciinstruct.operators": "operators", "sciinstruct.datasets": "datasets"}

IMPORT_ALL = """
import sciinstruct, sciinstruct.core, sciinstruct.operators, sciinstruct.datasets, sciinstruct.priors, sciinstruct.cli
import pathlib, sys
print(pathlib.Path(sciinstruct.operators.__file__).resolve())
"""


def packages_on_disk() -> set[str]:
    found = set()
    for name, folder in MAPPED.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([name, *inside]))
    return found


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command away from the checkout's own import path; its output, or a failure that shows it."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_listed_packages_are_those_on_disk():
    assert set(SETUPTOOLS["packages"]) == packages_on_disk()
    assert SETUPTOOLS["package-dir"] == MAPPED


def test_no_module_lies_outside_a_package():
    """A folder of modules without __init__.py would work in the checkout and be missing from the wheel."""
    for folder in MAPPED.values():
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path.relative_to(ROOT)


def test_every_data_file_is_declared():
    """Files that are not modules reach the wheel only through package-data."""
    for name, folder in MAPPED.items():
        for path in (ROOT / folder).rglob("*"):
            if not path.is_file() or path.suffix in {".py", ".pyc"} or "__pycache__" in path.parts:
                continue
            owner = path.parent
            while not (owner / "__init__.py").is_file():
                owner = owner.parent
            package = ".".join([name, *owner.relative_to(ROOT / folder).parts])
            patterns = SETUPTOOLS["package-data"].get(package, []) + SETUPTOOLS["package-data"]["*"]
            assert any(path.match(str(owner / p)) for p in patterns), f"{path.relative_to(ROOT)} is not in package-data"


def test_checkout_imports_from_its_root_and_from_elsewhere(tmp_path):
    """The finder of sciinstruct/_checkout.py: no install needed, operators and datasets come under their full names."""
    shown = run(sys.executable, "-c", IMPORT_ALL, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert Path(shown.strip()) == ROOT / "operators" / "__init__.py"


def test_top_level_datasets_refuses_to_be_imported(tmp_path):
    """Libraries that look for another `datasets` must not find ours."""
    code = "try:\n    import datasets\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)).strip() == "datasets"


def source_copy(folder: Path) -> Path:
    """The files a commit would hold, without build folders."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist); the wheel is made from the sdist, as on an index."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    source = source_copy(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "-o", out, source, cwd=out)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def clean_python(folder: Path) -> Path:
    """A virtual environment that sees this one's libraries but not this one's sciinstruct."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    here = [p for p in sys.path if p.endswith("site-packages")]
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # a .pth line adds a folder without running that folder's own .pth files: an editable sciinstruct stays out
    (site / "libraries.pth").write_text("\n".join(here) + "\n")
    return python


def install(python: Path, *what: str | Path) -> None:
    """Install without dependencies: the libraries are already visible."""
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--ignore-installed", *what,
        cwd=python.parent,
    )  # fmt: skip


@pytest.mark.slow
def test_wheel_holds_the_mapped_packages_and_nothing_else(built):
    wheel, _ = built
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"sciinstruct", next(t for t in tops if t.endswith(".dist-info"))}
    for name, folder in MAPPED.items():
        inside = name.replace(".", "/")
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names


@pytest.mark.slow
def test_sdist_can_rebuild_and_be_checked(built):
    _, sdist = built
    names = {name.split("/", 1)[-1] for name in tarfile.open(sdist).getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "operators/__init__.py", "datasets/__init__.py"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editable", "wheel", "sdist"])
def test_each_kind_of_install_imports_and_answers(kind, built, tmp_path):
    wheel, sdist = built
    python = clean_python(tmp_path / "env")
    if kind == "editable":
        install(python, "-e", source_copy(tmp_path / "checkout"))
        expected = tmp_path / "checkout" / "operators"
    else:
        install(python, wheel if kind == "wheel" else sdist)
        expected = tmp_path / "env"
    shown = Path(run(python, "-c", IMPORT_ALL, cwd=tmp_path).strip())
    assert expected in shown.parents
    assert "Usage" in run(python.parent / "sciinstruct", "--help", cwd=tmp_path)
