"""The benchmark of verdicts on the built-in digits: what is counted, and what it is counted on."""

import json

import pytest

from script_modules import load_script

verdicts = load_script("benchmarks/verdicts")


def test_every_split_counts_what_came_true(tmp_path, capsys):
    output = tmp_path / "verdicts.json"
    verdicts.main(["run", "--heads", "dense", "--splits", "2", "--risk", "0.2", "--output", str(output)])
    (row,) = json.loads(output.read_text())["results"]
    assert (row["task"], row["head"]) == ("digits", "dense")
    assert 0 < row["share_sure"] <= row["familiar"] <= 1
    assert row["risk"] <= row["largest_risk"] <= 0.2
    assert row["splits_broken"] == 0
    assert set(row["unfamiliar"]) >= {"shuffled_features", "half_inverted"}
    assert "share sure" in capsys.readouterr().out


def test_unknown_tasks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--tasks shapes: unknown; the file declares digits"):
        verdicts.main(["run", "--tasks", "shapes", "--output", str(tmp_path / "verdicts.json")])
