"""Checkpoints that are not what they say: damaged, incomplete, of another model. A sentence each, no random weights."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageClassification, ViTForImageClassification

from bndl_hf import BNDLForImageClassification, BNDLModel
from model.tiny import tiny_backbone_config, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for kind in ("vit", "resnet"):
        tiny_model(kind).save_pretrained(folder / kind)
    return folder


@pytest.mark.parametrize("keep", [0.9, 0.001])
def test_weights_cut_short_are_an_error_that_says_so(tmp_path, saved, keep):
    shutil.copytree(saved / "vit", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"cut short or damaged\. Download it again with force_download=True"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "cut")


def test_weights_of_another_architecture_are_an_error_that_names_some(tmp_path, saved):
    shutil.copytree(saved / "vit", tmp_path / "mixed")
    shutil.copy(saved / "resnet" / "model.safetensors", tmp_path / "mixed")
    for model_class in (BNDLForImageClassification, BNDLModel):
        with pytest.raises(ValueError, match=r"(?s)holds no value for \d+ of the \d+ weights .*others \(backbone\.re"):
            model_class.from_pretrained(tmp_path / "mixed", ignore_mismatched_sizes=True)
        with pytest.raises(ValueError, match=r"do not fit its configuration\. They belong to another model"):
            model_class.from_pretrained(tmp_path / "mixed")


def test_a_plain_classifier_is_not_a_bndl_checkpoint(tmp_path):
    ViTForImageClassification(tiny_backbone_config("vit")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"This is a vit checkpoint, not a BNDL one. Wrap .* from_backbone_pretrained"):
        BNDLForImageClassification.from_pretrained(tmp_path)


def test_sizes_that_differ_are_named_and_may_be_started_afresh(saved):
    with pytest.raises(ValueError, match=r"do not fit num_labels=7\. Load the checkpoint without it"):
        BNDLForImageClassification.from_pretrained(saved / "vit", num_labels=7)
    model = BNDLForImageClassification.from_pretrained(saved / "vit", num_labels=7, ignore_mismatched_sizes=True)
    assert model.decision_layer.raw_loadings.shape == (64, 7)


def test_keywords_that_decide_no_size_are_not_blamed_for_sizes(tmp_path, saved):
    shutil.copytree(saved / "vit", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    for innocent in ({"dtype": torch.float32}, {"num_samples": 50}, {"temperature": 2.0, "revision": "main"}):
        with pytest.raises(ValueError, match=r"do not fit its configuration\. They belong to another model"):
            BNDLForImageClassification.from_pretrained(tmp_path / "other", **innocent)
    with pytest.raises(ValueError, match=r"do not fit num_factors=9\. Load the checkpoint without it"):
        BNDLForImageClassification.from_pretrained(saved / "vit", num_factors=9, dtype=torch.float32)


def test_the_loading_report_is_handed_on_when_asked_for(saved):
    model, info = BNDLForImageClassification.from_pretrained(saved / "vit", output_loading_info=True)
    assert isinstance(model, BNDLForImageClassification)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
