"""benchmarks/ood.py: every score against the largest probability, on images made of the reported ones too."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from bndl_hf.uncertainty import OOD_SCORES
from script_modules import TINY_RESNET, load_script

from .test_heads import toy_features

benchmark = load_script("benchmarks/ood")


def test_every_score_is_compared_with_the_largest_probability(tmp_path: Path, capsys) -> None:
    toy_features(tmp_path / "f.safetensors")
    save_file({"features": torch.rand(20, 8)}, tmp_path / "f_shuffled.safetensors")
    tasks, output, figure = tmp_path / "tasks.json", tmp_path / "out.json", tmp_path / "out.png"
    tasks.write_text(json.dumps({"toy": {"features": "f.safetensors", "held_out": 40, "train": 60}}))
    argv = ["run", "--tasks_file", str(tasks), "--features_dir", str(tmp_path), "--heads", "dense"]
    argv += ["--output", str(output), "--quiet"]
    benchmark.main([*argv, "--seeds", "0", "--figure", str(figure)])
    (first,) = json.loads(output.read_text())["runs"]
    assert figure.stat().st_size > 10_000
    benchmark.main([*argv, "--seeds", "0", "1"])
    report = json.loads(output.read_text())
    assert report["runs"][0] == first
    sets = ["noise", "shuffled_features", "tripled_features", "shuffled_pixels"]
    assert [row["ood_dataset"] for row in report["means"]] == sets
    for row in report["means"]:
        two = [run["auroc"][row["ood_dataset"]]["energy"] for run in report["runs"]]
        assert row["energy"] == pytest.approx(sum(two) / 2)
        assert set(OOD_SCORES) <= set(row)
    gains = [row["joint"] - row["max_probability"] for row in report["means"]]
    (said,) = [row for row in report["differences_to_max_probability"] if row["score"] == "joint"]
    assert (said["worst"], said["mean"]) == (min(gains), pytest.approx(sum(gains) / 4))
    assert said["worst_on"] == f"toy {report['means'][gains.index(min(gains))]['ood_dataset']}"
    assert "| toy | tripled features | " in capsys.readouterr().out


def test_shuffled_pixels_are_those_of_the_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=10)).save_pretrained(tmp_path / "classifier")
    make_image_processor(16).save_pretrained(tmp_path / "classifier")
    output = tmp_path / "f_shuffled.safetensors"
    argv = ["shuffled", "--model_name_or_path", str(tmp_path / "classifier"), "--dataset_name", "digits"]
    benchmark.main([*argv, "--images", "5", "--batch_size", "3", "--output", str(output)])
    features = load_file(output)["features"]
    assert features.shape == (5, 16)
    assert len(features.unique(dim=0)) == 5


def test_digits_bring_half_inverted_images_too() -> None:
    declaration = benchmark.Declaration(features="digits", held_out=10)
    rows = torch.rand(4, 64)
    task = benchmark.FeatureTask((rows, torch.zeros(4)), (rows, torch.zeros(4)), (rows, torch.zeros(4)))
    found = benchmark.outsiders(declaration, task, "nowhere", seed=0)
    assert torch.equal(found["half_inverted"][:, :32], rows[:, :32])
    assert torch.equal(found["half_inverted"][:, 32:], 1 - rows[:, 32:])
    assert torch.equal(found["shuffled_features"].sort(dim=1).values, rows.sort(dim=1).values)
    assert not torch.equal(found["shuffled_features"], rows)


def test_unknown_heads_are_named() -> None:
    with pytest.raises((SystemExit, ValueError), match="--heads nmf: unknown; heads are tuned, trained, dense"):
        benchmark.main(["run", "--heads", "nmf"])


def test_near_and_far_sets_are_judged_as_openood_does(tmp_path: Path, capsys) -> None:
    output, figure = tmp_path / "out.json", tmp_path / "out.png"
    argv = ["openood", "--heads", "logreg", "--seeds", "0", "--output", str(output), "--figure", str(figure), "--quiet"]
    benchmark.main(argv)
    report = json.loads(output.read_text())
    means = {row["score"]: row for row in report["means"]}
    assert {(row["kind"], row["ood_dataset"]) for row in report["means"]} == {("far", "noise")}
    assert set(OPENOOD_MEASURES) <= set(means["max_probability"])
    assert 0.9 < means["mahalanobis"]["auroc"] <= 1  # noise is unlike any digit
    assert figure.stat().st_size > 10_000
    assert "| digits | far | noise | logreg | mahalanobis |" in capsys.readouterr().out


OPENOOD_MEASURES = ("auroc", "fpr95", "aupr_in", "aupr_out")


def test_openood_measures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(300, generator=generator), 1 + torch.randn(200, generator=generator)
    found = benchmark.judge_openood(inside, outside)
    is_out, scores = [0] * 300 + [1] * 200, torch.cat([inside, outside]).numpy()
    rates, hits, _ = metrics.roc_curve(is_out, scores, drop_intermediate=False)
    assert found["auroc"] == pytest.approx(metrics.auc(rates, hits))
    assert found["fpr95"] == pytest.approx(rates[(hits >= 0.95).argmax()])
    assert found["aupr_out"] == pytest.approx(metrics.average_precision_score(is_out, scores))
    assert found["aupr_in"] == pytest.approx(metrics.average_precision_score([1 - out for out in is_out], -scores))
    for rate, hit in zip(benchmark.ROC_AT, found["roc"], strict=True):
        assert hit == pytest.approx(hits[rates <= rate + 1e-9].max())
