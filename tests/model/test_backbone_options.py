"""What a transformers user may ask of any model reaches the wrapped one: loading, attention, checkpointing, inputs."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.models.timm_wrapper import modeling_timm_wrapper

from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLModel
from bndl_hf.model.backbone_inputs import example_inputs
from model.architectures import SUPPORTED
from model.test_architectures import classifier_of


def model_of(model_type, **kwargs):
    torch.manual_seed(0)
    config = BNDLConfig.from_backbone_config(SUPPORTED[model_type].config(**kwargs))
    return BNDLForImageClassification(config).eval()


@pytest.fixture
def folder(tmp_path):
    """A saved ViT classifier of three classes for images of 32 pixels."""
    classifier_of(SUPPORTED["vit"]).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


# ---- from_backbone_pretrained ----


def test_keywords_of_from_pretrained_reach_the_classifier_and_fields_the_configuration(folder):
    model = BNDLForImageClassification.from_backbone_pretrained(
        folder,
        num_labels=7,
        num_factors=5,
        dtype=torch.bfloat16,
        attn_implementation="eager",
        device_map="cpu",
        revision="main",
        token=False,
        hidden_dropout_prob=0.25,  # a field of the classifier's own configuration
        local_files_only=True,
    )
    assert model.config.num_factors == 5
    assert model.config.num_labels == 7
    assert model.backbone.dtype == torch.bfloat16
    assert model.backbone.config._attn_implementation == "eager"
    assert model.backbone.config.hidden_dropout_prob == 0.25
    assert model.config.backbone_config is model.backbone.config
    assert {p.dtype for p in model.decision_layer.parameters()} == {torch.float32}
    assert model(torch.randn(2, 3, 32, 32)).logits.shape == (2, 7)


def test_backbone_kwargs_go_to_the_classifier_whatever_their_names(folder, monkeypatch):
    seen = {}
    original = AutoModelForImageClassification.from_pretrained

    def from_pretrained(source, **kwargs):
        seen.update(kwargs)
        kwargs.pop("of_a_later_transformers")
        return original(source, **kwargs)

    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", from_pretrained)
    model = BNDLForImageClassification.from_backbone_pretrained(
        folder, dtype=torch.float16, backbone_kwargs={"dtype": torch.bfloat16, "of_a_later_transformers": 1}
    )
    assert seen == {"dtype": torch.bfloat16, "of_a_later_transformers": 1}
    assert model.backbone.dtype == torch.bfloat16


def test_images_of_another_size_start_the_position_encoding_afresh_when_asked(folder):
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        BNDLForImageClassification.from_backbone_pretrained(folder, image_size=64)
    model = BNDLForImageClassification.from_backbone_pretrained(folder, image_size=64, ignore_mismatched_sizes=True)
    assert model.config.backbone_config.image_size == 64
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 3)


def test_a_misspelt_field_is_an_error_before_anything_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    says = (
        "BNDLConfig has no field num_factor (did you mean num_factors?); nor does ViTConfig or from_pretrained know it"
    )
    with pytest.raises(ValueError, match=re.escape(says)):
        BNDLForImageClassification.from_backbone_pretrained(folder, num_factor=5)
    with pytest.raises(ValueError, match="feature_dim: read off the classifier that is wrapped; leave it out"):
        BNDLForImageClassification.from_backbone_pretrained(folder, feature_dim=5)


def test_a_loaded_classifier_is_wrapped_as_it_is(folder):
    classifier = ViTForImageClassification.from_pretrained(folder)
    weights = classifier.vit.state_dict()
    model = BNDLForImageClassification.from_backbone_pretrained(classifier, num_labels=4, num_factors=8)
    assert model.backbone is classifier
    assert all(torch.equal(model.backbone.vit.state_dict()[name], value) for name, value in weights.items())
    assert not any(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(ValueError, match="BNDLConfig has no field dtype, and ViTForImageClassification is loaded"):
        BNDLForImageClassification.from_backbone_pretrained(classifier, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="has a BNDL layer already; load it with from_pretrained"):
        BNDLForImageClassification.from_backbone_pretrained(model)


def test_a_classifier_spread_over_devices_stays_so_in_the_map_of_the_whole(folder):
    classifier = ViTForImageClassification.from_pretrained(folder)
    assert not hasattr(BNDLForImageClassification.from_backbone_pretrained(folder), "hf_device_map")
    classifier.hf_device_map = {"vit": 0, "classifier": 1}  # what transformers leaves on such a model
    model = BNDLForImageClassification.from_backbone_pretrained(classifier)
    cpu = torch.device("cpu")
    assert model.hf_device_map == {"backbone.vit": 0, "backbone.classifier": 1, "decision_layer": cpu}


def test_wrapping_starts_the_decision_layer_alike_whatever_the_backbone(folder):
    torch.manual_seed(3)
    one = BNDLForImageClassification.from_backbone_pretrained(folder)
    torch.manual_seed(3)
    two = BNDLForImageClassification.from_backbone_pretrained(ViTForImageClassification.from_pretrained(folder))
    for name, value in one.decision_layer.state_dict().items():
        assert torch.equal(two.decision_layer.state_dict()[name], value), name


@pytest.mark.parametrize("model_type", ["siglip2", "perceiver", "levit", "pvt", "bit"])
def test_a_warm_start_is_the_old_softmax_for_every_form_of_input_and_head(tmp_path, model_type):
    classifier = classifier_of(SUPPORTED[model_type])
    nn.init.normal_(classifier.get_submodule(SUPPORTED[model_type].head_name).bias)
    inputs = example_inputs(classifier, batch_size=3)
    with torch.no_grad():
        expected = classifier(**inputs).logits.softmax(-1)
        model = BNDLForImageClassification.from_backbone_pretrained(classifier, warm_start=True)
        torch.testing.assert_close(model(**inputs).logits_mean.softmax(-1), expected, rtol=0, atol=1e-5)


class OwnConfig(PretrainedConfig):
    model_type = "own_code"


class OwnClassifier(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None, **kwargs):
        return ImageClassifierOutput(logits=self.head(self.stem(pixel_values).relu().mean(dim=(2, 3))))


def test_a_classifier_with_code_of_its_own_is_wrapped_once_that_is_registered(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=re.escape("first call AutoConfig.register('own_code', OwnConfig) and Auto")):
        BNDLForImageClassification.from_backbone_pretrained(OwnClassifier(OwnConfig(num_labels=3)))
    # As AutoConfig.register and AutoModelForImageClassification.register do, for this test alone.
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "own_code", OwnConfig)
    monkeypatch.setitem(AutoModelForImageClassification._model_mapping._extra_content, OwnConfig, OwnClassifier)
    model = BNDLForImageClassification.from_backbone_pretrained(OwnClassifier(OwnConfig(num_labels=3)))
    assert model.config.head_name == "head"
    model.save_pretrained(tmp_path)
    loaded, images = BNDLForImageClassification.from_pretrained(tmp_path), torch.randn(2, 3, 16, 16)
    assert torch.equal(copy.deepcopy(loaded)(images).logits, copy.deepcopy(model)(images).logits)


# ---- from_pretrained and after ----


def test_settings_passed_when_loading_reach_the_backbone(tmp_path):
    model_of("vit").save_pretrained(tmp_path)
    loaded = BNDLForImageClassification.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.bfloat16, device_map="cpu"
    )
    assert loaded.backbone.config._attn_implementation == "eager"
    assert loaded.backbone.dtype == torch.bfloat16
    assert {p.dtype for p in loaded.decision_layer.parameters()} == {torch.float32}
    more = BNDLForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert more(torch.randn(1, 3, 32, 32)).logits.shape == (1, 5)


@pytest.mark.parametrize("model_type", ["vit", "clip", "dinov2", "siglip2"])
def test_the_attention_implementation_can_be_changed_and_answers_alike(model_type):
    model = model_of(model_type)
    inputs = example_inputs(model.backbone, batch_size=2)
    vision = getattr(model.backbone.config, "vision_config", model.backbone.config)
    assert vision._attn_implementation == "sdpa"
    logits = model(**inputs).logits
    model.set_attn_implementation("eager")
    assert vision._attn_implementation == "eager"
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    assert len(output.attentions) == 2  # layers
    rows = output.attentions[0].sum(-1)  # [B, heads, tokens]
    torch.testing.assert_close(rows, torch.ones_like(rows))
    assert len(output.hidden_states) == 3
    scores = BNDLModel(model.config).eval()(**inputs, output_hidden_states=True)
    assert len(scores.hidden_states) == 3


@pytest.mark.parametrize("model_type", ["vit", "swin", "dinov2", "siglip2", "segformer"])
def test_activation_checkpointing_gives_the_same_gradients(model_type):
    model = model_of(model_type, **({"drop_path_rate": 0.0} if model_type in ("swin", "segformer") else {}))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs, labels = example_inputs(model.backbone, batch_size=2), torch.tensor([0, 2])
    calls, gradients = [], []
    layer = next(module for module in model.backbone.modules() if hasattr(module, "gradient_checkpointing"))
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
            assert layer.gradient_checkpointing
        model.zero_grad()
        first = next(module for module in model.backbone.modules() if isinstance(module, nn.LayerNorm))
        hook = first.register_forward_hook(lambda *_: calls.append(len(gradients)))
        model.train()(**inputs, labels=labels).loss.backward()
        hook.remove()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_a_backbone_that_cannot_checkpoint_says_so():
    with pytest.raises(ValueError, match=r"does not support (activation|gradient) checkpointing"):
        model_of("resnet").gradient_checkpointing_enable()


# ---- what forward reads ----


@pytest.mark.parametrize("model_type", ["vit", "clip", "swin", "dinov2", "dinov2_with_registers"])
def test_larger_images_are_read_with_interpolated_positions(model_type):
    model, images = model_of(model_type), torch.randn(2, 3, 64, 64)
    for call in (model, model.predict, model.explain, BNDLModel(model.config).eval()):
        call(images, interpolate_pos_encoding=True)
    if model_type in ("vit", "clip"):
        with pytest.raises(ValueError, match="Input image size"):
            model(images)


@pytest.mark.parametrize("model_type", ["resnet", "convnext", "siglip2"])
def test_a_backbone_without_positions_to_interpolate_says_so(model_type):
    model = model_of(model_type)
    inputs = example_inputs(model.backbone)
    with pytest.raises(ValueError, match=r"ForImageClassification has no position encoding to interpolate"):
        model(**inputs, interpolate_pos_encoding=True)
    assert torch.equal(model(**inputs, interpolate_pos_encoding=False).logits, model(**inputs).logits)


def test_patches_need_the_grid_they_were_cut_on():
    model = model_of("siglip2")
    inputs = example_inputs(model.backbone, batch_size=2)
    assert inputs["pixel_values"].shape == (2, 16, 192)
    with pytest.raises(ValueError, match=re.escape("reads patches and needs spatial_shapes [B, 2]")):
        model(inputs["pixel_values"])
    with pytest.raises(ValueError, match=re.escape("this model reads patches [B, N, 192] with their spatial_shapes")):
        model(torch.randn(2, 3, 32, 32))
    inputs["pixel_values"][1, 3, 5] = float("nan")
    with pytest.raises(ValueError, match=re.escape("in 1 of 2 images (first: image 1 of the batch)")):
        model.predict(**inputs)


def test_padding_patches_change_nothing():
    model = model_of("siglip2")
    inputs = example_inputs(model.backbone)
    inputs["spatial_shapes"] = torch.tensor([[3, 4]])  # 12 patches of 16
    inputs["pixel_attention_mask"][:, 12:] = 0
    expected = model.predict(**inputs).probs
    inputs["pixel_values"][:, 12:] = 100.0
    torch.testing.assert_close(model.predict(**inputs).probs, expected)


def test_an_input_the_backbone_does_not_read_is_an_error_that_says_what_it_reads():
    model = model_of("vit")
    images = torch.randn(1, 3, 32, 32)
    for call in (model, model.predict, model.explain, BNDLModel(model.config)):
        with pytest.raises(
            TypeError, match="does not read spatial_shapes; it reads pixel_values, interpolate_pos_encoding"
        ):
            call(images, spatial_shapes=torch.tensor([[2, 2]]))


def test_the_trainer_hands_no_loss_arguments_to_a_forward_with_keyword_arguments(tmp_path):
    trainer = Trainer(model_of("vit"), TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[]))
    assert trainer.model_accepts_loss_kwargs is False


# ---- timm ----


class TinyTimm(nn.Module):
    """A model as timm makes them: its head is a 1x1 convolution (resnetv2) or a Linear, nested or not."""

    def __init__(self, num_classes, head):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Module()
        if head == "convolution":
            self.head.fc = nn.Conv2d(8, num_classes, 1)
        else:
            self.head.fc = nn.Linear(8, num_classes)
        self.checkpointing = False

    def set_grad_checkpointing(self, enable=True):
        self.checkpointing = enable

    def forward(self, x):
        x = self.stem(x).relu().mean(dim=(2, 3))  # [B, D]
        fc = self.head.fc
        return fc(x[:, :, None, None]).flatten(1) if not isinstance(fc, nn.Linear) else fc(x)


@pytest.mark.parametrize("head", ["convolution", "linear"])
def test_transformers_wrapper_around_a_timm_model_is_wrapped_and_loaded(tmp_path, monkeypatch, head):
    # timm is not needed: its create_model is all that transformers' wrapper calls.
    stand_in = SimpleNamespace(create_model=lambda name, pretrained, num_classes: TinyTimm(num_classes, head))
    monkeypatch.setattr(modeling_timm_wrapper, "timm", stand_in, raising=False)
    monkeypatch.setattr(modeling_timm_wrapper, "requires_backends", lambda *_: None)
    classes = AutoModelForImageClassification._model_mapping._extra_content
    monkeypatch.setitem(classes, TimmWrapperConfig, modeling_timm_wrapper.TimmWrapperForImageClassification)
    timm_config = {"architecture": "tiny", "num_classes": 3, "label_names": ["a", "b", "c"]}
    config = TimmWrapperConfig.from_dict({**timm_config, "pretrained_cfg": {"input_size": [3, 24, 20]}})
    classifier = AutoModelForImageClassification.from_config(config).eval()
    inputs = example_inputs(classifier, batch_size=2)
    assert inputs["pixel_values"].shape == (2, 3, 24, 20)
    fc = classifier.timm_model.head.fc
    expected = classifier(**inputs).logits
    model = BNDLForImageClassification.from_backbone_pretrained(classifier)
    assert model.config.head_name == "timm_model.head.fc"
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    features = model.extract_features(**inputs)
    assert features.shape == (2, 8)
    torch.testing.assert_close(features @ fc.weight.flatten(1).T + fc.bias, expected)
    model.save_pretrained(tmp_path)
    loaded = BNDLForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(copy.deepcopy(loaded)(**inputs).logits, copy.deepcopy(model)(**inputs).logits)
    loaded.gradient_checkpointing_enable()
    assert loaded.backbone.timm_model.checkpointing


TIMM_HEADS = {
    "test_resnet": "fc",
    "test_vit": "head",  # takes images of one size, which its configuration does not name
    "test_convnext": "head.fc",
    "test_efficientnet": "classifier",
    "resnetv2_50": "head.fc",  # a 1x1 convolution
}


@pytest.mark.parametrize("architecture", TIMM_HEADS)
def test_timm_models_are_wrapped(tmp_path, architecture):
    pytest.importorskip("timm", reason="timm_wrapper needs timm and torchvision")
    pytest.importorskip("torchvision", reason="timm_wrapper needs timm and torchvision")
    timm_config = {"architecture": architecture, "num_classes": 3, "label_names": ["a", "b", "c"]}
    config = TimmWrapperConfig.from_dict(timm_config)
    classifier = AutoModelForImageClassification.from_config(config).eval()
    inputs = example_inputs(classifier, batch_size=2)
    logits = classifier(**inputs).logits
    assert BNDLConfig.from_backbone_config(config).head_name == f"timm_model.{TIMM_HEADS[architecture]}"
    head = classifier.get_submodule(f"timm_model.{TIMM_HEADS[architecture]}")
    model = BNDLForImageClassification.from_backbone_pretrained(classifier)
    features = model.extract_features(**inputs)
    torch.testing.assert_close(features @ head.weight.flatten(1).T + head.bias, logits)
    model.save_pretrained(tmp_path)
    loaded = BNDLForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(copy.deepcopy(loaded)(**inputs).logits, copy.deepcopy(model)(**inputs).logits)
