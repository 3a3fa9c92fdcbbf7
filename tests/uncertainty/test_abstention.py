"""The reject option: scipy's binomial, the promise over many calibration sets, known thresholds."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bndl_hf.uncertainty import coverage_at_risk, fit_abstention, risk_upper_bound
from uncertainty.test_recalibration import draw, prediction_of, random_logits


@pytest.mark.parametrize(("errors", "answered", "delta"), [(0, 299, 0.05), (3, 500, 0.001), (40, 41, 0.1)])
def test_the_bound_is_where_so_few_errors_have_chance_delta(errors, answered, delta):
    bound = risk_upper_bound(errors, answered, delta)
    assert stats.binom.cdf(errors, answered, bound) == pytest.approx(delta, rel=1e-8)
    assert bound == pytest.approx(stats.beta.ppf(1 - delta, errors + 1, answered - errors), rel=1e-10)


def test_a_bound_on_nothing_but_errors_is_one():
    assert risk_upper_bound(5, 5, 0.05) == risk_upper_bound(0, 0, 0.05) == 1.0


def population(num_images, generator):
    """Confidence uniform in [0, 1], wrong with probability 0.3 (1 - confidence)."""
    confidence = torch.rand(num_images, generator=generator)
    return confidence, torch.rand(num_images, generator=generator) >= 0.3 * (1 - confidence)


def true_risk(threshold):
    return 0.3 * (1 - max(threshold, 0)) / 2  # mean of 0.3 (1 - c) over [threshold, 1]


def test_the_promise_is_kept_for_1_minus_delta_of_the_calibration_sets():
    generator = torch.Generator().manual_seed(0)
    fits = [fit_abstention(*population(4000, generator), risk=0.09, delta=0.1) for _ in range(400)]
    broken = np.mean([true_risk(fitted.threshold) > 0.09 for fitted in fits])
    assert broken <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)
    # The best threshold answers 60 %; a promise that answers nothing is easily kept.
    assert np.mean([fitted.coverage for fitted in fits]) > 0.35
    for fitted in fits:
        assert fitted.empirical_risk <= fitted.risk_bound <= fitted.risk == 0.09


def test_few_images_promise_what_no_bound_for_a_hundred_thresholds_could():
    confidence = torch.linspace(0, 1, 300)
    fitted = fit_abstention(confidence, confidence > 0.3, risk=0.02)
    assert 149 <= round(fitted.coverage * 300) <= 210  # (1 - 0.02) ** 149 < 0.05


def test_where_a_sequence_starts_depends_on_the_number_of_images_alone():
    confidence = torch.linspace(0, 1, 3000)
    correct = confidence < 0.999  # the three surest are wrong
    fitted = fit_abstention(confidence, correct, risk=0.02)
    assert fitted.coverage == 1.0
    assert fitted.risk_bound < 0.01


def test_without_delta_the_promise_fails_about_every_second_time():
    generator = torch.Generator().manual_seed(1)
    fits = [fit_abstention(*population(1500, generator), risk=0.06, delta=None) for _ in range(400)]
    assert 0.4 < np.mean([true_risk(fitted.threshold) > 0.06 for fitted in fits]) < 0.9
    assert all(fitted.risk_bound is None for fitted in fits)


def test_the_fit_reports_what_its_threshold_does_on_the_images_it_was_fitted_on():
    confidence, correct = population(1000, torch.Generator().manual_seed(2))
    for delta in (0.05, None):
        fitted = fit_abstention(confidence, correct, risk=0.1, delta=delta)
        answered = confidence >= fitted.threshold  # float32 as it comes
        assert answered.float().mean().item() == pytest.approx(fitted.coverage)
        assert (~correct[answered]).float().mean().item() == pytest.approx(fitted.empirical_risk, rel=1e-5)
        assert torch.equal(answered, confidence.double() >= fitted.threshold)
    assert fitted.coverage == coverage_at_risk(confidence, correct, 0.1)


def test_images_of_equal_confidence_are_answered_together():
    confidence = torch.tensor([0.9] * 500 + [0.5] * 500)
    correct = torch.tensor([True] * 500 + [True, False] * 250)
    for delta in (0.05, None):
        fitted = fit_abstention(confidence, correct, risk=0.02, delta=delta)
        assert (fitted.coverage, fitted.empirical_risk) == (0.5, 0.0)
        assert 0.5 < fitted.threshold <= 0.9


def test_a_model_without_errors_answers_everything():
    for delta in (None, 0.05):
        fitted = fit_abstention(torch.rand(2000), torch.ones(2000), risk=0.01, delta=delta)
        assert (fitted.threshold, fitted.coverage) == (-math.inf, 1.0)
    # 2000 * 0.01 / 6 errors: three sequences share delta.
    assert fitted.risk_bound == pytest.approx(1 - (0.05 / 3) ** (1 / 2000))


def test_of_a_prediction_the_largest_probability_is_taken():
    logits = random_logits(2000)
    prediction, labels = prediction_of(logits), draw(logits.softmax(-1))
    by_hand = fit_abstention(prediction.probs.amax(-1), prediction.predicted_labels == labels, risk=0.1)
    assert fit_abstention(prediction, labels, risk=0.1) == by_hand
    assert 0.1 < by_hand.coverage < 1


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((torch.rand(9), torch.ones(8)), {}, r"correct has shape \[8\]"),
        ((torch.rand(9), torch.full((9,), 2)), {}, "correct holds 2"),
        ((torch.full((9,), math.nan), torch.ones(9)), {}, "confidence holds 9 NaN"),
        ((torch.rand(0), torch.ones(0)), {}, r"confidence has shape \[0\]"),
        ((torch.rand(9), torch.ones(9)), {"risk": 0.0}, r"risk=0.0 is not in \(0, 1\)"),
        ((torch.rand(9), torch.ones(9)), {"delta": 1.0}, r"delta=1.0 is not in \(0, 1\)"),
        ((prediction_of(random_logits(9)), torch.full((9,), 4)), {}, "labels holds 4"),
        # 200 images, all right: 1 - 0.05 ** (1 / 200) = 0.01487
        (
            (torch.rand(200), torch.ones(200)),
            {},
            r"risk=0\.01 is out of reach with delta=0\.05 on 200 images; the lowest in reach is 0\.01487, answering",
        ),
        (
            (torch.arange(4.0), torch.tensor([1, 1, 1, 0])),
            {"delta": None},
            r"risk=0\.01 is out of reach on 4 images; the lowest in reach is 0\.25, answering 100%",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(arguments, options, says):
    with pytest.raises(ValueError, match=says):
        fit_abstention(*arguments, **options)
