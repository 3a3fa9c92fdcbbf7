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
