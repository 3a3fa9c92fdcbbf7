"""One fit for all decisions: what it promises holds on new images, and what it cannot promise it says."""

import math

import pytest
import torch

from bndl_hf import BNDLConfig, BNDLDecisionLayer
from bndl_hf.uncertainty import fit_abstention, fit_decisions, risk_bounds, set_coverage

C, D = 4, 8


def images(count, seed):
    """Features around a mean for each class, near enough for mistakes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(C, (count,), generator=generator)
    return (1.8 * torch.eye(C, D)[labels] + torch.randn(count, D, generator=generator)).relu(), labels


@pytest.fixture(scope="module")
def layer():
    config = BNDLConfig(feature_dim=D, num_labels=C, projection="none", normalize_features=False)
    layer = BNDLDecisionLayer(config).eval()
    with torch.no_grad():
        layer.raw_loadings.fill_(-1.0)[:C].fill_diagonal_(1.0)
    return layer


@pytest.fixture(autouse=True)
def forgets(layer):
    yield
    layer.set_decisions(None)
    layer.set_familiarity(None)
    layer.set_temperature(1.0)


def test_promises_hold_on_new_images_for_1_minus_delta_of_the_held_out_sets(layer):
    training = images(400, 0)
    broken, covered, familiar, sure = [], [], [], []
    for seed in range(30):
        decisions = fit_decisions(
            layer, images(1000, 2 + seed), risk=0.1, delta=0.2, training=training, temperature=False, progress=False
        )
        layer.set_decisions(decisions)
        features, labels = images(4000, 1000 + seed)
        prediction = layer.predict(features)
        is_sure = prediction.verdict == 0
        sure.append(is_sure.float().mean().item())
        broken.append(((prediction.predicted_labels != labels)[is_sure].float().mean() > 0.1).item())
        covered.append(set_coverage(prediction.prediction_sets, labels))
        familiar.append(prediction.is_familiar.float().mean().item())
    assert sum(broken) <= 30 * 0.2 + 3 * math.sqrt(30 * 0.2 * 0.8)
    assert sum(sure) / 30 > 0.25  # a promise about nothing is easily kept
    # Mean over held-out sets is at least what was asked; 3 standard errors of the mean of 30 pairs of sets.
    assert sum(covered) / 30 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 * (1 / 800 + 1 / 4000) / 30)
    assert sum(familiar) / 30 == pytest.approx(0.99, abs=0.003)


def test_a_temperature_is_kept_where_it_helps_images_it_did_not_see(layer):
    held_out = images(2000, 5)
    decisions = fit_decisions(layer, held_out, progress=False)
    assert decisions.temperature != 1
    layer.set_temperature(decisions.temperature)
    again = fit_decisions(layer, held_out, progress=False)
    assert again.temperature == pytest.approx(decisions.temperature)
    assert "The temperature stays" in str(again)


def test_what_cannot_be_promised_is_none_and_said(layer):
    decisions = fit_decisions(layer, images(80, 6), progress=False)
    assert (decisions.rules.threshold, decisions.rules.unfamiliar_above) == (None, None)
    said = str(decisions)
    for part in (
        "takes 377 sure answers without a mistake",  # log(.05 / 100) / log(1 - .02) = 376.2
        "takes 99 images; 40 were left",
        "40 images are too few to fit one",
    ):
        assert part in said
    layer.set_decisions(decisions)
    assert (layer.predict(images(9, 7)[0]).verdict == 1).all()


def test_batches_and_tensors_give_the_same_decisions(layer):
    features, labels = images(500, 8)
    batches = [{"features": a, "labels": b} for a, b in zip(features.split(200), labels.split(200), strict=True)]
    first, second = (fit_decisions(layer, data, progress=False) for data in (batches, (features, labels)))
    assert first.rules == second.rules
    assert len(first.rules.risk_curve) <= 100


def test_the_risk_curve_is_what_the_abstention_is_taken_from():
    generator = torch.Generator().manual_seed(9)
    confidence = torch.rand(1000, generator=generator)
    correct = torch.rand(1000, generator=generator) < 0.7 + 0.3 * confidence
    fit = fit_abstention(confidence, correct, risk=0.2)
    curve = risk_bounds(confidence, correct)
    assert min(point[0] for point in curve if point[1] <= 0.2) == fit.threshold
    with pytest.raises(ValueError, match=r"delta=0 is not in \(0, 1\)"):
        risk_bounds(confidence, correct, delta=0)


def test_shares_outside_their_range_are_refused(layer):
    with pytest.raises(ValueError, match=r"coverage=1.0 is not in \(0, 1\)"):
        fit_decisions(layer, images(40, 6), coverage=1.0)
