"""benchmarks/shift.py: features of corrupted images, and heads judged on them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from script_modules import TINY_RESNET, load_script

from .test_heads import toy_features

shift = load_script("benchmarks/shift")


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory):
    """Digits through a tiny classifier, one corruption; where it lies and the command."""
    folder = tmp_path_factory.mktemp("shift")
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=10)).save_pretrained(folder / "classifier")
    make_image_processor(16).save_pretrained(folder / "classifier")
    argv = ["features", "--model_name_or_path", str(folder / "classifier"), "--dataset_name", "digits", "--quiet"]
    argv += ["--images", "20", "--output", str(folder / "f_corrupted.safetensors"), "--corruptions"]
    shift.main([*argv, "contrast"])
    return folder / "f_corrupted.safetensors", argv


def test_corruptions_are_made_once_and_in_any_order_of_batches(corrupted):
    path, argv = corrupted
    before = load_file(path)
    assert set(before) == {"rows", "labels", "clean", *(f"contrast.{severity}" for severity in range(1, 6))}
    assert before["clean"].shape == (20, 16)
    assert before["labels"].bincount().tolist() == [2] * 10  # the same share of every class
    distances = [(before[f"contrast.{s}"] - before["clean"]).abs().mean() for s in (1, 5)]
    assert 0 < distances[0] < distances[1]
    shift.main([*argv, "contrast", "gaussian_noise", "--batch_size", "7"])
    after = load_file(path)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "gaussian_noise.5" in after
    with pytest.raises(ValueError, match="is of other images, another classifier or seed"):
        shift.main([*argv, "contrast", "--seed", "1"])


def test_heads_are_judged_clean_and_corrupted(tmp_path, capsys):
    toy_features(tmp_path / "f.safetensors")
    toy = load_file(tmp_path / "f.safetensors")
    rows = torch.arange(0, 100, 2)
    found = {"rows": rows, "labels": toy["test.labels"][rows], "clean": toy["test.features"][rows].float()}
    # At every severity as many features are the other class's as at the one before, and more.
    for severity in range(1, 6):
        found[f"contrast.{severity}"] = found["clean"].clone()
        found[f"contrast.{severity}"][: 10 * severity] = found["clean"][: 10 * severity].flip(1)
    save_file(found, tmp_path / "f_corrupted.safetensors")
    (tmp_path / "tasks.json").write_text(json.dumps({"toy": {"features": "f.safetensors", "held_out": 40}}))
    output, figure = tmp_path / "shift.json", tmp_path / "shift.png"
    argv = ["run", "--tasks_file", str(tmp_path / "tasks.json"), "--features_dir", str(tmp_path), "--tasks", "toy"]
    shift.main([*argv, "--heads", "logreg", "--seeds", "0", "--output", str(output), "--figure", str(figure)])
    (one,) = json.loads(output.read_text())["runs"]
    assert one["clean"]["accuracy"] == 1.0
    assert list(one["corrupted"]) == ["contrast"]
    losses = [one["corrupted"]["contrast"][str(s)]["negative_log_likelihood"] for s in range(1, 6)]
    assert one["clean"]["negative_log_likelihood"] < losses[0] < losses[1] < losses[4]
    assert figure.stat().st_size > 10_000
    assert "accuracy by severity, 0 is clean" in capsys.readouterr().out.lower()
    save_file({**found, "clean": found["clean"] + 1}, tmp_path / "f_corrupted.safetensors")
    with pytest.raises(ValueError, match="have other features than those of f"):
        shift.main([*argv, "--heads", "logreg", "--seeds", "1", "--output", str(output)])


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(ValueError, match="--corruptions frost: unknown; there are gaussian_noise"):
        shift.main(["features", "--model_name_or_path", "m", "--dataset_name", "d", "--corruptions", "frost"])
    with pytest.raises(ValueError, match="--heads none: unknown; heads are"):
        shift.main(["run", "--heads", "none"])
    with pytest.raises(ValueError, match="lacks cifar10_resnet56"):
        shift.main(["run", "--tasks", "resnet56_500", "--features_dir", str(tmp_path)])
    argv = ["run", "--tasks", "digits", "--heads", "logreg", "--output", str(tmp_path / "o.json")]
    with pytest.raises(ValueError, match="digits_corrupted does not exist"):
        shift.main(argv)
