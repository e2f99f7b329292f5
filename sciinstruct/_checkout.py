"""Import a source checkout like the wheel: operators/ and datasets/ lie beside this package, not in it."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

_BESIDE = {"sciinstruct.operators": "operators", "sciinstruct.datasets": "datasets"}


class _BesideFinder:
    """Finds the two packages above next to sciinstruct/; their own modules are found the usual way."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _BESIDE:
            return None
        folder = Path(__file__).resolve().parents[1] / _BESIDE[name]
        init = folder / "__init__.py"
        if not init.is_file():
            return None
        return importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])


def enable() -> None:
    """Add the finder last, so an installed copy inside the package always wins."""
    inside = Path(__file__).resolve().parent / "operators"
    if not inside.exists() and _BesideFinder not in sys.meta_path:
        sys.meta_path.append(_BesideFinder)  # type: ignore[arg-type]
