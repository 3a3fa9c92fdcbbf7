"""Checkpoints with the authors' names: what converts answers as they did, what does not is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, ResNetConfig, ViTConfig

from bndl_hf.released import KNOWN_LABELS, convert_released_checkpoint, load_decision_layer, read_labels

from .released_reference import CLASSES, Head, ResNet, vit_features, vit_state

HEADS = 2
VIT = {"num_attention_heads": HEADS}


def vit_checkpoint():
    """(state dict, head) of a tiny ViT of 32 features, as the authors' script saves it."""
    torch.manual_seed(0)
    head = Head(32, projection=True, score_threshold=0.0, loading_threshold=0.02)
    state = {f"classifier.{name}": tensor.detach() for name, tensor in head.state_dict().items()}
    return {**vit_state(), **state}, head


def resnet_checkpoint(bottleneck, loadings_name="fc"):
    torch.manual_seed(0)
    net = ResNet(bottleneck).eval()
    head = Head(net.width, False, score_threshold=1.0, loading_threshold=0.0, loadings_name=loadings_name)
    return {**net.state_dict(), **{n: t.detach() for n, t in head.state_dict().items()}}, head, net


def images(side):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def saved(state, path):
    save_file({n: t.contiguous() for n, t in state.items()}, path) if path.suffix == ".safetensors" else torch.save(
        state, path
    )
    return path


def assert_answers(model, pixel_values, mean, variance):
    """Mean logits within 1e-6 of the largest; variances, sums of differences of squares, within 1e-5."""
    prediction = model.predict(pixel_values)
    assert (variance > 1e-3).all()
    torch.testing.assert_close(prediction.logits_mean.double(), mean, rtol=0, atol=1e-6 * mean.abs().max().item())
    torch.testing.assert_close(prediction.logits_variance.double(), variance, rtol=1e-5, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values).logits_mean, prediction.logits_mean, rtol=0, atol=0)


# ---- what converts ----


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_vit_answers_as_the_reference_written_from_the_equations(tmp_path, suffix):
    state, head = vit_checkpoint()
    labels = ["bee", "cat", "dog", "elk", "fox"]
    conversion = convert_released_checkpoint(saved(state, tmp_path / f"vit{suffix}"), tmp_path / "vit", labels, **VIT)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "vit")
    mean, variance = head.double().moments(
        vit_features({n: t.double() for n, t in state.items()}, images(8).double(), HEADS)
    )
    assert_answers(model, images(8), mean, variance)
    assert model.config.preset == conversion.config.preset == "released"
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id["fox"] == 4
    assert (conversion.backbone, conversion.left_out) == ("vit", [])


@torch.no_grad()
@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_resnet_with_torchvision_names_answers_as_the_reference(tmp_path, bottleneck):
    state, head, net = resnet_checkpoint(bottleneck)
    convert_released_checkpoint(saved(state, tmp_path / "resnet.pt"), tmp_path / "resnet")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "resnet")
    mean, variance = head.double().moments(net.double()(images(64).double()))
    assert_answers(model, images(64), mean, variance)
    assert model.config.preset == "released_resnet"
    assert model.config.backbone_config.layer_type == ("bottleneck" if bottleneck else "basic")


def test_the_authors_own_numbers_come_out_of_their_weights(tmp_path, shared):
    path = shared / "golden" / "reference_head.safetensors"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    golden = load_file(path)
    prefix = "weights."
    state = {f"classifier.{n.removeprefix(prefix)}": t for n, t in golden.items() if n.startswith(prefix)}
    convert_released_checkpoint(saved(state, tmp_path / "head.pth"), tmp_path / "head", head_only=True)
    layer = load_decision_layer(tmp_path / "head")
    assert (layer.config.preset, layer.training) == ("released", False)
    with torch.no_grad():
        torch.testing.assert_close(layer(golden["features"]).logits_mean, golden["mean_logits"], rtol=1e-5, atol=1e-5)
        loadings, scores = layer.loading_posterior(), layer.score_posterior(golden["features"])
    torch.testing.assert_close(1 / loadings.concentration, golden["loading_inverse_shape"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(1 / scores.concentration, golden["score_inverse_shape"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_head_alone_answers_as_it_did_inside_the_model(tmp_path):
    state, _, net = resnet_checkpoint(bottleneck=False, loadings_name="linear")
    whole = convert_released_checkpoint(saved(state, tmp_path / "net.pkl"), tmp_path / "whole")
    alone = convert_released_checkpoint(tmp_path / "net.pkl", tmp_path / "alone", head_only=True)
    model = AutoModelForImageClassification.from_pretrained(whole.output_dir)
    features = model.extract_features(images(64))
    torch.testing.assert_close(features, net(images(64)), rtol=0, atol=1e-5)
    answer = load_decision_layer(alone.output_dir).predict(features)
    expected = model.predict(images(64))
    assert torch.equal(answer.logits_mean, expected.logits_mean)
    assert torch.equal(answer.p_value, expected.p_value)
    assert set(alone.left_out) == set(net.state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
def test_wrapped_and_data_parallel_state_dicts_are_unwrapped(tmp_path, wrapper):
    state, _ = vit_checkpoint()
    wrapped = {wrapper: {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 19, "loss": 0.1}
    convert_released_checkpoint(saved(state, tmp_path / "plain.pth"), tmp_path / "plain", **VIT)
    convert_released_checkpoint(saved(wrapped, tmp_path / "wrapped.pth"), tmp_path / "wrapped", **VIT)
    plain, unwrapped = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "wrapped"))
    assert plain.keys() == unwrapped.keys()
    assert all(torch.equal(plain[name], unwrapped[name]) for name in plain)


def test_the_normalisation_kept_by_the_robustness_package_reaches_the_image_processor(tmp_path):
    state, _, _ = resnet_checkpoint(bottleneck=True)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
    robust = {
        "normalizer.new_mean": mean[:, None, None],
        "normalizer.new_std": std[:, None, None],
        "attacker.normalize.new_mean": mean[:, None, None],
        "attacker.normalize.new_std": std[:, None, None],
        **{f"{prefix}{name}": tensor for prefix in ("model.", "attacker.model.") for name, tensor in state.items()},
    }
    path = saved({"model": {f"module.{n}": t for n, t in robust.items()}}, tmp_path / "checkpoint.pt.best")
    conversion = convert_released_checkpoint(path, tmp_path / "resnet")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "resnet")
    assert list(processor.image_mean) == [0.4914, 0.4822, 0.4465]
    assert list(processor.image_std) == [0.2023, 0.1994, 0.2010]
    assert len(conversion.left_out) == len(state) + 4
    robust["attacker.model.fc.bias"] = robust["attacker.model.fc.bias"] + 1
    with pytest.raises(ValueError, match=r"attacker\.model\.fc\.bias differs from model\.fc\.bias"):
        convert_released_checkpoint(saved(robust, tmp_path / "two.pt"), tmp_path / "two")


def test_half_precision_and_old_batch_norms_convert(tmp_path):
    state, _, _ = resnet_checkpoint(bottleneck=True)
    old = {n: t.half() for n, t in state.items() if not n.endswith("num_batches_tracked")}
    convert_released_checkpoint(saved(old, tmp_path / "old.pt"), tmp_path / "old")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "old")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.decision_layer.raw_loadings, old["fc.weight"].float().T)


def test_thresholds_it_was_trained_with_replace_the_presets(tmp_path):
    state, _ = vit_checkpoint()
    path = saved(state, tmp_path / "vit.pth")
    convert_released_checkpoint(path, tmp_path / "vit", loading_threshold=0.2, score_threshold=0.1, **VIT)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "vit")
    assert (model.config.loading_threshold, model.config.score_threshold) == (0.2, 0.1)
    expected = (state["classifier.linear.weight"].T - 0.2).clamp_min(0)
    torch.testing.assert_close(model.decision_layer.factor_loadings.detach(), expected, rtol=0, atol=0)


def test_sizes_are_read_off_the_weights_or_taken_from_a_configuration(tmp_path):
    state, _ = vit_checkpoint()
    path = saved(state, tmp_path / "vit.pth")
    inferred = convert_released_checkpoint(path, tmp_path / "inferred", **VIT).config.backbone_config
    sizes = ("hidden_size", "num_hidden_layers", "intermediate_size", "image_size", "patch_size", "num_channels")
    assert [getattr(inferred, name) for name in sizes] == [32, 2, 24, 8, 4, 3]
    inferred.save_pretrained(tmp_path / "config")
    given = convert_released_checkpoint(path, tmp_path / "given", backbone_config=tmp_path / "config" / "config.json")
    assert given.config.backbone_config.num_attention_heads == HEADS
    inferred.image_size = (8, 8)
    inferred.save_pretrained(tmp_path / "two")
    given = convert_released_checkpoint(path, tmp_path / "of_two", backbone_config=tmp_path / "two")
    assert given.config.backbone_config.image_size == 8
    inferred.image_size = (8, 12)
    inferred.save_pretrained(tmp_path / "oblong")
    refusal(state, tmp_path, "weights are of a ViT for square images", backbone_config=tmp_path / "oblong")


def test_image_processors_are_vits_and_torchvisions_evaluation(tmp_path):
    state, _ = vit_checkpoint()
    convert_released_checkpoint(saved(state, tmp_path / "vit.pth"), tmp_path / "vit", **VIT)
    vit = AutoImageProcessor.from_pretrained(tmp_path / "vit")
    assert (vit.size["height"], *vit.image_mean, *vit.image_std) == (8, *[0.5] * 6)
    state, _, _ = resnet_checkpoint(bottleneck=True)
    convert_released_checkpoint(saved(state, tmp_path / "resnet.pt"), tmp_path / "resnet")
    resnet = AutoImageProcessor.from_pretrained(tmp_path / "resnet")
    assert (resnet.size["shortest_edge"], resnet.crop_size["height"]) == (256, 224)
    assert list(resnet.image_mean) == [0.485, 0.456, 0.406]
    convert_released_checkpoint(tmp_path / "vit.pth", tmp_path / "again", image_processor=tmp_path / "resnet", **VIT)
    assert AutoImageProcessor.from_pretrained(tmp_path / "again").size["shortest_edge"] == 256


# ---- what does not ----


def refusal(state, tmp_path, match, name="wrong.pth", **options):
    """Converting `state` raises a sentence that matches, and leaves nothing behind."""
    path = saved(state, tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=match) as caught:
        convert_released_checkpoint(path, tmp_path / "out", **{**VIT, **options})
    assert sorted(tmp_path.iterdir()) == before
    return str(caught.value)


def test_missing_and_unknown_weights_are_named_and_counted(tmp_path):
    state, _ = vit_checkpoint()
    for i in range(2):
        for name in ("query", "key", "value"):
            state[f"vit.encoder.layer.{i}.attention.{name}_proj.weight"] = state.pop(
                f"vit.encoder.layer.{i}.attention.attention.{name}.weight"
            )
    state["classifier.dropout.scale"] = torch.ones(1)
    message = refusal(state, tmp_path, "6 weights missing .* 7 weights unknown")
    assert "vit.encoder.layer.0.attention.attention.query.weight" in message
    assert "vit.encoder.layer.0.attention.query_proj.weight" in message
    assert "and 1 more" in message


def test_a_missing_part_of_the_head_is_named(tmp_path):
    state, _ = vit_checkpoint()
    del state["classifier.linear_kw.0.bias"]
    refusal(state, tmp_path, r"1 weight missing \(linear_kw\.bias\)")
    plain = {n: t for n, t in state.items() if not n.startswith("classifier")} | {
        "classifier.weight": torch.ones(5, 32)
    }
    refusal(plain, tmp_path, r"head's linear\.weight is missing")


def test_wrong_shapes_say_both(tmp_path):
    state, _ = vit_checkpoint()
    state["vit.encoder.layer.1.output.dense.weight"] = torch.ones(32, 25)
    state["classifier.linear_kw.0.weight"] = torch.ones(1, 4)
    message = refusal(state, tmp_path, "2 of 46 shapes differ")
    assert "vit.encoder.layer.1.output.dense.weight is [32, 25], should be [32, 24]" in message
    assert "linear_kw.weight is [1, 4], should be [1, 5]" in message


def test_a_pickled_module_is_refused_without_running_it(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"other objects than tensors \(torch\.nn\.modules\.linear\.Linear\)"):
        convert_released_checkpoint(tmp_path / "module.pth", tmp_path / "out")

    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-run"), "w"))

    torch.save({"linear.weight": Touch()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"other objects than tensors \(\S*open\)"):
        convert_released_checkpoint(tmp_path / "code.pth", tmp_path / "out")
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_damaged_file_is_a_sentence(tmp_path, name):
    path = saved(vit_checkpoint()[0], tmp_path / name)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=rf"{name}.*(damaged|whole)"):
        convert_released_checkpoint(path, tmp_path / "out")
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=name):
        convert_released_checkpoint(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        convert_released_checkpoint(tmp_path / "absent.pth", tmp_path / "out")


def test_files_without_a_state_dict_say_what_they_hold(tmp_path):
    refusal({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path, "not tensors.*epoch, optimizer")
    refusal([torch.ones(2)], tmp_path, "holds a list")


def test_a_cifar_resnet_is_refused_with_the_reason_and_its_head_converts(tmp_path):
    torch.manual_seed(0)
    net = ResNet(bottleneck=False, stem=3)
    state = {**net.state_dict(), **Head(net.width, False, 1.0, 0.0).state_dict()}
    state = {name.replace("downsample", "shortcut"): tensor for name, tensor in state.items()}
    refusal(state, tmp_path, r"3x3 kernel.*Use head_only", num_attention_heads=None)
    convert_released_checkpoint(tmp_path / "wrong.pth", tmp_path / "out", head_only=True)
    assert load_decision_layer(tmp_path / "out").factor_loadings.shape == (net.width, CLASSES)


def test_a_wide_resnet_which_transformers_cannot_express_is_named_by_its_shapes(tmp_path):
    state, _, _ = resnet_checkpoint(bottleneck=True)
    state["layer2.0.conv2.weight"] = torch.ones(16, 16, 3, 3)
    refusal(state, tmp_path, r"layer2\.0\.conv2\.weight is \[16, 16, 3, 3\]", num_attention_heads=None)


def test_another_architecture_is_named_by_its_weights(tmp_path):
    head = Head(8, False, 1.0, 0.0).state_dict()
    refusal({**head, "features.0.weight": torch.ones(3)}, tmp_path, r"neither a ViT's .* features\.0\.weight")
    refusal(head, tmp_path, "no backbone; use head_only")
    state, _ = vit_checkpoint()
    ResNetConfig(embedding_size=8).save_pretrained(tmp_path / "config")
    refusal(state, tmp_path, "model_type='resnet'", backbone_config=tmp_path / "config")
    ViTConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=3, image_size=8, patch_size=4).save_pretrained(
        tmp_path / "deeper"
    )
    refusal(state, tmp_path, "weights missing .*layer.2", backbone_config=tmp_path / "deeper")


@pytest.mark.parametrize(("options", "match"), [
    ({"num_attention_heads": None}, "does not divide into heads of 64.*Pass num_attention_heads"),
    ({"num_attention_heads": 5}, "does not divide into 5 heads"),
    ({"labels": ["cat", "dog"]}, "2 labels, but the weights have 5 classes"),
    ({"processor_fields": {"image_size": 224}}, "image_size=224, but the position embeddings are for images of 8"),
    ({"processor_fields": {"image_std": [0.5, 0.5, 0.0]}}, "deviations above zero"),
    ({"processor_fields": {"image_mean": [0.5]}}, "3 numbers"),
    ({"processor_fields": {"image_mean": [0.5] * 3}, "image_processor": "somewhere"}, "leave out image_mean"),
])  # fmt: skip
def test_what_does_not_fit_a_vit_is_said_before_anything_is_written(tmp_path, options, match):
    refusal(vit_checkpoint()[0], tmp_path, match, **options)


def test_diverged_weights_are_named(tmp_path):
    state, _ = vit_checkpoint()
    state["classifier.linear.bias"][2] = torch.nan
    refusal(state, tmp_path, r"NaN or infinite values in linear\.bias")


def test_a_folder_that_holds_files_is_left_alone(tmp_path):
    path = saved(vit_checkpoint()[0], tmp_path / "vit.pth")
    (tmp_path / "out").mkdir()
    convert_released_checkpoint(path, tmp_path / "out", **VIT)  # an empty one is fine
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(FileExistsError, match="holds files already"):
        convert_released_checkpoint(path, tmp_path / "out", **VIT)
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}


def test_a_head_and_a_model_are_not_mixed_up(tmp_path):
    path = saved(vit_checkpoint()[0], tmp_path / "vit.pth")
    convert_released_checkpoint(path, tmp_path / "whole", **VIT)
    convert_released_checkpoint(path, tmp_path / "head", labels=list("abcde"), head_only=True)
    with pytest.raises(ValueError, match="holds a whole model"):
        load_decision_layer(tmp_path / "whole")
    with pytest.raises(ValueError, match="use BNDLDecisionLayer for features alone"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "head")
    assert json.loads((tmp_path / "head" / "config.json").read_text())["id2label"]["4"] == "e"
    (tmp_path / "head" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        load_decision_layer(tmp_path / "head")


# ---- labels ----


def test_built_in_labels_are_the_data_sets_own(shared):
    assert [len(labels) for labels in KNOWN_LABELS.values()] == [10, 100]
    config = shared / "models" / "resnet-cifar100" / "config.json"
    if not config.exists():
        pytest.skip(f"needs {config.parent.name}")
    names = json.loads(config.read_text())["id2label"]
    assert read_labels("cifar100") == [names[str(i)] for i in range(100)]


def test_labels_come_from_a_file_and_must_be_whole(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("sea lion\ncat\n")
    assert read_labels(file) == ["sea lion", "cat"]
    file.write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match=r"Line 2 of .* is empty"):
        read_labels(file)
    file.write_text("cat\ndog\ncat\n")
    with pytest.raises(ValueError, match=r"Line 3 of .* says 'cat' a second time"):
        read_labels(file)
    with pytest.raises(ValueError, match="neither a file nor one of cifar10, cifar100"):
        read_labels("imagenet")
