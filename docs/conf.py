"""Sphinx configuration. `sphinx-build -W -b html docs docs/_build/html` from the root of the repository."""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sciinstruct import __version__  # noqa: E402

project = "sciinstruct"
author = "The sciinstruct developers"
copyright = "2026, the sciinstruct developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "gallery/**/*.ipynb", "gallery/**/*.py", "gallery/**/*.json", "gallery/**/*.zip"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = "sciinstruct"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "show_prev_next": False}
html_sidebars = {"**": ["sidebar-nav-bs"]}
html_show_sourcelink = False
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
shutil.rmtree(ROOT / "docs" / "generated", ignore_errors=True)  # pages of modules that are gone would stay otherwise
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections name the types, with shapes and units
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# Scripts of examples/ become pages; running them takes minutes and, for one, a real file, so they run only when asked:
# SCIINSTRUCT_DOCS_RUN=all runs every script, SCIINSTRUCT_DOCS_RUN=exact runs those whose name contains "exact".
_run = os.environ.get("SCIINSTRUCT_DOCS_RUN", "")
sphinx_gallery_conf = {
    "examples_dirs": str(ROOT / "examples"),
    "gallery_dirs": "gallery",
    "filename_pattern": (".*" if _run == "all" else f".*{_run}.*") if _run else r"(?!)",
    "ignore_pattern": r"__init__\.py",
    "plot_gallery": bool(_run),
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "copyfile_regex": r"",
}
suppress_warnings = ["config.cache"]

_LITERAL = re.compile(r"(``.*?``|(?::[\w:]+:)?`[^`]*`)")


def _plain_stars_and_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings say (B, *event_shape) and |V| as one reads them; reStructuredText would take them for markup."""
    math_indent = None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if math_indent is not None and line.strip() and indent <= math_indent:
            math_indent = None
        if line.lstrip().startswith(".. math::"):
            math_indent = indent
        if math_indent is not None or line.lstrip().startswith(("| ", "+-", "+=", ">>>")):
            continue
        parts = _LITERAL.split(line)
        parts[::2] = [re.sub(r"(?<![\\*])(\*)(?=\w+[,)\]])|(\|)", r"\\\g<0>", part) for part in parts[::2]]
        # `a`^2 is no markup either: a literal must end at a space or a mark of punctuation
        ends = ["\\ " if re.match(r"[\w^]", after) else "" for after in parts[2::2]]
        parts[1::2] = [literal + end for literal, end in zip(parts[1::2], ends, strict=True)]
        lines[i] = "".join(parts)


def setup(app: Any) -> None:
    """Hook in before numpydoc reads the docstrings."""
    app.connect("autodoc-process-docstring", _plain_stars_and_bars, priority=400)
