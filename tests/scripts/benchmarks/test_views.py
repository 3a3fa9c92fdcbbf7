"""benchmarks/views.py: the rows of a task, the views of their images, one figure for each number of views and head."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification

from bndl_hf.data.image_dataset import make_image_processor
from script_modules import TINY_RESNET, load_script

heads, views = load_script("benchmarks/heads"), load_script("benchmarks/views")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, its plain features of the digits and a task on them."""
    folder = tmp_path_factory.mktemp("views")
    torch.manual_seed(0)
    ResNetForImageClassification(ResNetConfig(**TINY_RESNET, num_labels=10)).save_pretrained(folder)
    make_image_processor(8).save_pretrained(folder)
    argv = ["features", "--model_name_or_path", str(folder), "--dataset_name", "digits", "--quiet"]
    heads.main([*argv, "--output", str(folder / "digits.safetensors")])
    task = {"features": "digits.safetensors", "train": 60, "held_out": 40}
    (folder / "tasks.json").write_text(json.dumps({"some": task}))
    return folder


def compare(folder: Path, output: Path, *more: str) -> list[dict]:
    argv = ["--model_name_or_path", str(folder), "--dataset_name", "digits", "--features_dir", str(folder), "--quiet"]
    argv += ["--tasks_file", str(folder / "tasks.json"), "--tasks", "some", "--augmentations", "shift", "--seeds", "0"]
    cache = ["--feature_cache_dir", str(output.parent / "cache")]
    heads = ["--heads", "trained", "trained_400_steps", "logistic"]
    return views.main([*argv, *cache, *heads, "--views", "1", "2", "--output", str(output), *more])


def test_every_number_of_views_and_head_is_judged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(views.MIN_STEPS, "trained_400_steps", 4)
    runs = compare(folder, tmp_path / "views.json")
    heads = ("trained", "trained_400_steps", "logistic")
    assert [(run["views"], run["head"]) for run in runs] == [(v, h) for v in (1, 2) for h in heads]
    for run in runs:
        assert 0 <= run["accuracy"] <= 1
        assert run["tempered"]["negative_log_likelihood"] > 0
    one, two = (run["negative_log_likelihood"] for run in runs if run["head"] == "logistic")
    assert one != two
    assert len(list((tmp_path / "cache").iterdir())) == 1, "one view beside the plain images of the features file"
    assert json.loads((tmp_path / "views.json").read_text())["runs"] == runs
    assert "| some | shift | trained | 1 |" in capsys.readouterr().out


def test_features_of_other_images_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(views.MIN_STEPS, "trained_400_steps", 4)
    tensors = load_file(folder / "digits.safetensors")
    save_file({**tensors, "train.labels": tensors["train.labels"].flip(0)}, tmp_path / "digits.safetensors")
    with pytest.raises(ValueError, match="labels of digits are not those of the features file row by row"):
        compare(folder, tmp_path / "views.json", "--features_dir", str(tmp_path))


def test_a_search_reads_the_views(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "TUNED_STEPS", 1)
    (run,) = compare(folder, tmp_path / "views.json", "--heads", "tuned", "--views", "2")
    assert run["negative_log_likelihood"] > 0
