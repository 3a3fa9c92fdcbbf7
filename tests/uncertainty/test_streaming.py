"""Batch by batch, or over several processes, the numbers are those of the functions."""

import pickle

import pytest
import torch

from bndl_hf import uncertainty
from bndl_hf.uncertainty import StreamingMetrics

from .reference import random_probs


def batchwise(probs, labels, sizes, **kwargs):
    metrics = StreamingMetrics(**kwargs)
    for rows, truth in zip(probs.split(sizes), labels.split(sizes), strict=True):
        metrics.update(rows, truth)
    return metrics


@pytest.mark.parametrize("num_bins", [5, 15])
def test_batches_give_the_numbers_of_the_functions(num_bins):
    probs, labels = random_probs(200, 4, seed=0)
    values = batchwise(probs, labels, [1, 99, 64, 36], num_bins=num_bins).compute()
    confidence, correct = probs.max(dim=-1).values, probs.argmax(dim=-1) == labels
    for name, value in values.items():
        function = getattr(uncertainty, name)
        if name in ("accuracy", "negative_log_likelihood", "brier_score"):
            expected = function(probs, labels)
        elif name == "expected_calibration_error":
            expected = function(probs, labels, num_bins)
        else:
            expected = function(confidence, correct)
        assert value == pytest.approx(expected, rel=1e-12), name
    assert set(values) == {
        "accuracy",
        "negative_log_likelihood",
        "brier_score",
        "expected_calibration_error",
        "area_under_risk_coverage",
        "excess_area_under_risk_coverage",
        "error_detection_auroc",
    }


def test_merged_shares_give_the_numbers_of_the_whole():
    probs, labels = random_probs(90, 3, seed=1)
    whole = batchwise(probs, labels, [90])
    merged = batchwise(probs[:40], labels[:40], [25, 15])
    share = batchwise(probs[40:], labels[40:], [50])
    merged.merge(pickle.loads(pickle.dumps(share)))  # as another process would send it
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert merged.num_images == 90
    assert share.num_images == 50
    assert torch.equal(merged.confidence, whole.confidence)
    assert torch.equal(merged.correct, whole.correct)


def test_share_without_images_merges_either_way():
    probs, labels = random_probs(20, 3, seed=2)
    seen, empty = batchwise(probs, labels, [20]), StreamingMetrics()
    before = seen.compute()
    seen.merge(empty)
    empty.merge(seen)
    assert seen.compute() == before == empty.compute()


def test_reliability_diagram_is_that_of_the_function():
    probs, labels = random_probs(60, 3, seed=3)
    streamed, whole = batchwise(probs, labels, [30, 30]).calibration_bins, uncertainty.calibration_bins(probs, labels)
    assert torch.equal(streamed.count, whole.count)
    torch.testing.assert_close(streamed.accuracy, whole.accuracy, equal_nan=True)
    torch.testing.assert_close(streamed.confidence, whole.confidence, equal_nan=True)


def test_another_confidence_ranks_but_does_not_recalibrate():
    probs, labels = random_probs(60, 3, seed=4)
    confidence = torch.arange(60.0)
    metrics = StreamingMetrics()
    metrics.update(probs, labels, confidence=confidence)
    correct = probs.argmax(dim=-1) == labels
    values = metrics.compute()
    assert values["area_under_risk_coverage"] == uncertainty.area_under_risk_coverage(confidence, correct)
    assert values["expected_calibration_error"] == pytest.approx(uncertainty.expected_calibration_error(probs, labels))


def test_images_keep_nine_bytes():
    metrics = batchwise(*random_probs(1000, 50, seed=5), [500, 500])
    stored = [*metrics._confidence, *metrics._correct]
    assert sum(part.untyped_storage().nbytes() for part in stored) == 9 * 1000


def test_failed_update_leaves_no_trace():
    probs, labels = random_probs(20, 3, seed=6)
    metrics = batchwise(probs, labels, [20])
    before = metrics.compute()
    with pytest.raises(ValueError, match=r"confidence has 2 values for 20 images"):
        metrics.update(probs, labels, confidence=torch.ones(2))
    with pytest.raises(ValueError, match=r"probs has C=4 classes; earlier batches had 3"):
        metrics.update(*random_probs(20, 4, seed=7))
    assert metrics.compute() == before


def test_nothing_judged_is_an_error():
    with pytest.raises(ValueError, match=r"num_images=0: nothing was judged yet"):
        StreamingMetrics().compute()


def test_shares_of_other_settings_do_not_merge():
    with pytest.raises(ValueError, match=r"num_bins=10 does not merge into num_bins=15"):
        StreamingMetrics().merge(StreamingMetrics(num_bins=10))
    three, four = StreamingMetrics(), StreamingMetrics()
    three.update(*random_probs(5, 3, seed=8))
    four.update(*random_probs(5, 4, seed=8))
    with pytest.raises(ValueError, match=r"C=4 classes; earlier batches had 3"):
        three.merge(four)
