"""The ResNet for small images: its size, its stem, and that the Auto classes and the decision layer take it."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.backbones import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel


def tiny(**fields):
    return CifarResNetConfig.resnet18(1 / 16, **fields)


def num_parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in CifarResNetForImageClassification(config).parameters())


def resnet18_by_hand(w, num_labels):
    """Parameters of ResNet-18 whose first stage has `w` channels: 3x3 convolutions, two numbers a BatchNorm channel."""
    total, channels = 3 * 9 * w + 2 * w, w
    for out in (w, 2 * w, 4 * w, 8 * w):
        total += 9 * channels * out + 3 * 9 * out * out + 4 * 2 * out  # two blocks of two convolutions
        total += channels * out + 2 * out if channels != out else 0  # the 1x1 shortcut
        channels = out
    return total + channels * num_labels + num_labels


@pytest.mark.parametrize(("width", "expected"), [(1, 11_173_962), (2, 44_662_922)])
def test_resnet18_has_the_parameters_of_the_literature(width, expected):
    assert resnet18_by_hand(64 * width, 10) == expected
    assert num_parameters(CifarResNetConfig.resnet18(width, num_labels=10)) == expected


def test_the_stem_keeps_every_pixel_and_three_stages_halve_the_side():
    model = CifarResNetModel(tiny()).eval()
    seen = model(torch.randn(1, 3, 32, 32), output_hidden_states=True).hidden_states
    assert [list(h.shape[1:]) for h in seen] == [[4, 32, 32], [4, 32, 32], [8, 16, 16], [16, 8, 8], [32, 4, 4]]
    assert not any(isinstance(module, torch.nn.MaxPool2d) for module in model.modules())


def test_a_saved_model_comes_back_through_the_auto_classes(tmp_path):
    model = CifarResNetForImageClassification(tiny(num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), CifarResNetConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), CifarResNetModel)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x).logits, model(x).logits)


def test_a_plain_checkpoint_loads_without_this_package_and_one_with_our_layer_says_what_it_needs(tmp_path):
    model = CifarResNetForImageClassification(tiny(num_labels=3))
    model.save_pretrained(tmp_path / "plain")
    BNDLForImageClassification.from_backbone_pretrained(model).save_pretrained(tmp_path / "bndl")
    code = (
        "from transformers import AutoModelForImageClassification as Auto\n"
        "print(type(Auto.from_pretrained('plain', trust_remote_code=True)).__name__)\n"
        "try: Auto.from_pretrained('bndl', trust_remote_code=True)\n"
        "except ValueError as error: print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "check": True},
        env={"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": ""},
    )
    first, second = found.stdout.splitlines()
    assert first == "CifarResNetForImageClassification"
    assert "cifar_resnet" in second
    assert "import the package that registers it" in second


def test_the_decision_layer_reads_its_pooled_features(tmp_path):
    model = BNDLForImageClassification(BNDLConfig.from_backbone_config(tiny(), num_labels=3))
    assert (model.config.feature_dim, model.config.head_name) == (32, "classifier.1")
    model.save_pretrained(tmp_path)
    loaded = BNDLForImageClassification.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.predict(x).probs, model.predict(x).probs)
    assert bool((model.extract_features(x) >= 0).all())


def test_stage_dropout_draws_while_training_alone_and_adds_no_weight():
    plain, dropping = (CifarResNetForImageClassification(tiny(stage_dropout=p)) for p in (0.0, 0.5))
    assert set(plain.state_dict()) == set(dropping.state_dict())
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(dropping.eval()(x).logits, plain.eval()(x).logits)
    for module in dropping.modules():
        module.train(isinstance(module, torch.nn.Dropout))
    assert not torch.equal(dropping(x).logits, dropping(x).logits)


def test_impossible_values_are_named():
    with pytest.raises(ValueError, match=r"stage_dropout=1\.0 is a probability"):
        tiny(stage_dropout=1.0)
    with pytest.raises(ValueError, match=r"depths=\[1, 1\] and hidden_sizes=\[64, 128, 256, 512\] differ"):
        CifarResNetConfig(depths=[1, 1])
    with pytest.raises(ValueError, match=r"width=0\.001 leaves 0 channels"):
        CifarResNetConfig.resnet18(0.001)
