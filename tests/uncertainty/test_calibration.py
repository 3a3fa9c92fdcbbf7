"""Calibration errors against torchmetrics, naive loops and answers known by hand."""

import math

import pytest
import torch

from bndl_hf.uncertainty import (
    adaptive_calibration_error,
    calibration_bins,
    classwise_calibration_error,
    expected_calibration_error,
)

from .reference import calibration_error, random_probs

ERRORS = [expected_calibration_error, adaptive_calibration_error, classwise_calibration_error]


def binary(confidences):
    """Probabilities [B, 2] that predict class 0 with the given confidences."""
    top = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([top, 1 - top], dim=-1)


def test_expected_calibration_error_by_hand():
    # Bin (.8, .9]: two images, accuracy 1/2, confidence .9. Bin (.5, .6]: one, right at .6. (2 * .4 + .4) / 3 = .4
    error = expected_calibration_error(binary([0.9, 0.9, 0.6]), torch.tensor([0, 1, 0]), num_bins=10)
    assert error == pytest.approx(0.4, abs=1e-12)


def test_edges_belong_to_the_bin_below():
    bins = calibration_bins(binary([0.5, 0.75, 1.0]), torch.tensor([0, 0, 0]), num_bins=4)
    assert bins.edges.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert bins.count.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_expected_calibration_error_is_that_of_torchmetrics(num_bins):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = random_probs(500, 7, seed=1)
    expected = functional.multiclass_calibration_error(probs, labels, num_classes=7, n_bins=num_bins, norm="l1").item()
    # torchmetrics keeps its bin edges in float32; no confidence here is within 1e-7 of one.
    assert expected_calibration_error(probs, labels, num_bins) == pytest.approx(expected, abs=1e-6)


def test_maximum_calibration_error_is_that_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = random_probs(500, 7, seed=2)
    expected = functional.multiclass_calibration_error(probs, labels, num_classes=7, n_bins=15, norm="max").item()
    assert calibration_bins(probs, labels).maximum_calibration_error == pytest.approx(expected, abs=1e-6)


def test_errors_are_those_of_a_naive_loop():
    probs, labels = random_probs(200, 4, seed=3)
    confidence, predicted = probs.max(dim=-1)
    top = calibration_error(confidence.tolist(), (predicted == labels).double().tolist(), 15)
    assert expected_calibration_error(probs, labels) == pytest.approx(top, abs=1e-12)
    per_class = [calibration_error(probs[:, c].tolist(), (labels == c).double().tolist(), 15) for c in range(4)]
    assert classwise_calibration_error(probs, labels) == pytest.approx(sum(per_class) / 4, abs=1e-12)


def test_adaptive_calibration_error_is_that_of_equal_chunks():
    probs, labels = random_probs(101, 4, seed=4)
    confidence, predicted = probs.max(dim=-1)
    order = confidence.argsort()
    correct = (predicted == labels).double()
    chunks = torch.arange(101).tensor_split(7)
    expected = sum((correct[order[c]] - confidence[order[c]]).sum().abs().item() for c in chunks) / 101
    assert adaptive_calibration_error(probs, labels, num_bins=7) == pytest.approx(expected, abs=1e-12)
    bins = calibration_bins(probs, labels, num_bins=7, strategy="equal_mass")
    assert bins.count.tolist() == [15, 15, 15, 14, 14, 14, 14]
    assert bins.edges[0] == confidence.min()
    assert bins.edges[-1] == confidence.max()


def test_adaptive_calibration_error_does_not_depend_on_the_order_of_tied_rows():
    probs = binary([0.7] * 10)
    labels = torch.tensor([0] * 7 + [1] * 3)  # seven of ten come true: calibrated
    for order in (torch.arange(10), torch.arange(10).flip(0)):
        assert adaptive_calibration_error(probs[order], labels[order], num_bins=5) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("error", ERRORS)
def test_perfect_prediction_has_no_calibration_error(error):
    labels = torch.tensor([0, 2, 1])
    assert error(torch.eye(3)[labels], labels) == 0.0


@pytest.mark.parametrize("error", ERRORS)
def test_certain_and_wrong_is_the_worst(error):
    assert error(torch.eye(2)[torch.tensor([0, 1, 0])], torch.tensor([1, 0, 1])) == 1.0


@pytest.mark.parametrize("error", ERRORS)
def test_constant_calibrated_prediction_has_no_calibration_error(error):
    # Base rates .5, .25, .25 predicted for every image; the top class comes true for half of them.
    probs = torch.tensor([[0.5, 0.25, 0.25]]).expand(8, 3)
    assert error(probs, torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("error", ERRORS)
def test_a_single_image_has_a_defined_error(error):
    assert 0 <= error(torch.tensor([[0.7, 0.3]]), torch.tensor([0])) <= 1


def test_drawn_labels_are_calibrated_within_their_standard_error():
    # Labels drawn from the probabilities. A bin's |sum of (y - p)| has mean at most sqrt(n_m) / 2, and by
    # Cauchy-Schwarz sum_m sqrt(n_m) / (2 n) <= sqrt(M / n) / 2 = .027 at n = 5000, M = 15.
    probs, labels = random_probs(5000, 5, seed=5)
    assert expected_calibration_error(probs, labels) < 0.027


def test_empty_bins_are_nan_and_weigh_nothing():
    bins = calibration_bins(binary([0.9]), torch.tensor([0]), num_bins=2)
    assert math.isnan(bins.accuracy[0])
    assert math.isnan(bins.confidence[0])
    assert bins.expected_calibration_error == pytest.approx(0.1)
    assert bins.maximum_calibration_error == pytest.approx(0.1)


def test_fewer_images_than_equal_mass_bins_leave_bins_empty():
    bins = calibration_bins(binary([0.9, 0.6]), torch.tensor([0, 1]), num_bins=5, strategy="equal_mass")
    assert bins.count.tolist() == [1, 1, 0, 0, 0]
    assert bins.expected_calibration_error == pytest.approx((0.6 + 0.1) / 2)


def test_bins_of_batches_add_up():
    probs, labels = random_probs(100, 3, seed=6)
    added = calibration_bins(probs[:30], labels[:30]) + calibration_bins(probs[30:], labels[30:])
    whole = calibration_bins(probs, labels)
    assert added.count.equal(whole.count)
    assert added.expected_calibration_error == pytest.approx(whole.expected_calibration_error, abs=1e-12)


def test_bins_of_other_edges_do_not_add_up():
    probs, labels = random_probs(20, 3, seed=7)
    with pytest.raises(ValueError, match=r"edges of 10 and 15 bins differ"):
        calibration_bins(probs, labels, 10) + calibration_bins(probs, labels, 15)


def test_unknown_strategy_names_the_known_ones():
    with pytest.raises(ValueError, match=r"strategy='quantile' is unknown.*'equal_width', 'equal_mass'"):
        calibration_bins(*random_probs(5, 3, seed=8), strategy="quantile")
