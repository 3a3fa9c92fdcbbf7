"""The examples of docs/uncertainty.md run in their order and print what the page shows."""

import re
from pathlib import Path

import pytest

pytest.importorskip("evaluate")
GUIDE = (Path(__file__).parents[2] / "docs" / "uncertainty.md").read_text()
NUMBER = re.compile(r"\d+\.\d+")


def test_the_guide_prints_what_it_shows(capsys):
    names: dict = {}
    for code, shown in re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", GUIDE, flags=re.S):
        capsys.readouterr()
        exec(code, names)
        printed = capsys.readouterr().out
        if shown:
            assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
            # Another machine's sums round differently, and the steps of training carry that on.
            for found, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
                assert float(found) == pytest.approx(float(expected), abs=0.1)
