"""The two models: one backbone pass, files and back, warm start, and what is said of inputs that do not fit."""

import json
import math
import re
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification

from bndl_hf import BNDLConfig, BNDLForImageClassification, BNDLModel
from bndl_hf.model.predictive import BNDLPrediction
from model.tiny import BACKBONES, NUM_LABELS, tiny_backbone_config, tiny_model

LABELS = torch.tensor([0, 1, 2, 3])


def assert_same_prediction(one, other):
    for name in BNDLPrediction.__dataclass_fields__:
        left, right = getattr(one, name), getattr(other, name)
        assert (left is right is None) or torch.equal(left, right), name


# ---- predict and explain ----


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
@pytest.mark.parametrize("num_samples", [2, 50])
def test_predict_runs_the_backbone_once_whatever_the_number_of_draws(model, pixel_values, method, num_samples):
    passes = []
    first = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    for module in (model.backbone, first):
        module.register_forward_hook(lambda module, *_: passes.append(type(module)))
    model.predict(pixel_values, method=method, num_samples=num_samples)
    assert passes == [type(first), type(model.backbone)]


def test_predict_is_deterministic_and_leaves_the_mode_alone(model, pixel_values):
    model.train()
    first = model.predict(pixel_values)
    assert model.training
    assert_same_prediction(first, model.predict(pixel_values))
    assert_same_prediction(first, model.eval().predict(pixel_values))
    assert not model.training
    assert first.logits_samples is None


def test_monte_carlo_repeats_with_a_generator_and_defaults_to_the_configured_draws(model, pixel_values):
    def predict():
        return model.predict(pixel_values, method="monte_carlo", generator=torch.Generator().manual_seed(3))

    assert predict().logits_samples.shape == (model.config.num_samples, 4, NUM_LABELS)
    assert_same_prediction(predict(), predict())


def test_num_samples_of_an_exact_prediction_is_that_of_its_p_value(model, pixel_values):
    few, many = model.predict(pixel_values, num_samples=3), model.predict(pixel_values, num_samples=1000)
    assert (many.p_value < few.p_value).all()  # the same gap, more draws
    assert torch.equal(many.probs, few.probs)


def test_contributions_rest_and_bias_add_up_to_the_logit(model, pixel_values):
    logits = model(pixel_values).logits_mean
    evidence = model.explain(pixel_values)
    assert torch.equal(evidence.target, logits.argmax(-1))
    for target in (None, 3, torch.tensor([4, 0, 2, 2])):
        evidence = model.explain(pixel_values, target=target, top_k=3)
        total = evidence.contributions.sum(-1) + evidence.rest + evidence.bias
        expected = logits.gather(1, evidence.target[:, None]).squeeze(1)
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(evidence.total, expected, rtol=1e-5, atol=1e-5)
        assert evidence.contributions.shape == evidence.factors.shape == (4, 3)


def test_explain_says_what_does_not_fit(model, pixel_values):
    with pytest.raises(ValueError, match="must hold classes between 0 and 4"):
        model.explain(pixel_values, target=NUM_LABELS)
    with pytest.raises(ValueError, match="top_k=0 must lie between 1 and the number of factors"):
        model.explain(pixel_values, top_k=0)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, x: m.predict(x.numpy()), TypeError, "pixel_values arrived as ndarray; pass a tensor of floating"),
        (lambda m, x: m.predict([x[0]]), TypeError, "pixel_values arrived as list"),
        (lambda m, x: m(x.byte()), TypeError, "pixel_values arrived as torch.uint8"),
        (lambda m, x: m.predict(x[:0]), ValueError, "pixel_values have shape [0, 3, 30, 30]: there are no images"),
        (lambda m, x: m(x, labels=[0, 1, 2, 3]), TypeError, "labels arrived as list; pass a tensor"),
        (lambda m, x: m.decision_layer.predict([1.0]), TypeError, "features arrived as list; pass a tensor"),
        (lambda m, x: m.predict(x, num_samples=2.5), ValueError, "num_samples=2.5 must be a whole number"),
        (lambda m, x: m.predict(x, num_samples="5"), ValueError, "num_samples='5' must be a whole number"),
        (lambda m, x: m.predict(x, num_samples=10**9), ValueError, "and at most 1,000,000 are made"),
        (lambda m, x: m.explain(x, top_k=2.5), ValueError, "top_k=2.5 must lie between 1 and the number of factors"),
        (lambda m, x: m.explain(x, top_k=True), ValueError, "top_k=True must lie between 1"),
        (lambda m, x: m.explain(x, target="cat"), ValueError, "target='cat' must be the number of a class"),
        (lambda m, x: m.explain(x, target=2**70), ValueError, "must be the number of a class"),
        (
            lambda m, x: type(m).from_backbone_pretrained(torch.nn.Linear(2, 2)),
            TypeError,
            "arrived as Linear; pass a Hub",
        ),
    ],
)
def test_an_argument_of_another_type_is_named_with_what_fits(model, pixel_values, call, error, says):
    with pytest.raises(error, match=re.escape(says)):
        call(model, pixel_values)


@pytest.mark.parametrize("size", [1e13, math.inf, math.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_feature_too_large_for_a_finite_answer_is_an_error_that_names_the_image(model, size, dtype):
    features = torch.ones(3, model.config.feature_dim, dtype=dtype)
    features[1, 2] = size
    with pytest.raises(ValueError, match=r"features hold NaN or infinite entries.* in 1 of 3 images \(first: image 1"):
        model.decision_layer.predict(features)
    features[1, 2] = min(torch.finfo(dtype).max, 1e11)
    prediction = model.decision_layer.predict(features)
    for name in ("probs", "total", "aleatoric", "epistemic", "p_value", "logits_variance"):
        assert getattr(prediction, name).isfinite().all(), name


MEMORY = """
    import torch
    from bndl_hf import BNDLConfig
    from bndl_hf.model.decision_layer import BNDLDecisionLayer

    def kilobytes(name):  # not getrusage: its peak is inherited from the process that starts this one
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(name))

    torch.set_num_threads(1)
    D, C, B, S = 2048, 1000, 256, 20
    layer = BNDLDecisionLayer(BNDLConfig(feature_dim=D, num_labels=C, projection="none")).eval()
    features = torch.rand(B, D)
    before = kilobytes("VmRSS")
    prediction = layer.predict(features, method="monte_carlo", num_samples=S)
    assert prediction.logits_samples.shape == (S, B, C)
    print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_twenty_draws_of_an_imagenet_head_add_less_than_1500_megabytes(jobs):
    # [S, B, K, C] would be 42 GB and [B, K, C] alone 2.1 GB; the answer, [S, B, C], is 20 MB.
    done = jobs.run("code", text=textwrap.dedent(MEMORY))
    assert 20e3 < int(done.log.split()[-1]) < 1.5e6  # kilobytes


# ---- files and back ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BACKBONES)
def test_saved_and_loaded_models_answer_bit_for_bit_alike(tmp_path, pixel_values, kind, dtype):
    model = tiny_model(kind).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is BNDLForImageClassification
    assert loaded.backbone.dtype == dtype
    assert {p.dtype for p in loaded.decision_layer.parameters()} == {torch.float32}
    assert loaded.decision_layer.feature_scale.dtype == torch.float32
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)
    assert torch.equal(loaded(pixel_values, labels=LABELS).loss, model(pixel_values, labels=LABELS).loss)
    for kwargs in ({}, {"method": "monte_carlo"}):
        torch.manual_seed(0)
        expected = model.predict(pixel_values, **kwargs)
        torch.manual_seed(0)
        assert_same_prediction(loaded.predict(pixel_values, **kwargs), expected)
    scorer = AutoModel.from_pretrained(tmp_path)
    assert type(scorer) is BNDLModel
    output = scorer(pixel_values)
    assert torch.equal(output.factor_scores, model(pixel_values).factor_scores)
    assert output.concentration.shape == output.factor_scores.shape


@pytest.mark.parametrize("kind", BACKBONES)
def test_loading_asked_for_in_bfloat16_keeps_the_decision_layer_float32(tmp_path, pixel_values, kind):
    model = tiny_model(kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.backbone.dtype == torch.bfloat16
    for name, value in model.decision_layer.state_dict().items():
        assert torch.equal(loaded.decision_layer.state_dict()[name], value), name
    assert loaded(pixel_values).logits.dtype == torch.float32


def test_a_model_made_in_bfloat16_has_a_float32_decision_layer(pixel_values):
    config = BNDLConfig.from_backbone_config(tiny_backbone_config("vit"), num_labels=NUM_LABELS)
    model = AutoModelForImageClassification.from_config(config, dtype=torch.bfloat16).eval()
    assert model.backbone.dtype == torch.bfloat16
    assert {p.dtype for p in model.decision_layer.parameters()} == {torch.float32}
    assert model(pixel_values).logits.dtype == torch.float32


def test_saving_again_changes_nothing(tmp_path, model):
    model.save_pretrained(tmp_path / "0")
    saved = []
    for before, after in (("0", "1"), ("1", "2")):
        AutoModelForImageClassification.from_pretrained(tmp_path / before).save_pretrained(tmp_path / after)
        saved.append(json.loads((tmp_path / after / "config.json").read_text()))
    assert saved[0] == saved[1]
    first = json.loads((tmp_path / "0" / "config.json").read_text())
    first["backbone_config"]["dtype"] = saved[0]["backbone_config"]["dtype"]  # not known before the first load
    assert first == saved[0]


def test_the_saved_configuration_names_no_local_path(tmp_path):
    backbone_folder = tmp_path / "my_backbone"
    AutoModelForImageClassification.from_config(tiny_backbone_config("vit", num_labels=3)).save_pretrained(
        backbone_folder
    )
    model = BNDLForImageClassification.from_backbone_pretrained(str(backbone_folder))
    model.save_pretrained(tmp_path / "one")
    again = BNDLForImageClassification.from_pretrained(str(tmp_path / "one"))
    again.save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        text = (tmp_path / folder / "config.json").read_text()
        assert str(tmp_path) not in text
        assert not json.loads(text)["backbone_config"].get("_name_or_path")


# ---- from a backbone ----


@pytest.mark.parametrize("kind", BACKBONES)
def test_from_backbone_pretrained_keeps_the_backbone_and_replaces_the_head(tmp_path, pixel_values, kind):
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(tiny_backbone_config(kind, num_labels=3)).eval()
    classifier.save_pretrained(tmp_path)
    model = BNDLForImageClassification.from_backbone_pretrained(tmp_path, num_labels=NUM_LABELS)
    assert not model.training
    head = classifier.classifier if kind == "vit" else classifier.classifier[1]
    features = model.extract_features(pixel_values)
    torch.testing.assert_close(head(features), classifier(pixel_values).logits)
    assert model(pixel_values).logits.shape == (4, NUM_LABELS)


@pytest.mark.parametrize("kind", BACKBONES)
def test_warm_start_is_the_softmax_of_the_head_taken_out(tmp_path, pixel_values, kind):
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(tiny_backbone_config(kind, num_labels=3)).eval()
    torch.nn.init.normal_((classifier.classifier if kind == "vit" else classifier.classifier[1]).bias)
    classifier.save_pretrained(tmp_path)
    model = BNDLForImageClassification.from_backbone_pretrained(tmp_path, warm_start=True)
    features = model.extract_features(pixel_values)
    D = features.shape[1]
    assert bool((features < 0).any()) == (kind == "vit")
    assert model.config.num_factors == (2 * D if kind == "vit" else D)
    dense = classifier(pixel_values).logits.softmax(-1)
    torch.testing.assert_close(model(pixel_values).logits_mean.softmax(-1), dense, rtol=0, atol=1e-5)


def test_warm_start_with_other_labels_is_an_error(tmp_path):
    AutoModelForImageClassification.from_config(tiny_backbone_config("vit", num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="warm_start starts from a head of 3 classes, but num_labels=5"):
        BNDLForImageClassification.from_backbone_pretrained(tmp_path, num_labels=5, warm_start=True)


def test_a_configuration_without_backbone_is_an_error():
    with pytest.raises(ValueError, match="names no backbone_config or head_name"):
        BNDLForImageClassification(BNDLConfig(feature_dim=8, num_labels=3))


# ---- training mode ----


def test_a_frozen_backbone_stays_in_evaluation_mode(resnet_model, pixel_values):
    model = resnet_model.train()
    assert model.backbone.training
    model.freeze_backbone()
    assert not model.backbone.training
    model.train()
    assert model.training
    assert model.decision_layer.training
    assert not any(module.training for module in model.backbone.modules())
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model(pixel_values, labels=LABELS).loss.backward()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name  # running statistics among them
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.decision_layer.raw_loadings.grad is not None


def test_an_unfrozen_backbone_trains(model, pixel_values):
    model.train()
    assert model.backbone.training
    model(pixel_values, labels=LABELS).loss.backward()
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert any((g != 0).any() for g in gradients)
    assert all(g.isfinite().all() for g in gradients)


def test_the_loss_is_a_mean_the_trainer_may_divide(model):
    assert model.accepts_loss_kwargs is False


def test_outputs_follow_the_transformers_conventions(vit_model, pixel_values):
    output = vit_model(pixel_values, labels=LABELS, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3
    as_tuple = vit_model(pixel_values, labels=LABELS, return_dict=False)
    assert torch.equal(as_tuple[0], output.loss)
    assert torch.equal(as_tuple[1], output.logits)
    scores = BNDLModel(vit_model.config).eval()(pixel_values, return_dict=False)
    assert scores[0].shape == (4, vit_model.config.num_factors)
    assert vit_model(torch.randn(2, 3, 45, 45), interpolate_pos_encoding=True).logits.shape == (2, NUM_LABELS)


# ---- errors ----


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite_are_an_error_that_says_which(model, pixel_values, value):
    pixel_values[2, 1, 5, 5] = value
    for call in (model, model.predict, model.explain):
        with pytest.raises(ValueError, match=re.escape("in 1 of 4 images (first: image 2 of the batch)")):
            call(pixel_values)


@pytest.mark.parametrize("shape", [(2, 1, 30, 30), (3, 30, 30), (2, 30, 30, 3)])
def test_pixel_values_of_another_shape_are_an_error(model, shape):
    with pytest.raises(ValueError, match=re.escape(f"pixel_values have shape {list(shape)}; this model reads [B, 3, ")):
        model(torch.randn(shape))


def test_labels_out_of_range_and_unknown_methods_are_errors(model, pixel_values):
    with pytest.raises(ValueError, match="labels run from 0 to 5; this model knows 0 to 4"):
        model(pixel_values, labels=torch.tensor([0, 1, 2, 5]))
    with pytest.raises(ValueError, match="method='dropout' is unknown"):
        model.predict(pixel_values, method="dropout")
    with pytest.raises(ValueError, match="num_samples=1: a t-test needs 2 draws"):
        model.predict(pixel_values, method="monte_carlo", num_samples=1)


def test_a_warm_start_refuses_the_same_number_of_other_classes(tmp_path):
    config = tiny_backbone_config("resnet", num_labels=2)
    config.id2label, config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"in their order \(cat, dog\), but id2label says dog, cat"):
        BNDLForImageClassification.from_backbone_pretrained(tmp_path, warm_start=True, id2label={0: "dog", 1: "cat"})
    for names in (config.id2label, ["cat", "dog"]):
        same = BNDLForImageClassification.from_backbone_pretrained(tmp_path, warm_start=True, id2label=names)
        assert same.config.label2id == {"cat": 0, "dog": 1}


def test_the_head_may_be_named_and_is_not_wrapped_twice(tmp_path):
    AutoModelForImageClassification.from_config(tiny_backbone_config("vit", num_labels=2)).save_pretrained(
        tmp_path / "a"
    )
    model = BNDLForImageClassification.from_backbone_pretrained(tmp_path / "a", head_name="classifier")
    assert model.config.head_name == "classifier"
    model.save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match="has a BNDL layer already; load it with from_pretrained"):
        BNDLForImageClassification.from_backbone_pretrained(tmp_path / "b")
