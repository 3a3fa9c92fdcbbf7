"""Class bins of batches add up to what the functions of all images say."""

import pytest
import torch

from bndl_hf.uncertainty import brier_decomposition, brier_score, classwise_calibration_error
from bndl_hf.uncertainty.class_bins import class_bins


def batches(num_classes=7):
    generator = torch.Generator().manual_seed(0)
    probs = (3 * torch.randn(500, num_classes, generator=generator)).softmax(dim=-1)
    return probs, torch.randint(num_classes, (500,), generator=generator)


def test_sums_of_batches_give_the_numbers_of_all_images():
    probs, labels = batches()
    parts = [class_bins(p, y) for p, y in zip(probs.split(130), labels.split(130), strict=True)]
    bins = parts[0] + parts[1] + parts[2] + parts[3]
    assert bins.classwise_calibration_error == pytest.approx(classwise_calibration_error(probs, labels), abs=1e-13)
    whole, parts = brier_decomposition(probs, labels), bins.brier_decomposition
    for name in ("reliability", "resolution", "uncertainty", "within_bin"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), abs=1e-12), name
    score = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bin
    assert score == pytest.approx(brier_score(probs, labels), abs=1e-12)


def test_zero_and_one_fall_in_the_outer_bins():
    bins = class_bins(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), num_bins=4)
    assert bins.sums[0].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    assert bins.classwise_calibration_error == 0


def test_bins_of_other_classes_do_not_add_up():
    with pytest.raises(ValueError, match=r"\[7, 15\] and \[3, 15\] do not add up"):
        class_bins(*batches()) + class_bins(*batches(3))
