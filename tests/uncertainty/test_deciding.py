"""Verdicts from held-out images: promises kept over many draws, folds that do not mix, what cannot be promised said."""

import math

import pytest
import torch
from scipy import stats

from bndl_hf import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.verdicts import VERDICTS
from bndl_hf.training.convex_layer import layer_from_regression
from bndl_hf.training.logistic_regression import fit_logistic_regression
from bndl_hf.uncertainty import fit_decisions, fit_familiarity

C, D = 4, 6


def draw(num_images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-negative features of four classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.rand(C, D, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(C, (num_images,), generator=generator)
    return (centres[labels] + 0.9 * torch.randn(num_images, D, generator=generator)).clamp_min(0), labels


@pytest.fixture(scope="module")
def layer() -> BNDLDecisionLayer:
    x, y = draw(600, seed=0)
    regression = fit_logistic_regression(x, y, C, precision=1.0)
    return layer_from_regression(BNDLConfig(feature_dim=D, num_labels=C), regression, x, variance_scale=0.01)


def fit(layer, held_out, **options):
    return fit_decisions(layer, held_out, training=draw(600, seed=0), progress=False, **options)


def test_the_promises_are_kept_over_many_held_out_sets(layer: BNDLDecisionLayer) -> None:
    new, truth = draw(20_000, seed=1)
    broken, covered, familiar, torn, shares, runs = 0, [], [], [], [], 40
    for seed in range(runs):
        layer.set_decisions(fit(layer, draw(500, 100 + seed), risk=0.05, delta=0.1, recalibrate=False))
        answer = layer.predict(new)
        sure = answer.verdict == VERDICTS.index("sure")
        broken += int((answer.predicted_labels != truth)[sure].double().mean() > 0.05) if sure.any() else 0
        below = answer.probs.amax(-1).double() < (layer.config.verdict["threshold"] or math.inf)
        torn.append(int(below.sum()))
        covered.append(answer.prediction_sets[below].gather(1, truth[below][:, None]).double().mean().item())
        familiar.append(answer.is_familiar.double().mean().item())
        shares.append(sure.double().mean().item())
    assert broken <= stats.binom.ppf(0.999, runs, 0.1)
    assert sum(shares) / runs > 0.3  # a promise that answers nothing is easily kept
    assert sum(covered) / runs == pytest.approx(0.95, abs=0.02)
    assert sum(familiar) / runs == pytest.approx(0.99, abs=0.01)


def test_what_is_stored_is_what_was_fitted_and_comes_back_from_the_configuration(layer: BNDLDecisionLayer) -> None:
    decisions = fit(layer, draw(800, seed=2), risk=0.05)
    layer.set_decisions(decisions)
    again = BNDLConfig.from_dict(layer.config.to_dict())
    assert again.verdict == decisions.rule.to_dict()
    answer = layer.predict(draw(50, seed=3)[0])
    assert torch.equal(answer.is_answered, answer.verdict == 0)
    assert answer.rule == decisions.rule
    layer.set_decisions(None)
    bare = layer.predict(draw(50, seed=3)[0])
    assert bare.verdict is None
    assert bare.prediction_sets is None
    assert bare.is_answered.all()


def test_a_new_temperature_drops_the_verdict(layer: BNDLDecisionLayer, caplog: pytest.LogCaptureFixture) -> None:
    layer.set_decisions(fit(layer, draw(800, seed=2), risk=0.05))
    layer.set_temperature(3.0)
    assert layer.config.verdict is layer.config.conformal is None
    layer.set_temperature(1.0)


def test_a_temperature_is_kept_only_where_it_pays_on_other_images(layer: BNDLDecisionLayer) -> None:
    held_out = draw(800, seed=4)
    layer.set_temperature(4.0)
    decisions = fit(layer, held_out, risk=0.1)
    assert decisions.temperature is not None
    assert decisions.temperature.temperature < 2
    layer.set_decisions(decisions)
    assert layer.config.temperature == decisions.temperature.temperature
    again = fit(layer, held_out, risk=0.1)
    assert again.temperature is None
    assert "The temperature stays" in str(again)
    layer.set_temperature(1.0)


def test_the_model_is_not_changed(layer: BNDLDecisionLayer) -> None:
    layer.set_decisions(None)
    before = layer.config.to_dict()
    familiarity = layer.familiarity
    fit(layer, draw(300, seed=5))
    assert layer.config.to_dict() == before
    assert layer.familiarity is familiarity


def test_more_evidence_than_usual_does_not_pass_for_familiar(layer: BNDLDecisionLayer) -> None:
    layer.set_decisions(fit(layer, draw(500, seed=6), risk=0.1))
    x = draw(100, seed=7)[0]
    for times in (1, 4):
        answer = layer.predict(times * x)
        is_unfamiliar = answer.verdict == VERDICTS.index("unfamiliar")
        assert is_unfamiliar.double().mean() < 0.05 if times == 1 else is_unfamiliar.all()
    assert (answer.probs.amax(-1) > 0.99).double().mean() > 0.8  # and are they sure of it


def test_what_few_images_cannot_promise_is_said_with_how_many_would(layer: BNDLDecisionLayer) -> None:
    decisions = fit(layer, draw(60, seed=8), risk=0.02)
    said = str(decisions)
    assert said.startswith("From 60 held-out images:")
    assert "149 or more do, if none of the surest is wrong" in said
    assert "Nothing is called unfamiliar: 60 images do not show what is rarer than 1 in 100; 99 or more do." in said
    assert decisions.rule.threshold is decisions.rule.unfamiliar_above is decisions.rule.familiar is None
    few = fit_decisions(layer, draw(12, seed=8), familiar=None, recalibrate=False, progress=False)
    assert "No prediction sets: 12 images are too few for a coverage of 95 %; 19 or more do." in str(few)
    assert few.conformal is None


def test_without_training_images_half_of_the_held_out_ones_say_where_the_classes_lie(layer: BNDLDecisionLayer) -> None:
    layer.set_decisions(None)
    layer.set_familiarity(None)
    decisions = fit_decisions(layer, draw(600, seed=9), risk=0.1, progress=False)
    assert "Class means are of half of the held-out images" in str(decisions)
    assert decisions.familiarity is not None
    assert decisions.familiarity.num_held_out == 300
    known = fit_familiarity(layer, *draw(600, seed=0), draw(100, seed=1)[0])
    layer.set_familiarity(known)
    kept = fit_decisions(layer, draw(600, seed=9), risk=0.1, progress=False)
    assert kept.familiarity is None
    assert "Class means" not in str(kept)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"risk": 0.0}, r"risk=0.0 is not a fraction in \(0, 1\)"),
        ({"coverage": 1.0}, "coverage=1.0 is not"),
        ({"familiar": 99}, "familiar=99 is not"),
        ({"delta": -1}, "delta=-1 is not"),
    ],
)
def test_what_is_no_fraction_is_refused(layer: BNDLDecisionLayer, arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        fit_decisions(layer, draw(100, seed=1), progress=False, **arguments)


def test_too_few_images_to_learn_what_is_familiar_from_are_said(layer: BNDLDecisionLayer) -> None:
    layer.set_familiarity(None)
    found = fit_decisions(layer, draw(30, seed=1), progress=False)
    assert "Nothing is called unfamiliar: 30 images do not say what is usual; 40 or more do." in str(found)
    assert found.familiarity is found.rule.unfamiliar_above is None
