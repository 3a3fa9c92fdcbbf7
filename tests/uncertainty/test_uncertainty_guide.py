"""The examples of docs/uncertainty.md run in their order and print what the page shows."""

import re
from pathlib import Path

import pytest

pytest.importorskip("evaluate")
GUIDE = (Path(__file__).parents[2] / "docs" / "uncertainty.md").read_text()


def test_the_guide_prints_what_it_shows(capsys):
    names: dict = {}
    for code, shown in re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", GUIDE, flags=re.S):
        capsys.readouterr()
        exec(code, names)
        if shown:
            assert rounded(capsys.readouterr().out) == rounded(shown)


def rounded(text):
    """Sums round differently on another machine: shares to one digit."""
    return re.sub(r"\d\.\d+", lambda number: f"{float(number[0]):.1f}", text)
