"""Finding the layer that makes the logits, taking it out, and what is said where that cannot be done."""

import re

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    CLIPConfig,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    MobileNetV2Config,
    PretrainedConfig,
    PreTrainedModel,
    SiglipConfig,
    SwinConfig,
    ViTConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.model.backbone import DetachedHead, detach_head, example_pixel_values, find_head, image_size, num_channels
from model.tiny import tiny_backbone_config

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37, "image_size": 30}
TINY_SIGLIP = {"vision_config": {**TINY, "patch_size": 15}, "text_config": {**TINY, "vocab_size": 10}}
ARCHITECTURES = {
    # name: (configuration, name of the head, D)
    "vit": (tiny_backbone_config("vit"), "classifier", 32),
    "resnet": (tiny_backbone_config("resnet"), "classifier.1", 30),
    "dinov2": (Dinov2Config(**{**TINY, "mlp_ratio": 2}, patch_size=15), "classifier", 64),  # CLS and mean patch
    "swin": (SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4), "classifier", 16),
    "mobilenet_v2": (MobileNetV2Config(image_size=32, depth_multiplier=0.25), "classifier", 1280),
    "siglip": (SiglipConfig(**TINY_SIGLIP), "classifier", 32),
    "clip": (CLIPConfig(**TINY_SIGLIP), "classifier", 32),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_layer_that_makes_the_logits_is_found_and_its_input_handed_on(name):
    config, head_name, width = ARCHITECTURES[name]
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(config).train()
    assert find_head(classifier) == (head_name, width)
    assert classifier.training  # left as it was
    assert not any(module._forward_hooks for module in classifier.modules())
    classifier.eval()
    pixel_values = example_pixel_values(classifier, batch_size=2)
    with torch.no_grad():
        logits = classifier(pixel_values=pixel_values).logits
        head = detach_head(classifier, head_name)
        features = classifier(pixel_values=pixel_values).logits
        assert features.shape == (2, width)
        torch.testing.assert_close(head(features), logits)
    assert not any("DetachedHead" in key for key in classifier.state_dict())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_makes_a_classifier_that_predicts(name):
    model = BNDLForImageClassification(BNDLConfig.from_backbone_config(ARCHITECTURES[name][0], num_labels=3)).eval()
    prediction = model.predict(example_pixel_values(model.backbone, batch_size=2))
    torch.testing.assert_close(prediction.probs.sum(-1), torch.ones(2))


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


def test_two_averaged_heads_are_an_error_that_names_them_and_the_alternative():
    config = DeiTConfig(**TINY, patch_size=15, num_labels=4)
    with pytest.raises(ValueError, match="combines the outputs of cls_classifier and distillation_classifier") as error:
        find_head(DeiTForImageClassificationWithTeacher(config))
    assert "DeiTForImageClassification " in str(error.value)


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


def test_an_architecture_without_image_classifier_is_an_error():
    with pytest.raises(ValueError, match="model_type='bert' has no image classifier in this transformers"):
        BNDLConfig.from_backbone_config(BertConfig(), num_labels=3)


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


def test_image_size_and_channels_are_read_in_every_form():
    config = tiny_backbone_config("vit")
    for size, expected in ((30, (30, 30)), ([20, 30], (20, 30)), ((20, 30), (20, 30)), ([24], (24, 24))):
        config.image_size = size
        assert image_size(config) == expected
    assert image_size(PretrainedConfig(image_size={"height": 20, "width": 30})) == (20, 30)
    assert image_size(tiny_backbone_config("resnet")) is None
    assert image_size(SiglipConfig(**TINY_SIGLIP)) == (30, 30)
    assert num_channels(tiny_backbone_config("vit", num_channels=1)) == 1
    assert num_channels(SiglipConfig(**TINY_SIGLIP)) == 3


def test_grayscale_backbones_read_one_channel():
    config = BNDLConfig.from_backbone_config(tiny_backbone_config("resnet", num_channels=1), num_labels=3)
    model = BNDLForImageClassification(config).eval()
    assert model(torch.randn(2, 1, 30, 30)).logits.shape == (2, 3)
    with pytest.raises(ValueError, match=re.escape("this model reads [B, 1, height, width]")):
        model(torch.randn(2, 3, 30, 30))
