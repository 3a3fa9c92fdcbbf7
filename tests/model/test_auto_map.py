"""What a saved model is made of: its code beside the weights, named in config.json and nowhere in memory."""

import json

import pytest
from transformers import AutoConfig

from bndl_hf import BNDLConfig, BNDLModel
from bndl_hf.model import modeling_bndl
from bndl_hf.model.configuration_bndl import FORMAT_VERSION
from model.tiny import tiny_model
from test_hub_set import FILES

HUB_SET = {file.name: file.read_text() for file in FILES if file.name != "__init__.py"}
AUTO_MAP = {
    "AutoConfig": "configuration_bndl.BNDLConfig",
    "AutoModel": "modeling_bndl.BNDLModel",
    "AutoModelForImageClassification": "modeling_bndl.BNDLForImageClassification",
}


def read_config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("as_scorer", [False, True])
def test_every_file_of_the_hub_set_lies_beside_the_weights_and_is_named(tmp_path, vit_model, as_scorer):
    (BNDLModel(vit_model.config) if as_scorer else vit_model).save_pretrained(tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.glob("*.py")} == HUB_SET
    saved = read_config(tmp_path)
    assert saved["auto_map"] == AUTO_MAP
    assert {task: entry["impl"] for task, entry in saved["custom_pipelines"].items()} == {
        "image-classification": "pipeline_bndl.BNDLImageClassificationPipeline",
        "bndl-image-classification": "pipeline_bndl.BNDLAnswerPipeline",
    }
    for entry in saved["auto_map"].values():
        module, name = entry.split(".")
        assert f"class {name}(" in HUB_SET[f"{module}.py"]
    for entry in saved["custom_pipelines"].values():
        assert hasattr(modeling_bndl, entry["impl"].split(".")[1])


def test_a_configuration_saved_alone_promises_no_code(tmp_path, vit_model):
    vit_model.config.save_pretrained(tmp_path)
    assert not {"auto_map", "custom_pipelines"} & set(read_config(tmp_path))
    assert not list(tmp_path.glob("*.py"))


def test_the_installed_package_uses_its_own_classes(tmp_path, vit_model):
    vit_model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is BNDLConfig
    assert not hasattr(config, "auto_map")
    assert not hasattr(config, "custom_pipelines")  # `pipeline` would ask for trust_remote_code
    config.save_pretrained(tmp_path)  # the code is there: it stays named
    assert read_config(tmp_path)["auto_map"] == AUTO_MAP


def test_a_configuration_of_a_newer_version_is_refused(tmp_path):
    tiny_model("vit").save_pretrained(tmp_path)
    newer = {**read_config(tmp_path), "format_version": FORMAT_VERSION + 1}
    (tmp_path / "config.json").write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="format_version=4, which a newer bndl-hf wrote; this one reads up to 3"):
        AutoConfig.from_pretrained(tmp_path)
