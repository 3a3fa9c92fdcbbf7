"""benchmarks/heads.py: every figure per head and seed, and features files that match the backbone."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.image_dataset import collate, make_image_processor
from script_modules import TINY_RESNET, load_script

benchmark = load_script("benchmarks/heads")


def toy_features(path: Path) -> None:
    """Two well-separated classes in eight non-negative features, and one OOD set."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    features = torch.rand(400, 8, generator=generator) * 0.2
    features[torch.arange(400), labels] += 1
    save_file(
        {
            "train.features": features[:300].half(),
            "train.labels": labels[:300],
            "test.features": features[300:].half(),
            "test.labels": labels[300:],
            "noise.features": torch.rand(50, 8, generator=generator).half(),
        },
        path,
    )


def test_every_head_and_seed_gets_every_figure(tmp_path: Path, capsys) -> None:
    features, output = tmp_path / "f.safetensors", tmp_path / "out.json"
    toy_features(features)
    heads = ["bndl", "released", "nmf", "dense"]
    argv = ["heads", "--features", str(features), "--heads", *heads, "--seeds", "0", "1", "--output", str(output)]
    benchmark.main([*argv, "--quiet", "--epochs", "20", "--learning_rate", "0.01", "--report_from", "40"])
    report = json.loads(output.read_text())
    assert [(run["head"], run["seed"]) for run in report["runs"]] == [(h, s) for h in heads for s in (0, 1)]
    wanted = {"accuracy", "negative_log_likelihood", "brier_score", "expected_calibration_error", "pavpu", "sparsity"}
    wanted |= {"area_under_risk_coverage", "ood", "dead_loadings_at_init", "train_seconds", "predict_seconds"}
    assert all(wanted <= set(run) for run in report["runs"])
    settings = report["settings"]
    assert [settings[f"num_{part}_images"] for part in ("training", "choosing", "reported")] == [300, 40, 60]
    assert set(report["runs"][0]["ood"]["joint"]) == {"noise"}
    assert report["runs"][0]["tempered"]["negative_log_likelihood"] > 0
    assert report["summary"]["bndl"]["mean"]["sparsity"] <= 0.15  # a tenth of 16 x C, or one for each class
    means = {head: figures["mean"] for head, figures in report["summary"].items()}
    assert means["bndl"]["accuracy"] == 1.0
    assert means["dense"]["accuracy"] > 0.95
    assert means["bndl"]["dead_loadings_at_init"] == 0.0 < means["released"]["dead_loadings_at_init"]
    assert means["dense"]["pavpu"] == means["dense"]["accuracy"]  # no spread: every answer is certain
    assert "| bndl | 1.0000 |" in capsys.readouterr().out


def test_finished_runs_are_kept_and_other_settings_are_not_mixed_with_them(tmp_path: Path) -> None:
    features, output = tmp_path / "f.safetensors", tmp_path / "out.json"
    toy_features(features)
    argv = [
        "heads",
        "--features",
        str(features),
        "--heads",
        "dense",
        "--output",
        str(output),
        "--quiet",
        "--epochs",
        "1",
    ]
    benchmark.main([*argv, "--seeds", "0", "--hold_out", "50"])
    (first,) = json.loads(output.read_text())["runs"]
    benchmark.main([*argv, "--seeds", "0", "1", "--hold_out", "50"])
    report = json.loads(output.read_text())
    assert report["command"].startswith("python scripts/benchmarks/heads.py heads --features ")
    assert report["runs"][0] == first  # its seconds too
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    sizes = [report["settings"][f"num_{part}_images"] for part in ("training", "choosing", "reported")]
    assert sizes == [250, 50, 100]
    with pytest.raises(ValueError, match=r"out\.json holds runs with other settings; name another output file"):
        benchmark.main([*argv, "--seeds", "0"])
    assert json.loads(output.read_text()) == report


def test_a_features_file_holds_what_the_backbone_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=10)).eval()
    folder = tmp_path / "classifier"
    classifier.save_pretrained(folder)
    make_image_processor(16).save_pretrained(folder)
    output = tmp_path / "f.safetensors"
    argv = ["features", "--model_name_or_path", str(folder), "--dataset_name", "digits", "--ood", "again=digits"]
    benchmark.main([*argv, "--output", str(output)])
    data = load_file(output)
    assert data["train.features"].shape == (1438, 16)
    assert torch.equal(data["again.features"], data["test.features"])
    rows = load_image_dataset(DataArguments("digits")).with_pixel_values("test", make_image_processor(16))
    batch = collate([rows[i] for i in range(5)])
    logits = data["test.features"][:5] @ data["head.weight"].T + data["head.bias"]
    torch.testing.assert_close(logits, classifier(batch["pixel_values"]).logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(data["test.labels"][:5], batch["labels"])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["heads", "--features", "nowhere.safetensors", "--output", "x.json"], "nowhere.safetensors does not exist"),
        (
            ["features", "--model_name_or_path", "m", "--dataset_name", "digits", "--ood", "mnist", "--output", "x"],
            "--ood 'mnist' is not NAME=DATASET",
        ),
    ],
)
def test_a_wrong_command_line_is_answered_with_a_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises((SystemExit, ValueError), match=sentence):
        benchmark.main(argv)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    save_file({"train.features": torch.zeros(2, 2)}, tmp_path / "f.safetensors")
    with pytest.raises(ValueError, match=r"lacks train.labels, test.features, test.labels; it holds train.features"):
        benchmark.main(["heads", "--features", str(tmp_path / "f.safetensors"), "--output", str(tmp_path / "o.json")])
