"""A wrong argument is a ValueError that names the argument, says what arrived and what to do."""

import math

import pytest
import torch

from bndl_hf.uncertainty import (
    StreamingMetrics,
    accuracy,
    adaptive_calibration_error,
    area_under_risk_coverage,
    brier_decomposition,
    brier_score,
    calibration_bins,
    classwise_calibration_error,
    error_detection_auroc,
    excess_area_under_risk_coverage,
    expected_calibration_error,
    gap_test,
    negative_log_likelihood,
    pavpu,
    pavpu_from_p_value,
    risk_coverage_curve,
)

OF_PROBS = [
    accuracy,
    adaptive_calibration_error,
    brier_decomposition,
    brier_score,
    calibration_bins,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    StreamingMetrics().update,
]
OF_CONFIDENCE = [
    area_under_risk_coverage,
    excess_area_under_risk_coverage,
    error_detection_auroc,
    risk_coverage_curve,
]
PROBS = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
LABELS = torch.tensor([0, 2])
DRAWS = torch.zeros(3, 2, 4)


@pytest.mark.parametrize("metric", OF_PROBS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), r"probs holds -1;.*Pass softmax"),
        (torch.tensor([[0.5, math.nan], [1, 0]]), LABELS[:2], r"probs holds 1 values that are NaN or infinite, of 4"),
        (torch.tensor([[0.5, 0.5], [0.7, 0.7]]), torch.tensor([0, 0]), r"probs sums to 1.4 in row 1;.*Pass softmax"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0]), r"probs has shape \[2\]; images by classes"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), r"probs has shape \[0, 3\];.*B >= 1"),
        (torch.ones(4, 1), torch.zeros(4, dtype=torch.int64), r"probs has shape \[4, 1\];.*C >= 2"),
        (PROBS, torch.tensor([0, 3]), r"labels holds 3; with C=3 classes an index lies in 0..2"),
        (PROBS, torch.tensor([0, -100]), r"labels holds -100;.*ignored"),
        (PROBS, torch.tensor([0, 1, 2]), r"labels has shape \[3\];.*shape \[2\], fits"),
        (PROBS, torch.eye(3)[LABELS], r"labels has shape \[2, 3\];.*argmax"),
        (PROBS, torch.tensor([0.0, 2.0]), r"labels has dtype torch.float32; class indices are integers"),
    ],
)
def test_probabilities_and_labels(metric, probs, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probs, labels)


@pytest.mark.parametrize("metric", OF_CONFIDENCE, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        (torch.tensor([]), torch.tensor([]), r"confidence has shape \[0\]"),
        (torch.rand(2, 2), torch.ones(2), r"confidence has shape \[2, 2\]; one number per image"),
        (torch.tensor([math.nan, 0.1]), torch.ones(2), r"confidence holds 1 NaN of 2 values"),
        (torch.rand(3), torch.ones(2), r"correct has shape \[2\]; one truth value per image, shape \[3\]"),
        (torch.rand(2), torch.tensor([0, 7]), r"correct holds 7; it is True/False or 1/0"),
    ],
)
def test_confidence_and_correct(metric, confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        metric(confidence, correct)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"logits_samples": DRAWS[:1]}, r"logits_samples holds S=1 draws; a t-test needs at least 2.*num_samples=20"),
        ({"logits_samples": DRAWS[0]}, r"logits_samples has shape \[2, 4\]; draws first, \[S, B, C\]"),
        ({"logits_samples": DRAWS[:, :0], "labels": LABELS[:0]}, r"logits_samples has shape \[3, 0, 4\];.*B >= 1"),
        ({"logits_samples": DRAWS + math.inf}, r"logits_samples holds 24 values that are NaN or infinite, of 24"),
        ({"labels": torch.tensor([0, 4])}, r"labels holds 4; with C=4 classes"),
        ({"labels": torch.tensor([0])}, r"labels has shape \[1\];.*shape \[2\]"),
        ({"predicted": torch.tensor([0])}, r"predicted has shape \[1\];.*shape \[2\]"),
        ({"predicted": torch.tensor([0, 9])}, r"predicted holds 9; with C=4 classes"),
        ({"test": "two-sample"}, r"test='two-sample' is unknown. Pass one of 'paired', 'welch'"),
        ({"values": "logit"}, r"values='logit' is unknown. Pass one of 'logits', 'probabilities'"),
        ({"threshold": 5}, r"threshold=5 is not in \(0, 1\)"),
        ({"threshold": 0}, r"threshold=0 is not in \(0, 1\)"),
        ({"threshold": math.nan}, r"threshold=nan is not in \(0, 1\)"),
    ],
)
def test_draws_and_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pavpu(**({"logits_samples": DRAWS, "labels": LABELS} | kwargs))


def test_one_draw_is_too_few_for_the_test_alone():
    with pytest.raises(ValueError, match=r"logits_samples holds S=1 draws"):
        gap_test(DRAWS[:1])


@pytest.mark.parametrize(
    ("p_value", "correct", "threshold", "message"),
    [
        (torch.tensor([0.1, 1.5]), torch.ones(2), 0.05, r"p_value holds 1.5; p-values lie in \[0, 1\]"),
        (torch.tensor([-2.0, 0.5]), torch.ones(2), 0.05, r"p_value holds -2;.*not the t statistic"),
        (torch.tensor([math.nan, 0.5]), torch.ones(2), 0.05, r"p_value holds 1 NaN of 2 values"),
        (torch.tensor([]), torch.tensor([]), 0.05, r"p_value has shape \[0\]"),
        (torch.tensor([0.1, 0.5]), torch.ones(3), 0.05, r"correct has shape \[3\]"),
        (torch.tensor([0.1, 0.5]), torch.ones(2), 1.0, r"threshold=1.0 is not in \(0, 1\)"),
    ],
)
def test_p_values(p_value, correct, threshold, message):
    with pytest.raises(ValueError, match=message):
        pavpu_from_p_value(p_value, correct, threshold)


@pytest.mark.parametrize("num_bins", [0, -3, 2.5, True])
def test_number_of_bins(num_bins):
    for metric in (expected_calibration_error, classwise_calibration_error, brier_decomposition):
        with pytest.raises(ValueError, match=rf"num_bins={num_bins} is not a whole number of at least 1"):
            metric(PROBS, LABELS, num_bins)


def test_bfloat16_probabilities_pass():
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(100, 1000, generator=generator).softmax(dim=-1).bfloat16()
    labels = torch.randint(0, 1000, (100,), generator=generator)
    assert 0 <= brier_score(probs, labels) <= 2
    assert brier_score(probs.float(), labels) == brier_score(probs, labels)
