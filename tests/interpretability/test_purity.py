"""Purity is a share counted by hand, whatever the order and the batches images come in."""

import re

import pytest
import torch

from bndl_hf.interpretability import FactorPurityCheck, factor_purity

SCORES = torch.tensor(
    [[0.9, 0.0, 0.2], [0.8, 0.0, 0.0], [0.7, 0.0, 0.0], [0.6, 0.0, 0.5], [0.5, 0.0, 0.0], [0.4, 0.0, 0.0]]
)
LABELS = torch.tensor([2, 0, 2, 2, 1, 1])


def test_shares_of_the_commonest_class_are_those_counted_by_hand():
    found = factor_purity(SCORES, LABELS, top=3)
    assert found.purity[0].item() == pytest.approx(2 / 3)
    assert found.purity[1].isnan()
    assert found.purity[2].item() == 1.0
    assert found.classes.tolist() == [2, -1, 2]
    assert found.top_images.tolist() == [[0, 1, 2], [-1, -1, -1], [3, 0, -1]]
    assert found.num_top.tolist() == [3, 0, 2]
    assert (found.top, found.num_images) == (3, 6)
    assert str(found) == (
        f"The 3 images that show a factor most are of one class to 83.3% on average over 2 factors "
        f"(chance {found.chance:.1%}); 1 of 3 are silent."
    )


def test_chance_is_what_random_images_of_these_classes_would_give():
    # Two of the six (3, 1, 2 a class): P(same class) = (3 + 0 + 1) / 15, so (4/15) * 1 + (11/15) * 1/2 = 19/30.
    # One draw's standard deviation is sqrt(4/15 * 11/15) / 2 = 0.22, the mean of 10,000 is within 4 x 0.0022.
    assert factor_purity(SCORES, LABELS, top=2).chance == pytest.approx(19 / 30, abs=0.0089)
    assert factor_purity(SCORES, LABELS, top=1).chance == 1.0
    assert factor_purity(SCORES, LABELS, top=100).chance == pytest.approx(0.5)  # all six


def test_more_images_than_there_are_are_all_of_them():
    found = factor_purity(SCORES, LABELS, top=8)
    assert found.num_top.tolist() == [6, 0, 2]
    assert found.purity[0].item() == 0.5
    assert found.top_images[0].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]


@pytest.mark.parametrize("batch_size", [1, 7, 3000])
def test_batches_say_what_all_images_at_once_say(batch_size):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 20, (300, 4), generator=generator).float()  # many ties
    labels = torch.randint(0, 5, (300,), generator=generator)
    labels[:10] = 0  # classes appear later
    whole = factor_purity(scores, labels, top=25)
    check = FactorPurityCheck(top=25)
    for rows, truth in zip(scores.split(batch_size), labels.split(batch_size), strict=True):
        check.update(rows, truth)
    for name, value in vars(check.report()).items():
        expected = getattr(whole, name)
        assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, name
    for k in range(4):
        naive = sorted(range(300), key=lambda i, k=k: (-scores[i, k].item(), i))[:25]
        assert whole.top_images[k].tolist() == naive


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"top": 0}, "top=0 must be 1 image or more."),
        ({"scores": SCORES[:3]}, "labels have shape [6]; one class for each of 3 images fits."),
        ({"scores": SCORES / 0}, "that are NaN or infinite"),
        ({"scores": -SCORES}, "scores holds -0.9; scores and loadings of factors are never negative."),
        ({"labels": LABELS - 1}, "labels run from -1 to 1; classes are 0 and above."),
        ({"labels": LABELS.float()}, "labels have dtype torch.float32; classes are whole numbers."),
        ({"scores": SCORES[:0], "labels": LABELS[:0]}, "scores has shape [0, 3]; [N, K], not empty, fits."),
    ],
)
def test_what_does_not_fit_is_an_error(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        factor_purity(**{"scores": SCORES, "labels": LABELS, "top": 2, **changes})


def test_batches_of_another_width_and_reports_of_nothing_are_errors():
    check = FactorPurityCheck()
    with pytest.raises(ValueError, match="No scores were seen"):
        check.report()
    check.update(SCORES, LABELS)
    with pytest.raises(ValueError, match=re.escape("[N, K] with K = 3, not empty, fits.")):
        check.update(SCORES[:, :2], LABELS)
