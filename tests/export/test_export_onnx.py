"""An exported graph says what the model says, whatever was set, and nothing of the machine it was made on."""

import copy
import json
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from bndl_hf import BNDLConfig, BNDLForImageClassification
from bndl_hf.export import OnnxExport, export_onnx
from bndl_hf.export.agreement import largest_deviations
from bndl_hf.interpretability import class_maps
from bndl_hf.model.logit_posterior import pick
from bndl_hf.uncertainty import fit_conformal, fit_familiarity
from model.architectures import SUPPORTED
from model.tiny import tiny_model

NUM_LABELS = 5
SMALL = {"vit": {"num_hidden_layers": 1}, "dinov2": {"num_hidden_layers": 1}, "swin": {"depths": [1, 1]}}


def small_model(model_type, **fields):
    """A tiny BNDL classifier whose factors are alive, so that no output is zero for want of evidence."""
    torch.manual_seed(0)
    backbone = SUPPORTED[model_type].config(**SMALL.get(model_type, {}))
    config = BNDLConfig.from_backbone_config(backbone, num_labels=NUM_LABELS, **fields)
    model = BNDLForImageClassification(config).eval()
    with torch.no_grad():
        model.decision_layer.raw_loadings.add_(torch.rand_like(model.decision_layer.raw_loadings))
    return model


def images_of(size, count, seed=7):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def vit_while_training():
    return small_model("vit", num_factors=4).train(), 32, {}


def resnet_with_everything_fitted():
    model = small_model("resnet", feature_power=0.5)
    model.set_temperature(1.7, variance_scale=2.5)
    features, labels = model.extract_features(images_of(64, 40)).detach(), torch.arange(40) % NUM_LABELS
    layer = model.decision_layer
    model.set_familiarity(fit_familiarity(layer, features[:20], labels[:20], features[20:], rank=4))
    model.set_conformal(fit_conformal(layer.predict(features).probs, labels, coverage=0.9, randomized=False))
    return model, 64, {"image_size": 64}


def swin_of_the_released_preset():
    return small_model("swin", preset="released"), 32, {}


def convnext_pruned():
    model = small_model("convnext")
    model.decision_layer.prune_smallest(0.3)
    return model, 32, {"top_k": 7}


def dinov2_in_bfloat16():
    return small_model("dinov2", preset="interpretable").to(torch.bfloat16), 32, {}


def efficientnet_in_half_the_bytes():
    return small_model("efficientnet", projection="two_layer", loading_init="linear"), 32, {"half": True}


CASES = [
    vit_while_training,
    resnet_with_everything_fitted,
    swin_of_the_released_preset,
    convnext_pruned,
    dinov2_in_bfloat16,
    efficientnet_in_half_the_bytes,
]
HAS_CLASS_MAP = {resnet_with_everything_fitted, swin_of_the_released_preset, convnext_pruned, dinov2_in_bfloat16}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_graph_answers_as_the_model_does(case, tmp_path):
    model, size, arguments = case()
    modes = [module.training for module in model.modules()]
    export = export_onnx(model, tmp_path / "model.onnx", **arguments)
    content = export.path.read_bytes()
    assert isinstance(export, OnnxExport)
    assert (export.size, export.image_size) == (len(content), (size, size))
    assert [module.training for module in model.modules()] == modes
    no_more_than = 1e-2 if arguments.get("half") else 1e-5
    assert max(export.deviations.values()) < no_more_than

    # Two images: the graph was traced with three and checked with one and three.
    images, reference = images_of(size, 2), copy.deepcopy(model).float().eval()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["pixel_values"]
    assert tuple(value.name for value in session.get_outputs()) == export.outputs
    values = session.run(None, {"pixel_values": images.numpy()})
    found = {name: torch.from_numpy(value) for name, value in zip(export.outputs, values, strict=True)}
    for name, wanted in wanted_of(
        reference, images, arguments.get("top_k", min(5, len(model.decision_layer.raw_loadings)))
    ).items():
        assert (name in found) == (wanted is not None), name
        if wanted is not None and not (arguments.get("half") and name == "factors"):
            torch.testing.assert_close(found[name], wanted, rtol=no_more_than, atol=no_more_than, msg=name)
    assert ("class_map" in found) == (case in HAS_CLASS_MAP)
    assert found["probs"].std() > 1e-3  # not one number for all

    for trace in (str(Path(__file__).parents[2]), str(Path(onnx.__file__).parents[1]), str(Path.home()), ".py"):
        assert trace.encode() not in content, trace
    entries = {entry.key: json.loads(entry.value) for entry in onnx.load(export.path).metadata_props}
    told = entries["bndl_hf"]
    assert (told["image_size"], told["labels"]) == ([size, size], [f"LABEL_{c}" for c in range(NUM_LABELS)])
    assert told["conformal"] == reference.config.conformal
    assert (told["temperature"], told["num_samples"]) == (reference.config.temperature, 20)


def wanted_of(model, images, top_k):
    """What Python says, under the names of the graph; None where it says nothing."""
    prediction, evidence = model.predict(images), model.explain(images, top_k=top_k)
    names = ("probs", "logits_mean", "logits_variance", "total", "aleatoric", "epistemic", "fisher_statistic")
    wanted = {name: getattr(prediction, name) for name in names}
    wanted |= {name: getattr(evidence, name) for name in ("factors", "contributions", "rest", "bias")}
    top_two = prediction.logits_mean.topk(2)
    wanted["gap_mean"] = top_two.values[:, 0] - top_two.values[:, 1]
    wanted["gap_variance"] = pick(prediction.gap_variance, top_two.indices[:, 1])
    maps = class_maps(model, images)
    wanted["class_map"] = maps.evidence if maps.exact else None
    return wanted


def test_the_check_sees_a_wrong_number_in_any_output():
    model, images = tiny_model("resnet"), images_of(30, 3)

    def session(batch):
        prediction, evidence = model.predict(batch), model.explain(batch, top_k=5)
        return {
            "probs": prediction.probs + torch.tensor([0.25, 0, 0, 0, 0]),
            "logits_mean": prediction.logits_mean.clone(),
            "bias": evidence.bias,
            "factors": evidence.factors.roll(1, dims=1),
            "contributions": evidence.contributions,
            "total": prediction.total * torch.nan,
            "epistemic": prediction.epistemic[:, None],
        }

    deviations = largest_deviations(session, model, images, top_k=5)
    assert deviations["probs"] == pytest.approx(0.25)
    assert deviations["total"] == deviations["epistemic"] == float("inf")
    assert deviations["logits_mean"] == deviations["bias"] == deviations["contributions"] == 0
    parts = model.explain(images, top_k=5).contributions
    assert deviations["factors"] == pytest.approx((parts.roll(1, dims=1) - parts).abs().max().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("model_type", "arguments", "error", "says"),
    [
        ("resnet", {}, ValueError, r"does not say how large its images are; pass image_size=224"),
        ("siglip2", {}, ValueError, r"reads patches with their spatial_shapes .* one input, pixel_values"),
        ("vit", {"top_k": 0}, ValueError, r"top_k=0 must be a whole number between 1 and the number of factors, 32"),
        ("vit", {"image_size": 0}, ValueError, r"image_size=0 must be one or two numbers of pixels above zero"),
        ("vit", {"example": torch.rand(1, 1, 32, 32)}, ValueError, r"this model reads \[B, 3, height, width\]"),
        ("vit", {"example": torch.rand(1, 3, 32, 32), "image_size": 64}, ValueError, r"example has 32x32 pixels and"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_a_sentence(model_type, arguments, error, says, tmp_path):
    with pytest.raises(error, match=says):
        export_onnx(small_model(model_type), tmp_path / "model.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_decision_layer_alone_has_no_pixels_to_read(tmp_path):
    with pytest.raises(TypeError, match="model is a BNDLDecisionLayer; export_onnx needs a BNDLForImageClassification"):
        export_onnx(tiny_model("vit").decision_layer, tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_names_the_extra(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed; pip install 'bndl-hf\[export\]'"):
        export_onnx(tiny_model("vit"), tmp_path / "model.onnx")
