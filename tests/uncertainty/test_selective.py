"""Risk and coverage by hand, against all ways to break ties, and against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from bndl_hf.uncertainty import (
    area_under_risk_coverage,
    coverage_at_risk,
    error_detection_auroc,
    excess_area_under_risk_coverage,
    risk_at_coverage,
    risk_coverage_curve,
)

from . import reference

CONFIDENCE = torch.tensor([0.9, 0.8, 0.7, 0.6])
CORRECT = torch.tensor([True, True, False, True])


def test_curve_by_hand():
    curve = risk_coverage_curve(CONFIDENCE[[2, 0, 3, 1]], CORRECT[[2, 0, 3, 1]])  # the order of the rows is nothing
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve.confidence.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])


def test_area_by_hand():
    assert area_under_risk_coverage(CONFIDENCE, CORRECT) == pytest.approx((1 / 3 + 1 / 4) / 4)
    # The best order has its one error last: risks 0, 0, 0, 1/4.
    assert excess_area_under_risk_coverage(CONFIDENCE, CORRECT) == pytest.approx((1 / 3 + 1 / 4) / 4 - 1 / 16)


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [
        ([1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0]),
        ([3, 2, 2, 2, 2, 1], [0, 1, 0, 1, 1, 1]),
        ([1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 1]),
        ([6, 5, 4, 3, 2, 1], [1, 0, 1, 0, 0, 1]),
    ],
)
def test_area_is_the_mean_over_all_orders_of_tied_rows(confidence, correct):
    area = area_under_risk_coverage(torch.tensor(confidence), torch.tensor(correct))
    assert area == pytest.approx(reference.area_under_risk_coverage(confidence, correct), abs=1e-12)


def test_constant_confidence_has_the_error_rate_everywhere():
    correct = torch.tensor([1, 0, 0, 1, 1])
    assert risk_coverage_curve(torch.ones(5), correct).risk.tolist() == pytest.approx([0.4] * 5)
    assert area_under_risk_coverage(torch.ones(5), correct) == pytest.approx(0.4)
    assert error_detection_auroc(torch.ones(5), correct) == 0.5


@pytest.mark.parametrize("correct", [torch.ones(6), torch.zeros(6)])
def test_all_right_or_all_wrong_is_defined(correct):
    confidence = torch.tensor([0.9, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert area_under_risk_coverage(confidence, correct) == 1 - correct[0].item()
    assert excess_area_under_risk_coverage(confidence, correct) == 0.0
    assert coverage_at_risk(confidence, correct, risk=0.5) == correct[0].item()
    assert math.isnan(error_detection_auroc(confidence, correct))


def test_perfect_ranking_has_no_excess_and_the_worst_has_the_most():
    correct = torch.tensor([1, 1, 1, 0, 0])
    best = excess_area_under_risk_coverage(torch.tensor([5, 4, 3, 2, 1]), correct)
    worst = excess_area_under_risk_coverage(torch.tensor([1, 2, 3, 4, 5]), correct)
    # Risks of the worst order: 1, 1, 2/3, 2/4, 2/5; of the best: 0, 0, 0, 1/4, 2/5.
    assert best == 0.0
    assert worst == pytest.approx((1 + 1 + 2 / 3 + 2 / 4 - 1 / 4) / 5)


def test_coverage_at_risk_by_hand():
    assert coverage_at_risk(CONFIDENCE, CORRECT, risk=0.0) == 0.5
    assert coverage_at_risk(CONFIDENCE, CORRECT, risk=0.25) == 1.0  # risk falls again behind its peak of 1/3
    assert coverage_at_risk(CONFIDENCE, ~CORRECT, risk=0.5) == 0.0


def test_coverage_at_risk_takes_tied_images_together():
    # The two tied images hold one error: answering both has risk 1/2, answering only the right one is not a threshold.
    assert coverage_at_risk(torch.tensor([0.9, 0.9]), torch.tensor([1, 0]), risk=0.4) == 0.0
    assert coverage_at_risk(torch.tensor([0.9, 0.9]), torch.tensor([1, 0]), risk=0.5) == 1.0


def test_risk_at_coverage_by_hand():
    assert risk_at_coverage(CONFIDENCE, CORRECT, coverage=0.5) == 0.0
    assert risk_at_coverage(CONFIDENCE, CORRECT, coverage=0.51) == pytest.approx(1 / 3)  # ceil(2.04) = 3 images
    assert risk_at_coverage(CONFIDENCE, CORRECT, coverage=1.0) == 0.25
    assert risk_at_coverage(CONFIDENCE, CORRECT, coverage=0.001) == 0.0  # never fewer than one image


def test_risk_at_coverage_counts_in_whole_images():
    # .07 * 100 is 7.000000000000001: seven images are all right, the eighth is wrong.
    assert risk_at_coverage(torch.arange(100).flip(0), torch.arange(100) < 7, coverage=0.07) == 0.0


def test_error_detection_is_scikit_learns_auroc_with_ties():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.randint(0, 10, (400,), generator=generator)
    correct = torch.randint(0, 10, (400,), generator=generator) < confidence
    expected = roc_auc_score(correct, confidence)
    assert error_detection_auroc(confidence, correct) == pytest.approx(expected, rel=1e-12)


def test_infinite_confidence_is_ranked():
    confidence = torch.tensor([math.inf, math.inf, 0.0, -math.inf])
    assert risk_coverage_curve(confidence, torch.tensor([1, 0, 1, 0])).risk.tolist() == pytest.approx(
        [1 / 2, 1 / 2, 1 / 3, 1 / 2]
    )


def test_risk_and_coverage_outside_their_range_are_named():
    with pytest.raises(ValueError, match=r"risk=5 is not in \[0, 1\]"):
        coverage_at_risk(CONFIDENCE, CORRECT, risk=5)
    with pytest.raises(ValueError, match=r"coverage=0 is not in \(0, 1\]"):
        risk_at_coverage(CONFIDENCE, CORRECT, coverage=0)
