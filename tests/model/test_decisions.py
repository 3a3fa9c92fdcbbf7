"""What was fitted on held-out images: set, saved, loaded, applied by predict and by the pipelines, or refused."""

import json
import math
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from bndl_hf import BNDLConfig
from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.model.configuration_bndl import FORMAT_VERSION
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.pipeline_bndl import BNDLImageClassificationPipeline
from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.uncertainty import fit_abstention, fit_conformal, fit_temperature
from model.test_modeling import assert_same_prediction
from model.tiny import IMAGE_SIZE, NUM_LABELS, tiny_model

IMAGES = torch.linspace(-2, 2, 6 * 3 * 30 * 30).view(6, 3, 30, 30).sin()
SETS = ConformalPredictor("aps", 0.9, 0.5, num_images=50, num_classes=NUM_LABELS)


@pytest.fixture
def model():
    model = tiny_model("vit")
    with torch.no_grad():  # answers that differ between images
        model.decision_layer.raw_loadings.mul_(5)
    return model


def test_a_new_model_answers_everything_with_no_sets(model):
    prediction = model.predict(IMAGES)
    assert prediction.is_answered.all()
    assert prediction.prediction_sets is None
    assert (model.config.temperature, model.config.variance_scale) == (1.0, 1.0)


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
def test_a_saved_and_reloaded_model_decides_the_same(tmp_path, model, method):
    model.set_temperature(1.7, 0.4)
    confidence = model.predict(IMAGES).probs.amax(-1)
    model.set_abstention(confidence.median().item())
    model.set_conformal(SETS)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()

    def predict(one):
        return one.predict(IMAGES, method=method, generator=torch.Generator().manual_seed(0))

    prediction = predict(model)
    assert_same_prediction(predict(again), prediction)
    assert 0 < prediction.is_answered.sum() < len(IMAGES)
    assert prediction.prediction_sets.shape == (6, NUM_LABELS)
    assert torch.equal(prediction.prediction_sets, SETS.predict_sets(prediction.probs))
    assert (
        again(IMAGES, labels=prediction.predicted_labels).nll.item()
        == model(IMAGES, labels=prediction.predicted_labels).nll.item()
    )


def test_fits_are_stored_as_they_are_returned(model):
    labels = torch.arange(6) % NUM_LABELS
    fitted = fit_temperature(model.predict(IMAGES), labels)
    model.set_temperature(fitted)
    assert model.config.temperature == model.decision_layer.config.temperature == fitted.temperature
    prediction = model.predict(IMAGES)
    model.set_conformal(fit_conformal(prediction, labels, coverage=0.8))
    threshold = fit_abstention(prediction, prediction.predicted_labels, risk=0.9)
    assert threshold.threshold == -math.inf
    model.set_abstention(threshold)
    assert model.config.abstain_below == 0.0
    assert model.predict(IMAGES).is_answered.all()
    json.dumps(model.config.to_dict())


def test_a_layer_alone_and_one_with_its_own_configuration_are_set_too(model):
    layer = BNDLDecisionLayer(model.config.__class__.from_dict(model.config.to_dict()))
    layer.set_temperature(2.0)
    assert (layer.config.temperature, model.config.temperature) == (2.0, 1.0)
    model.decision_layer = layer
    model.set_temperature(3.0)
    assert (layer.config.temperature, model.config.temperature) == (3.0, 3.0)


def test_abstain_below_of_one_call_goes_before_the_stored_one(model):
    confidence = model.predict(IMAGES).probs.amax(-1)
    model.set_abstention(1.0)
    assert not model.predict(IMAGES).is_answered.any()
    answered = model.predict(IMAGES, abstain_below=confidence[2].item()).is_answered
    assert torch.equal(answered, confidence >= confidence[2])  # the image at the threshold is answered
    assert model.predict(IMAGES, abstain_below=0.0).is_answered.all()
    model.set_abstention(None)
    assert model.predict(IMAGES).is_answered.all()


def test_another_temperature_drops_what_was_fitted_on_the_old_probabilities(model, caplog):
    model.set_temperature(2.0)
    model.set_abstention(0.5)
    model.set_conformal(SETS)
    model.set_temperature(2.0)  # nothing changes
    assert (model.config.abstain_below, model.config.conformal) == (0.5, SETS.to_dict())
    assert not caplog.text
    model.set_temperature(2.1)
    assert "fitted on probabilities of another temperature and are dropped; fit them again" in caplog.text
    assert (model.config.abstain_below, model.config.conformal) == (None, None)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.set_temperature(0.0), r"temperature=0\.0 must be a finite number above zero"),
        (
            lambda m: m.set_temperature(1e-30),
            r"temperature=1e-30 must be .* from 0\.001 to 1000",
        ),
        (lambda m: m.set_temperature(1.0, 1e7), r"variance_scale=10000000\.0 must be .* at most 1e\+06"),
        (lambda m: m.set_temperature(math.inf), "temperature=inf must be a finite number"),
        (lambda m: m.set_temperature("1"), "temperature='1' must be a finite number"),
        (lambda m: m.set_temperature(1.0, -0.1), r"variance_scale=-0\.1 must be a finite number, zero or above"),
        (lambda m: m.set_abstention(1.2), r"abstain_below=1\.2 must lie in \[0, 1\]"),
        (lambda m: m.predict(IMAGES, abstain_below=math.nan), r"abstain_below=nan must lie in \[0, 1\]"),
        (lambda m: m.set_conformal({**SETS.to_dict(), "num_classes": 3}), "fitted on 3 classes; this model has 5"),
        (
            lambda m: m.set_conformal({**SETS.to_dict(), "randomized": True}),
            "Randomised prediction sets are not stored",
        ),
    ],
)
def test_values_out_of_range_are_refused_and_nothing_changes(model, call, says):
    before = model.config.to_dict()
    with pytest.raises(ValueError, match=says):
        call(model)
    assert model.config.to_dict() == before


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("temperature", -1.0, r"temperature=-1\.0"),
        ("variance_scale", math.nan, "variance_scale=nan"),
        ("abstain_below", 2, "abstain_below=2"),
        ("conformal", {"method": "aps"}, "missing: coverage, num_classes, num_images, threshold"),
        ("conformal", {**SETS.to_dict(), "num_classes": 4}, "fitted on 4 classes; this model has 3"),
    ],
)
def test_a_configuration_with_such_values_is_refused(field, value, says):
    with pytest.raises(ValueError, match=says):
        BNDLConfig(feature_dim=4, num_labels=3, **{field: value})


def test_a_configuration_of_version_1_loads_and_is_saved_as_what_it_is_now(tmp_path):
    config = BNDLConfig(feature_dim=4, num_labels=3)
    old = {**config.to_dict(), "format_version": 1}
    for field in ("temperature", "variance_scale", "abstain_below", "conformal"):
        del old[field]
    (tmp_path / "config.json").write_text(json.dumps(old))
    loaded = BNDLConfig.from_pretrained(tmp_path)
    assert (loaded.temperature, loaded.variance_scale, loaded.conformal) == (1.0, 1.0, None)
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION == 3


def test_the_pipelines_apply_what_is_stored_and_take_a_threshold(model):
    processor = make_image_processor(IMAGE_SIZE)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    answer = pipeline("bndl-image-classification", model=model, image_processor=processor)
    classify = BNDLImageClassificationPipeline(model=model, image_processor=processor)
    before = answer(image)
    assert "prediction_set" not in before
    assert before["is_answered"] is True
    model.set_temperature(0.3)
    after = answer(image)
    assert after["probability"] > before["probability"] + 0.05
    model.set_conformal(ConformalPredictor("aps", 0.9, 0.95, num_images=50, num_classes=NUM_LABELS))
    probs = model.predict(processor(image, return_tensors="pt").pixel_values).probs[0]
    names, order = model.config.id2label, probs.argsort(descending=True).tolist()
    before_each = [probs[order[:i]].sum().item() for i in range(NUM_LABELS)]
    expected = [names[c] for c, mass in zip(order, before_each, strict=True) if mass <= 0.95]
    assert answer(image)["prediction_set"] == expected
    assert answer([image, image], batch_size=2)[1]["prediction_set"] == expected
    assert 1 < len(expected) < NUM_LABELS
    assert [e["is_answered"] for e in classify(image, abstain_below=1.0, top_k=2)] == [False, False]
    assert answer(image, abstain_below=0.01)["is_answered"] is True
    model.set_abstention(1.0)
    assert answer(image)["is_answered"] is False
    assert classify(image)[0]["is_answered"] is False


def test_a_prediction_uses_the_old_values_or_the_new_ones_and_never_a_mix(model):
    layer, features = model.decision_layer, model.extract_features(IMAGES).detach()
    settings = [((0.5, 0.0), 0.3, SETS), ((2.0, 3.0), 0.9, None)]

    def store(values):
        temperature, threshold, sets = values
        model.set_temperature(*temperature)
        model.set_abstention(threshold)
        model.set_conformal(sets)

    expected = []
    for values in settings:
        model.set_temperature(*values[0])
        expected.append(layer.predict(features).probs)
    stop, errors = threading.Event(), []

    def predict():
        while not stop.is_set():
            prediction = layer.predict(features)
            # Not bit by bit: a new thread may multiply with another number of cores.
            which = [torch.allclose(prediction.probs, probs, atol=1e-5) for probs in expected]
            # Sets go with the first temperature alone; the temperature's own setter drops them.
            if not any(which) or (prediction.prediction_sets is not None and not which[0]):
                errors.append(which)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        store(settings[i % 2])
    stop.set()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not errors


def test_any_temperature_that_is_taken_gives_probabilities(model):
    for temperature, variance_scale in [(1e-3, 0.0), (1e-3, 1e6), (1e3, 1e6), (1e3, 0.0)]:
        model.set_temperature(temperature, variance_scale)
        for method in ("exact", "monte_carlo"):
            prediction = model.predict(IMAGES, method=method)
            assert prediction.probs.isfinite().all()
            torch.testing.assert_close(prediction.probs.sum(-1), torch.ones(6))
            assert not prediction.p_value.isnan().any()
