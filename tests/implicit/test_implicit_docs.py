"""The code that docs/implicit.md shows runs."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "implicit.md"


@pytest.mark.slow
def test_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["draws"].shape == (100_000, 2) and names["fast"].shape == (1000, 2)
    assert (tmp_path / "banana-report" / "sampler.html").is_file()
