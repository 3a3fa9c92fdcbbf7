"""Sure, torn or unfamiliar: which, why in words, stored with the model and refused where the numbers do not fit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from bndl_hf import BNDLConfig
from bndl_hf.data.pixel_values import make_image_processor
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.pipeline_bndl import BNDLImageClassificationPipeline
from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.model.verdicts import VERDICTS, VerdictRules, describe_answers, percent
from bndl_hf.uncertainty import fit_familiarity
from model.tiny import IMAGE_SIZE, NUM_LABELS, tiny_model

NAMES = {0: "cat", 1: "dog", 2: "bee", 3: "cow"}
RULES = VerdictRules(0.02, 0.05, 0.9, 500, 0.95, 0.99, 12.0, ((0.0, 0.1, 1.0), (0.9, 0.02, 0.5)))
PROBS = torch.tensor([[0.98, 0.01, 0.01, 0.0], [0.61, 0.33, 0.05, 0.01], [0.95, 0.05, 0, 0], [0.8, 0.1, 0.1, 0]])
SETS = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]).bool()
LAYER = BNDLConfig(feature_dim=8, num_labels=4)


def test_unfamiliar_goes_before_sure_and_sure_before_torn():
    verdict, is_familiar = RULES.judge(PROBS, torch.tensor([1.0, 12.0, 12.1, 3.0]))
    assert [VERDICTS[i] for i in verdict] == ["sure", "torn", "unfamiliar", "torn"]
    assert is_familiar.tolist() == [True, True, False, True]
    verdict, is_familiar = RULES.judge(PROBS, None)
    assert (verdict.tolist(), is_familiar, verdict.dtype) == ([0, 1, 0, 1], None, torch.int64)


def test_without_a_threshold_nothing_is_sure():
    rules = VerdictRules(0.02, 0.05, None, 30)
    assert rules.judge(torch.eye(4), None)[0].tolist() == [1, 1, 1, 1]
    ((sentence, _),) = describe_answers(torch.eye(4)[:1], torch.tensor([1]), None, rules.to_dict(), NAMES)
    assert sentence == "cat, 100 %: torn (30 held-out images promise no answers of which at most 2 % are wrong)"


def test_answers_read_like_sentences():
    answers = describe_answers(PROBS, torch.tensor([0, 1, 2, 1]), SETS, RULES.to_dict(), NAMES)
    assert [sentence for sentence, _ in answers] == [
        "cat, 98 %: sure (of answers this sure, at most 2 % are wrong)",
        "cat or dog (61 %, 33 %): torn; one of them in 95 of 100",
        "unlike the images it was fitted on (cat, 95 %): unfamiliar",
        "cat, 80 %: torn (below the 90 % from which on at most 2 % are wrong)",
    ]
    assert answers[1][1] == "cat or dog: one of them in 95 of 100"
    everything = describe_answers(PROBS[1:2], torch.tensor([1]), torch.ones(1, 4).bool(), RULES.to_dict(), NAMES)
    assert everything[0][0] == "cat, dog, bee or 1 other (61 %, 33 %, 5 %): torn; one of them in 95 of 100"
    assert describe_answers(PROBS[:1], None, None, None) == [("class 0, 98 %", None)]


def test_a_probability_is_not_rounded_to_certainty():
    assert [percent(p) for p in (1.0, 0.9999, 0.5, 0.001, 0.0)] == ["100 %", "over 99 %", "50 %", "under 1 %", "0 %"]


def test_rules_survive_json():
    assert VerdictRules.from_dict(json.loads(json.dumps(RULES.to_dict()))) == RULES


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"risk": 0.0}, r"risk=0\.0 of the verdict must lie in \(0, 1\)"),
        ({"threshold": 1.1}, r"threshold=1\.1 of the verdict must lie in \[0, 1\]"),
        ({"familiar": None}, "go together"),
        ({"num_held_out": 0}, "num_held_out=0 of the verdict must be a whole number"),
        ({"risk_curve": [[0.5, 0.1, 0.5], [0.4, 0.1, 0.5]]}, "ascending in the threshold; 2 arrived"),
        ({"risk_curve": [3]}, "must be a list of points"),
        ({"colour": 3}, "unknown: colour"),
    ],
)
def test_a_configuration_with_other_rules_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        BNDLConfig(feature_dim=4, num_labels=3, verdict={**RULES.to_dict(), **changes})


def fitted(rules=RULES, familiarity=None, temperature=1.0):
    sets = ConformalPredictor("aps", 0.95, 0.9, num_images=50, num_classes=4)
    return SimpleNamespace(
        rules=rules, conformal=sets, familiarity=familiarity, temperature=temperature, variance_scale=1.0
    )


def test_decisions_are_stored_together_applied_and_dropped(caplog):
    layer = BNDLDecisionLayer(LAYER.__class__(feature_dim=8, num_labels=4)).eval()
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(60, 8, generator=generator)
    familiarity = fit_familiarity(layer, features, torch.arange(60) % 4, torch.rand(40, 8, generator=generator))
    assert layer.predict(features).verdict is None
    layer.set_decisions(fitted(VerdictRules(0.02, 0.05, 0.0, 500, 0.95, 0.99, 50.0), familiarity))
    prediction = layer.predict(torch.cat([features[:1], torch.full((1, 8), 90.0)]))
    assert (prediction.verdict.tolist(), prediction.is_familiar.tolist()) == ([0, 2], [True, False])
    assert prediction.is_answered.tolist() == [True, False]
    assert "unfamiliar" in repr(prediction)
    assert prediction.describe(NAMES)[1].startswith("unlike the images it was fitted on")
    layer.set_abstention(0.0)  # somebody's own threshold alone says what is answered
    assert layer.predict(torch.full((1, 8), 90.0)).is_answered.tolist() == [True]
    layer.set_familiarity(None)
    assert "limit of the unfamiliar belongs to another familiarity" in caplog.text
    assert layer.predict(torch.full((1, 8), 90.0)).is_familiar is None
    layer.set_temperature(2.0)
    assert (layer.config.verdict, layer.config.conformal, layer.config.abstain_below) == (None, None, None)
    layer.set_decisions(fitted(temperature=3.0))
    assert (layer.config.temperature, layer.config.verdict) == (3.0, RULES.to_dict())
    layer.set_decisions(None)
    assert (layer.config.verdict, layer.config.conformal) == (None, None)


def test_both_pipelines_give_the_verdict_and_its_reason():
    model, processor = tiny_model("vit"), make_image_processor(IMAGE_SIZE)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    answer = pipeline("bndl-image-classification", model=model, image_processor=processor)
    entries = BNDLImageClassificationPipeline(model=model, image_processor=processor)
    assert not {"verdict", "reason"} & {*answer(image), *entries(image)[0]}
    sets = ConformalPredictor("aps", 0.95, 1.0, num_images=50, num_classes=NUM_LABELS)
    rules = VerdictRules(0.02, 0.05, None, 30, 0.95)
    model.set_decisions(
        SimpleNamespace(rules=rules, conformal=sets, familiarity=None, temperature=1.0, variance_scale=1.0)
    )
    found = answer(image)
    prediction = model.predict(processor(image, return_tensors="pt").pixel_values)
    assert found["verdict"] == entries(image)[0]["verdict"] == "torn"
    assert [found["reason"]] == [entries(image)[0]["reason"]] == prediction.reasons(model.config.id2label)
    assert found["reason"].endswith("or 2 others: one of them in 95 of 100")
