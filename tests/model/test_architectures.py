"""Every image classifier of transformers with one head: found, wrapped, trained a step, saved, loaded, saved again."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.model.backbone import detach_head, find_head, probe_architecture
from bndl_hf.model.backbone_inputs import example_inputs
from model.architectures import NUM_LABELS, SUPPORTED

WEIGHTS = "model.safetensors"


def classifier_of(architecture, **kwargs):
    """A tiny classifier whose head and running statistics are not those of initialisation."""
    torch.manual_seed(0)
    config = architecture.config(**kwargs)
    config.architectures = config.architectures or []
    classifier = AutoModelForImageClassification.from_config(config).eval()
    with torch.no_grad():
        for name, value in classifier.state_dict().items():
            if name.endswith("running_mean"):
                value.uniform_(-0.5, 0.0)  # so that what follows, a ReLU as a rule, stays alive
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return classifier


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_the_backbone_and_the_old_head_make_the_original_logits(model_type):
    architecture = SUPPORTED[model_type]
    assert probe_architecture(architecture.config())[1:] == (architecture.head_name, architecture.feature_dim)
    classifier = classifier_of(architecture).train()
    before = state(classifier)
    assert find_head(classifier) == (architecture.head_name, architecture.feature_dim)
    assert all(module.training for module in classifier.modules())  # left as it was
    assert_equal_states(state(classifier), before)
    assert not any(module._forward_hooks for module in classifier.modules())
    classifier.eval()
    inputs = example_inputs(classifier, batch_size=2)
    with torch.no_grad():
        logits = classifier(**inputs).logits
        head = detach_head(classifier, architecture.head_name)
        features = classifier(**inputs).logits.flatten(1)
        torch.testing.assert_close(head(features), logits, rtol=1e-5, atol=1e-5)
    assert features.shape == (2, architecture.feature_dim)
    assert features.std() > 0
    if architecture.non_negative:
        assert (features >= 0).all()


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_wrapped_trained_a_step_saved_and_loaded_it_answers_bit_for_bit_alike(tmp_path, model_type):
    architecture = SUPPORTED[model_type]
    classifier = classifier_of(architecture)
    classifier.save_pretrained(tmp_path / "classifier")
    model = BNDLForImageClassification.from_backbone_pretrained(tmp_path / "classifier", num_labels=4)
    inputs = example_inputs(model.backbone, batch_size=2)
    with torch.no_grad():
        features = model.extract_features(**inputs)
        head = classifier.get_submodule(architecture.head_name)
        torch.testing.assert_close(head(features), classifier(**inputs).logits, rtol=1e-5, atol=1e-5)

    torch.manual_seed(0)  # of the architectures that drop whole paths some would drop both images
    output = model.train()(**inputs, labels=torch.tensor([0, 3]))
    output.loss.backward()
    assert output.logits.shape == (2, 4)
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert any(g.any() for g in gradients)
    assert all(g.isfinite().all() for g in gradients)

    model.eval().save_pretrained(tmp_path / "one")
    assert str(tmp_path) not in (tmp_path / "one" / "config.json").read_text()
    loaded = BNDLForImageClassification.from_pretrained(tmp_path / "one")
    assert not any(value.is_meta for value in [*loaded.parameters(), *loaded.buffers()])
    assert_equal_states(state(loaded), state(model))
    # Copies: how a kernel rounds depends on where weights lie, and those of a file lie where the file has them.
    prediction, expected = copy.deepcopy(loaded).predict(**inputs), copy.deepcopy(model).predict(**inputs)
    assert torch.equal(prediction.probs, expected.probs)  # position ids, windows and masks are right too
    assert torch.equal(prediction.logits_mean, expected.logits_mean)
    logits = loaded(**inputs).logits_mean
    for target in range(4):
        evidence = loaded.explain(**inputs, target=target, top_k=2, against=(target + 1) % 4)
        torch.testing.assert_close(evidence.total, logits[:, target], rtol=1e-5, atol=1e-5)
        gap = logits[:, target] - logits[:, (target + 1) % 4]
        torch.testing.assert_close(evidence.contrast.total, gap, rtol=1e-5, atol=1e-5)

    published, head_keys = load_file(tmp_path / "classifier" / WEIGHTS).keys(), f"{architecture.head_name}."
    expected = {f"backbone.{key}" for key in published if not key.startswith(head_keys)}
    on_disk = load_file(tmp_path / "one" / WEIGHTS).keys()
    assert {key for key in on_disk if not key.startswith("decision_layer.")} == expected
    loaded.save_pretrained(tmp_path / "two")
    assert (tmp_path / "two" / WEIGHTS).read_bytes() == (tmp_path / "one" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("model_type", SUPPORTED)
def test_models_are_made_on_the_meta_device_from_configurations_that_round_trip(model_type):
    config = BNDLConfig.from_backbone_config(SUPPORTED[model_type].config())
    assert config.num_labels == NUM_LABELS
    again = BNDLConfig.from_dict(copy.deepcopy(config.to_dict()))
    assert again.to_dict() == config.to_dict()
    with torch.device("meta"):
        model = BNDLForImageClassification(again)
    assert all(parameter.is_meta for parameter in model.parameters())
