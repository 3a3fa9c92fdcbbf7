"""benchmarks/selective.py: thresholds from one half, what comes true on the other."""

import json

import pytest
import torch

from script_modules import load_script

selective = load_script("benchmarks/selective")


def test_a_split_answers_what_the_threshold_lets_through():
    # The surest half is right, the other half wrong: at any risk below 1/2 half is answered, without an error.
    confidence = torch.linspace(0.5, 1, 4000)
    probs = torch.stack([confidence, 1 - confidence], dim=1)
    labels = (confidence < 0.75).long()
    one = selective.one_split(probs, labels, 0.05, 0.05, seed=0)
    assert one["risk"] <= 0.05
    assert one["best_coverage"] == pytest.approx(0.5 / 0.95, abs=0.03)
    assert 0.45 < one["coverage"] <= one["best_coverage"] + 0.03
    assert (one["broken"], one["out_of_reach"]) == (0.0, 0.0)
    few = selective.one_split(probs[::100], labels[::100], 0.01, 0.05, seed=0)  # 20 rows promise no 1 %
    assert (few["coverage"], few["risk"], few["out_of_reach"]) == (0.0, 0.0, 1.0)
    assert selective.one_split(probs[::100], labels[::100], 0.01, None, seed=0)["coverage"] > 0.3


def test_every_head_gets_every_promise(tmp_path, capsys):
    output, figure = tmp_path / "selective.json", tmp_path / "selective.png"
    argv = ["run", "--heads", "logreg", "--seeds", "0", "--splits", "3", "--output", str(output)]
    selective.main([*argv, "--figure", str(figure), "--quiet"])
    report = json.loads(output.read_text())
    (one,) = report["runs"]
    assert [(row["method"], row["promised"]) for row in one["thresholds"]] == [
        (method, risk) for method in ("guaranteed", "observed") for risk in (0.01, 0.02, 0.05)
    ]
    assert one["thresholds"][0]["out_of_reach"] == 1.0  # 150 rows show no 1 %
    assert 0 < one["thresholds"][2]["coverage"] <= 1
    assert figure.stat().st_size > 10_000
    assert "Thresholds observed on one half" in capsys.readouterr().out


def test_risks_are_fractions():
    with pytest.raises(ValueError, match=r"--risks 2.0: not in \(0, 1\)"):
        selective.main(["run", "--risks", "2"])
