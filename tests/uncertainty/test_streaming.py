"""Batch by batch, or over several processes, the numbers are those of the functions."""

import pickle
from array import array

import pytest
import torch

from bndl_hf import uncertainty
from bndl_hf.uncertainty import StreamingMetrics, StreamingScores
from bndl_hf.uncertainty.scores import append, joined

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
        elif name.endswith("calibration_error"):
            expected = function(probs, labels, num_bins)
        else:
            expected = function(confidence, correct)
        assert value == pytest.approx(expected, rel=1e-12), name
    assert set(values) == {
        "accuracy",
        "negative_log_likelihood",
        "brier_score",
        "expected_calibration_error",
        "adaptive_calibration_error",
        "classwise_calibration_error",
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


def test_images_keep_nine_bytes_and_nothing_is_kept_for_a_batch():
    few, many = (batchwise(*random_probs(count, 50, seed=5), [10] * (count // 10)) for count in (1000, 9000))
    # Pickled without the unused room; the bins of every class and the names take the same in both.
    assert len(pickle.dumps(many)) - len(pickle.dumps(few)) == pytest.approx(9 * 8000, abs=100)


def test_numbers_read_early_stay_as_they_were_when_more_arrive():
    kept, parts = array("d"), torch.arange(30_000.0, dtype=torch.float64).split([1, 7_000, 0, 22_999])
    for part in parts:
        early = joined(kept)
        append(kept, part)
    assert torch.equal(joined(kept), torch.arange(30_000.0, dtype=torch.float64))
    assert torch.equal(early, torch.arange(7_001.0, dtype=torch.float64))


def test_failed_update_leaves_no_trace():
    probs, labels = random_probs(20, 3, seed=6)
    metrics = batchwise(probs, labels, [20])
    before = metrics.compute()
    with pytest.raises(ValueError, match=r"confidence has 2 values for 20 images"):
        metrics.update(probs, labels, confidence=torch.ones(2))
    with pytest.raises(ValueError, match=r"probs has C=4 classes; earlier batches had 3"):
        metrics.update(*random_probs(20, 4, seed=7))
    assert metrics.compute() == before


def draws_of(probs, seed):
    """Five draws of logits around these probabilities, [S, B, C]."""
    noise = torch.randn(5, *probs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return probs.log() + noise


def test_pavpu_counts_and_scores_stream_without_their_draws():
    probs, labels = random_probs(60, 3, seed=9)
    draws, entropy = draws_of(probs, seed=1), -(probs * probs.log()).sum(dim=-1)
    metrics, shares = StreamingMetrics(), (StreamingMetrics(), StreamingMetrics())
    for share, rows in zip(shares, (slice(0, 25), slice(25, 60)), strict=True):
        counts = uncertainty.pavpu(draws[:, rows], labels[rows], values="probabilities")
        share.update(probs[rows], labels[rows], counts=counts, scores={"entropy": entropy[rows]})
        metrics.merge(share)
    assert metrics.pavpu_counts == uncertainty.pavpu(draws, labels, values="probabilities")
    assert metrics.compute()["pavpu"] == metrics.pavpu_counts.pavpu
    assert torch.equal(metrics.scores["entropy"], entropy)
    streamed = uncertainty.accuracy_by_uncertainty_decile(metrics.scores["entropy"], metrics.correct)
    whole = uncertainty.accuracy_by_uncertainty_decile(entropy, probs.argmax(dim=-1) == labels)
    assert torch.equal(streamed.accuracy, whole.accuracy)


def test_brier_parts_stream():
    probs, labels = random_probs(200, 4, seed=10)
    streamed = batchwise(probs, labels, [150, 50], num_bins=7).brier_decomposition
    whole = uncertainty.brier_decomposition(probs, labels, num_bins=7)
    for part in ("reliability", "resolution", "uncertainty", "within_bin"):
        assert getattr(streamed, part) == pytest.approx(getattr(whole, part), rel=1e-10), part


def test_classwise_bins_can_be_left_out():
    metrics = batchwise(*random_probs(20, 3, seed=11), [20], classwise=False)
    assert "classwise_calibration_error" not in metrics.compute()
    with pytest.raises(ValueError, match=r"classwise=False, num_images=20: the parts need the bins of every class"):
        _ = metrics.brier_decomposition


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"confidence": torch.ones(5)}, r"confidence is given here and was missing for the 5 images so far"),
        ({"confidence": torch.ones(5)}, {}, r"confidence is missing here and was given for the 5 images so far"),
        ({}, {"scores": {"z": torch.ones(5)}}, r"scores has z; earlier batches had none"),
        ({"scores": {"z": torch.ones(5)}}, {}, r"scores has none; earlier batches had z"),
        ({}, {"scores": {"z": torch.ones(4)}}, r"z has 4 values for 5 images"),
        ({}, {"scores": {"z": torch.full((5,), torch.nan)}}, r"z holds 5 NaN of 5 values"),
    ],
)
def test_extras_come_with_every_batch_or_with_none(first, second, message):
    probs, labels = random_probs(5, 3, seed=12)
    metrics = StreamingMetrics()
    metrics.update(probs, labels, **first)
    before = metrics.compute()
    with pytest.raises(ValueError, match=message):
        metrics.update(probs, labels, **second)
    assert metrics.compute() == before
    share = StreamingMetrics()
    if "values" not in message and "NaN" not in message:
        share.update(probs, labels, **second)
        with pytest.raises(ValueError, match=message):
            metrics.merge(share)


def test_counts_of_another_batch_are_named():
    probs, labels = random_probs(5, 3, seed=13)
    with pytest.raises(ValueError, match=r"counts has 4 images for 5 rows of probs"):
        StreamingMetrics().update(probs, labels, counts=uncertainty.pavpu(draws_of(probs, 0)[:, :4], labels[:4]))


def test_scores_of_an_unlabelled_set_stream():
    images, ood = StreamingScores(), StreamingScores()
    generator = torch.Generator().manual_seed(14)
    low, high = torch.rand(30, generator=generator), torch.rand(20, generator=generator) + 0.3
    for part in low.split(7):
        images.update({"score": part})
    share = StreamingScores()
    share.update({"score": high[8:]})
    ood.update({"score": high[:8]})
    ood.merge(pickle.loads(pickle.dumps(share)))
    assert (images.num_images, ood.num_images) == (30, 20)
    streamed = uncertainty.ood_auroc(images.scores["score"], ood.scores["score"])
    assert streamed == uncertainty.ood_auroc(low, high)
    with pytest.raises(ValueError, match=r"scores has other; earlier batches had score"):
        images.update({"other": torch.ones(3)})
    with pytest.raises(ValueError, match=r"b has 2 values for 3 images"):
        StreamingScores().update({"a": torch.ones(3), "b": torch.ones(2)})


def test_nothing_judged_is_an_error():
    with pytest.raises(ValueError, match=r"num_images=0: nothing was judged yet"):
        StreamingMetrics().compute()


def test_shares_of_other_settings_do_not_merge():
    with pytest.raises(ValueError, match=r"\(10, True\) does not merge into \(15, True\)"):
        StreamingMetrics().merge(StreamingMetrics(num_bins=10))
    three, four = StreamingMetrics(), StreamingMetrics()
    three.update(*random_probs(5, 3, seed=8))
    four.update(*random_probs(5, 4, seed=8))
    with pytest.raises(ValueError, match=r"C=4 classes; earlier batches had 3"):
        three.merge(four)
