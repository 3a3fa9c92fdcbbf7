"""Accuracy and proper scores against scikit-learn, naive loops and answers known by hand."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from bndl_hf.uncertainty import accuracy, brier_decomposition, brier_score, negative_log_likelihood

from . import reference


def test_scores_are_those_of_scikit_learn():
    probs, labels = reference.random_probs(300, 5, seed=0)
    assert accuracy(probs, labels) == accuracy_score(labels, probs.argmax(dim=-1))
    assert negative_log_likelihood(probs, labels) == pytest.approx(log_loss(labels, probs.numpy()), rel=1e-12)
    expected = brier_score_loss(labels, probs.numpy(), labels=list(range(5)), scale_by_half=False)
    assert brier_score(probs, labels) == pytest.approx(expected, rel=1e-12)


def test_two_class_brier_is_twice_scikit_learns_default():
    probs, labels = reference.random_probs(300, 2, seed=1)
    assert brier_score(probs, labels) == pytest.approx(2 * brier_score_loss(labels, probs[:, 1].numpy()), rel=1e-12)


def test_negative_log_likelihood_is_that_of_a_loop():
    probs, labels = reference.random_probs(50, 3, seed=2)
    expected = reference.negative_log_likelihood(probs, labels)
    assert negative_log_likelihood(probs, labels) == pytest.approx(expected, rel=1e-12)


def test_perfect_prediction():
    labels = torch.tensor([0, 2, 1])
    probs = torch.eye(3)[labels]
    assert accuracy(probs, labels) == 1.0
    assert negative_log_likelihood(probs, labels) == 0.0
    assert brier_score(probs, labels) == 0.0


def test_uniform_prediction():
    probs, labels = torch.full((4, 5), 0.2, dtype=torch.float64), torch.tensor([0, 1, 4, 0])
    assert negative_log_likelihood(probs, labels) == pytest.approx(math.log(5), rel=1e-12)
    assert brier_score(probs, labels) == pytest.approx(1 - 1 / 5, rel=1e-12)
    assert accuracy(probs, labels) == 0.5  # the first of equal classes is predicted


def test_certain_and_wrong_is_finite():
    probs, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    assert negative_log_likelihood(probs, labels) == pytest.approx(-math.log(2.2250738585072014e-308), rel=1e-12)
    assert brier_score(probs, labels) == 2.0


def test_float32_probabilities_are_summed_in_float64():
    # A million rows of loss log 2: a float32 running sum would be off in the fourth digit.
    probs, labels = torch.full((1_000_000, 2), 0.5), torch.zeros(1_000_000, dtype=torch.int64)
    assert negative_log_likelihood(probs, labels) == pytest.approx(math.log(2), rel=1e-12)


def test_arguments_are_left_as_they_are():
    probs, labels = reference.random_probs(5, 3, seed=9)
    before = probs.clone()
    brier_score(probs.requires_grad_(), labels)
    assert torch.equal(probs.detach(), before)


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_brier_parts_add_up_to_the_score(num_bins):
    probs, labels = reference.random_probs(300, 4, seed=3)
    parts = brier_decomposition(probs, labels, num_bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bin
    assert total == pytest.approx(brier_score(probs, labels), rel=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


def test_brier_parts_by_hand():
    # Class 0 has probability .8 four times (true three times) and .2 four times (true once); class 1 mirrors it.
    top = torch.tensor([0.8] * 4 + [0.2] * 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1])
    parts = brier_decomposition(torch.stack([top, 1 - top], dim=-1), labels, num_bins=5)
    assert parts.reliability == pytest.approx(2 * 0.05**2)  # |.8 - .75| = |.2 - .25| = .05, two classes
    assert parts.resolution == pytest.approx(2 * 0.25**2)  # |.75 - .5| = .25
    assert parts.uncertainty == pytest.approx(2 * 0.25)
    assert parts.within_bin == pytest.approx(0.0, abs=1e-15)  # one probability in each bin: Murphy's terms are all


def test_brier_parts_of_constant_base_rates_are_uncertainty_alone():
    parts = brier_decomposition(torch.tensor([[0.75, 0.25]]).expand(4, 2), torch.tensor([0, 0, 0, 1]))
    assert parts.uncertainty == pytest.approx(2 * 0.75 * 0.25)
    assert (parts.reliability, parts.resolution, parts.within_bin) == pytest.approx((0, 0, 0), abs=1e-15)
