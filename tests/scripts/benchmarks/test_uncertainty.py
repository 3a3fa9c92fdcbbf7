"""benchmarks/uncertainty.py: every setting of PAvPU in one file, and a stream judged in parts."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from script_modules import load_script

from .test_heads import toy_features

benchmark = load_script("benchmarks/uncertainty")


def test_every_setting_of_pavpu_is_in_the_table(tmp_path: Path, capsys) -> None:
    features, output = tmp_path / "f.safetensors", tmp_path / "out.json"
    toy_features(features)
    argv = ["pavpu", "--features", str(features), "--samples", "3", "10", "--epochs", "2", "--quiet"]
    benchmark.main([*argv, "--output", str(output)])
    report = json.loads(output.read_text())
    assert report["settings"]["num_reported_images"] == 50
    settings = [(row["head"], row["test"], row["values"], row["num_samples"]) for row in report["summary"]]
    per_head = [("paired", "logits", 3), ("exact", "logits", 3), ("paired", "logits", 10), ("exact", "logits", 10)]
    per_head += [("paired", "probabilities", 10), ("welch", "logits", 10), ("welch", "probabilities", 10)]
    assert settings == [(head, *setting) for head in ("bndl", "released") for setting in per_head]
    for row in report["runs"]:
        assert row["pavpu"] == (row["accurate_certain"] + row["inaccurate_uncertain"]) / 50
    assert capsys.readouterr().out.count("| bndl |") == len(per_head)


def test_a_stream_is_judged_whatever_the_batches(tmp_path: Path) -> None:
    reports = []
    for batch_size in ("64", "300"):
        output = tmp_path / f"{batch_size}.json"
        argv = ["streaming", "--rows", "300", "--classes", "20", "--batch_size", batch_size, "--quiet"]
        benchmark.main([*argv, "--output", str(output)])
        reports.append(json.loads(output.read_text()))
    for report in reports:
        assert report["accumulator_mib"] < 0.05
        assert report["peak_mib"] >= report["peak_mib_after_first_batch"]
        assert 0 < report["figures"]["accuracy"] < 1
        assert {"pavpu", "classwise_calibration_error", "brier_score"} <= set(report["figures"])


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    save_file({"train.features": torch.zeros(2, 2)}, tmp_path / "f.safetensors")
    with pytest.raises(ValueError, match=r"lacks train.labels, test.features, test.labels; it holds train.features"):
        benchmark.main(["pavpu", "--features", str(tmp_path / "f.safetensors"), "--output", str(tmp_path / "o.json")])
