"""The guide to decisions runs from top to bottom and prints what it says it prints."""

import re
from pathlib import Path

import pytest
import torch

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.training import FeatureDataset

GUIDE = (Path(__file__).parents[2] / "docs" / "decisions.md").read_text()
NUMBER = re.compile(r"\d+\.\d+")


def test_the_guide_prints_what_it_shows(capsys):
    pytest.importorskip("sklearn")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE, flags=re.S):
        exec(code, names)
    printed, shown = capsys.readouterr().out, "".join(re.findall(r"```text\n(.*?)```", GUIDE, flags=re.S))
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    # Another machine's sums round differently, and 240 steps of training carry that on.
    for found, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        assert float(found) == pytest.approx(float(expected), abs=0.05)
    assert names["sets"].gather(1, names["labels"][names["test"], None]).float().mean() > 0.95


def test_the_readme_stores_verdicts(capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    code = re.search(r"## From probabilities to verdicts.*?```python\n(.*?)```", readme, flags=re.S)[1]
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=4, num_labels=3)).eval()
    features = torch.rand(2000, 4, generator=torch.Generator().manual_seed(0))
    held_out = FeatureDataset(features, layer.predict(features).predicted_labels)  # the model is right everywhere
    exec(code, {"model": layer, "held_out": held_out})
    assert layer.config.temperature < 1
    assert layer.config.verdict["risk"] == 0.02
    assert layer.config.verdict["threshold"] == 0.0
    assert layer.familiarity is not None
    assert "Sure: 100.0% of these images" in capsys.readouterr().out
