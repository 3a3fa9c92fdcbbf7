"""docs/interpretability.md runs from top to bottom, prints what it shows, and its table is what backbones do."""

import re
from pathlib import Path

import pytest

from bndl_hf.interpretability import factor_maps
from interpretability.maps.test_factor_maps import model_of
from model.architectures import SUPPORTED

GUIDE = (Path(__file__).parents[2] / "docs" / "interpretability.md").read_text()
NUMBER = re.compile(r"\d+\.\d+")


def test_the_guide_prints_what_it_shows(capsys, tmp_path, monkeypatch):
    pytest.importorskip("captum")
    monkeypatch.chdir(tmp_path)  # it writes below outputs/
    names = {}
    for code, shown in re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", GUIDE, flags=re.S):
        capsys.readouterr()
        exec(code, names)
        if not shown:
            continue
        printed = capsys.readouterr().out
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        # Another machine's sums round differently, and training carries that on.
        for found, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
            assert float(found) == pytest.approx(float(expected), rel=0.05, abs=0.05)
    assert {path.name for path in (tmp_path / "outputs" / "guide").iterdir()} >= {"gap.png", "gallery"}


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_backbone_s_maps_are_made_as_the_table_says(model_type):
    rows = re.findall(r"^\| `?(pooled_average|grad_cam|none)`? \| (.*?) \|", GUIDE, flags=re.M)
    methods = {name: method for method, names in rows for name in names.split(", ")}
    assert set(methods) == set(SUPPORTED)
    model, pixel_values = model_of(model_type)
    if methods[model_type] == "none":
        with pytest.raises(ValueError, match=r"map of two positions|places in an image"):
            factor_maps(model, pixel_values)
    else:
        assert factor_maps(model, pixel_values).method == methods[model_type]
