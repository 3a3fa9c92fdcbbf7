"""Finding the layer that makes the logits, taking it out, and what is said where that cannot be done."""

import copy
import importlib.util
import re

import pytest
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DINOv3ViTConfig,
    ImageGPTConfig,
    PPLCNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    ShieldGemma2Config,
    SwiftFormerConfig,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import BaseModelOutput

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.model.backbone import DetachedHead, detach_head, find_head, probe_architecture
from bndl_hf.model.backbone_inputs import example_inputs, image_size, num_channels
from model.architectures import SUPPORTED
from model.tiny import tiny_backbone_config

TINY_VIT = SUPPORTED["deit"].options


def test_a_1x1_convolution_in_front_of_a_flatten_is_a_head_too():
    model = nn.Sequential(nn.Conv2d(6, 4, 1), nn.Flatten())
    features = torch.randn(2, 6, 1, 1)
    expected = model(features)
    head = detach_head(model, "0")
    torch.testing.assert_close(head(model(features)[:, :, None, None]).flatten(1), expected)
    torch.testing.assert_close(model(features), features.flatten(1))


def test_the_stand_in_owns_an_empty_weight_and_bias_that_are_not_saved():
    stand_in = DetachedHead(8)
    assert stand_in.weight.numel() == stand_in.bias.numel() == 0
    assert stand_in.state_dict() == {}
    assert "feature_dim=8" in repr(stand_in)


# ---- what cannot be wrapped, and what is said of it ----

REFUSED = {
    "deit with two heads": (
        DeiTConfig(**TINY_VIT, architectures=["DeiTForImageClassificationWithTeacher"]),
        "combines the outputs of cls_classifier and distillation_classifier. BNDL replaces one layer; use "
        "DeiTForImageClassification, which reads the same checkpoints",
    ),
    "levit with two heads": (
        SUPPORTED["levit"].config(architectures=["LevitForImageClassificationWithTeacher"]),
        "combines the outputs of classifier.linear and classifier_distill.linear. BNDL replaces one layer; use "
        "LevitForImageClassification, which reads the same checkpoints",
    ),
    "swiftformer": (
        SwiftFormerConfig(image_size=32, depths=[1, 1, 1, 1], embed_dims=[8, 8, 8, 8]),
        "combines the outputs of head and dist_head. BNDL replaces one layer; use an image classifier with one head",
    ),
    "pp_lcnet": (PPLCNetConfig(), "returns last_hidden_state but no logits, so the layer that makes them cannot be"),
    "dinov3": (DINOv3ViTConfig(), "model_type='dinov3_vit' has no image classifier in this transformers"),
    "a text model": (BertConfig(), "model_type='bert' has no image classifier in this transformers"),
    "tokens": (
        ImageGPTConfig(n_embd=16, n_layer=1, n_head=1),
        "ImageGPTForImageClassification reads input_ids, not pixel_values, so BNDL cannot wrap it; use an image",
    ),
    "images and text": (
        ShieldGemma2Config(),
        "ShieldGemma2ForImageClassification cannot be run on pixel_values [1, 3, 224, 224] alone (You must specify",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_wrapped_is_an_error_that_names_an_architecture_that_can(name):
    config, says = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        BNDLConfig.from_backbone_config(config, num_labels=3)
    assert "(vit, dinov2, swin, convnext, resnet, ...)" in str(error.value)


@pytest.mark.parametrize(("model_type", "package"), [("timm_wrapper", "timm"), ("dinat", "natten")])
def test_a_missing_package_is_an_error_that_names_it_and_what_works_without(model_type, package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=f"model_type='{model_type}' needs a package that is missing") as error:
        BNDLConfig.from_backbone_config(CONFIG_MAPPING[model_type](), num_labels=3)
    assert f"pip install {package}" in str(error.value)
    assert "or use an image classifier with one head (vit," in str(error.value)


def test_the_single_head_of_a_two_headed_checkpoint_is_wrapped_as_the_error_says(tmp_path):
    two_heads = DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY_VIT, num_labels=4)).eval()
    two_heads.save_pretrained(tmp_path / "two_heads")
    with pytest.raises(ValueError, match=re.escape("from_backbone_pretrained(DeiTForImageClassification.from_pretra")):
        BNDLForImageClassification.from_backbone_pretrained(tmp_path / "two_heads")
    one_head = DeiTForImageClassification.from_pretrained(tmp_path / "two_heads")
    model = BNDLForImageClassification.from_backbone_pretrained(one_head)
    inputs = example_inputs(one_head, batch_size=2)
    features = model.extract_features(**inputs)
    torch.testing.assert_close(two_heads.cls_classifier(features), two_heads(**inputs).cls_logits)
    model.save_pretrained(tmp_path / "wrapped")
    loaded = BNDLForImageClassification.from_pretrained(tmp_path / "wrapped")
    assert type(loaded.backbone) is DeiTForImageClassification
    assert torch.equal(copy.deepcopy(loaded)(**inputs).logits, copy.deepcopy(model)(**inputs).logits)


class NoLogits(PreTrainedModel):
    """A classifier whose output, like PP-LCNet's, has no `.logits`."""

    config_class = ViTConfig

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(3, 4)
        self.post_init()

    def forward(self, pixel_values):
        return BaseModelOutput(last_hidden_state=self.classifier(pixel_values.mean(dim=(2, 3))))


def test_an_output_without_logits_is_an_error_that_names_what_there_is():
    with pytest.raises(ValueError, match="NoLogits returns last_hidden_state but no logits"):
        find_head(NoLogits(tiny_backbone_config("vit")))


@pytest.mark.parametrize(
    ("head_name", "found"),
    [("pooler", "does not exist"), ("vit.layernorm", "is a LayerNorm"), ("vit", "is a ViTModel")],
)
def test_a_wrong_head_name_is_an_error_that_lists_linear_layers(head_name, found):
    classifier = AutoModelForImageClassification.from_config(tiny_backbone_config("vit"))
    with pytest.raises(ValueError, match=re.escape(f"head_name={head_name!r} {found} in ViTForImage")) as error:
        detach_head(classifier, head_name)
    linear = [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)]
    assert "classifier" in linear
    assert ", ".join(linear[-5:]) in str(error.value)


# ---- what a backbone reads ----


def test_image_size_and_channels_are_read_in_every_form():
    for size, expected in ((30, (30, 30)), ([20, 30], (20, 30)), ((20, 30), (20, 30)), ([24], (24, 24))):
        assert image_size(PretrainedConfig(image_size=size)) == expected
    assert image_size(PretrainedConfig(image_size={"height": 20, "width": 30})) == (20, 30)
    assert image_size(PretrainedConfig(image_size={"shortest_edge": 20})) == (20, 20)
    assert image_size(tiny_backbone_config("resnet")) is None
    assert image_size(SUPPORTED["siglip"].config()) == (32, 32)
    timm = PretrainedConfig(pretrained_cfg={"input_size": [1, 20, 30]})
    assert image_size(timm) == (20, 30)
    timm_model = nn.Module()
    timm_model.pretrained_cfg = {"input_size": (3, 20, 30)}
    assert image_size(timm_model) == (20, 30)
    timm.model_args = {"img_size": 40}
    assert image_size(timm) == (40, 40)
    assert num_channels(timm) == 1
    assert num_channels(PretrainedConfig(pretrained_cfg={"input_size": [3, 20, 30]}, model_args={"in_chans": 4})) == 4
    assert num_channels(tiny_backbone_config("vit", num_channels=1)) == 1
    assert num_channels(SUPPORTED["siglip"].config()) == 3
    assert num_channels(SUPPORTED["textnet"].config(stem_num_channels=1)) == 1
    assert num_channels(PretrainedConfig()) == 3


@pytest.mark.parametrize("size", [(32, 48), [48, 32], 16])
def test_an_oblong_image_is_read_as_the_configuration_says(size):
    backbone_config = SUPPORTED["vit"].config(image_size=size)
    model = BNDLForImageClassification(BNDLConfig.from_backbone_config(backbone_config, num_labels=3)).eval()
    height, width = image_size(backbone_config)
    assert model(torch.randn(2, 3, height, width)).logits.shape == (2, 3)


def test_grayscale_backbones_read_one_channel():
    config = BNDLConfig.from_backbone_config(tiny_backbone_config("resnet", num_channels=1), num_labels=3)
    model = BNDLForImageClassification(config).eval()
    assert model(torch.randn(2, 1, 30, 30)).logits.shape == (2, 3)
    with pytest.raises(ValueError, match=re.escape("this model reads [B, 1, height, width]")):
        model(torch.randn(2, 3, 30, 30))


def test_a_wrapped_model_that_is_no_image_classifier_is_refused():
    text = BertForSequenceClassification(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    )
    with pytest.raises(ValueError, match="BertForSequenceClassification reads input_ids, not pixel_values"):
        BNDLForImageClassification.from_backbone_pretrained(text)

    class MyViT(ViTForImageClassification):
        pass

    with pytest.raises(ValueError, match="MyViT cannot be built again from its configuration, which makes a ViTFor"):
        BNDLForImageClassification.from_backbone_pretrained(MyViT(ViTConfig(**TINY_VIT)))


def test_the_probe_leaves_nothing_behind_that_later_models_would_read():
    config = SUPPORTED["beit"].config(image_size=96, patch_size=16)  # BEiT keeps the index of each window it met
    probe_architecture(config)
    classifier = AutoModelForImageClassification.from_config(config).eval()
    bias = next(module for module in classifier.modules() if hasattr(module, "generate_relative_position_index"))
    index = bias.generate_relative_position_index((6, 6))
    assert not index.is_meta


def test_a_probe_costs_no_memory_for_the_weights():
    # ViT-L: 304 million weights, 1.2 GB. On the meta device the probe holds none of them.
    config = ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    made = []
    original = nn.Linear.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "__init__", lambda self, *a, **k: (original(self, *a, **k), made.append(self))[0])
        assert probe_architecture(config)[1:] == ("classifier", 1024)
    assert len(made) > 24
    assert all(layer.weight.is_meta for layer in made)
