"""The code of docs/calibration.md runs, on fewer and smaller problems than it shows."""

import re
from pathlib import Path

from sciinstruct.calibration import study_report

PAGE = Path(__file__).resolve().parents[2] / "docs" / "calibration.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_report, "_sections", lambda report: [])  # the pictures are tested elsewhere
    text = PAGE.read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        small = block.replace("n=100", "n=32").replace("samples=64", "samples=8").replace("steps=100", "steps=10")
        exec(compile(small, PAGE.name, "exec"), names)
    printed = capsys.readouterr().out
    assert "32 observations, 8 samples each" in printed and "conformal factor" in printed
    assert (tmp_path / "dps-study" / "study.html").is_file()


def test_its_pictures_are_there():
    for target in re.findall(r"!\[.*?\]\((.*?)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).is_file(), target
