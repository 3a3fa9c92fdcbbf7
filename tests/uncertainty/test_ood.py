"""Out-of-distribution scores by hand, by a loop over pairs, and against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bndl_hf.uncertainty import ood_aupr, ood_auroc, ood_fpr95

from . import reference

METRICS = [ood_auroc, ood_fpr95, ood_aupr]


def overlapping_scores(tied, seed=0):
    """Scores of 300 in-distribution and 200 out-of-distribution images, continuous or in steps that tie."""
    generator = torch.Generator().manual_seed(seed)
    score_in = torch.randn(300, generator=generator, dtype=torch.float64)
    score_out = torch.randn(200, generator=generator, dtype=torch.float64) + 1
    return ((2 * score_in).round() / 2, (2 * score_out).round() / 2) if tied else (score_in, score_out)


def stacked(score_in, score_out):
    """Truth (1 = out) and score of all images, as scikit-learn wants them."""
    return torch.cat([torch.zeros(len(score_in)), torch.ones(len(score_out))]), torch.cat([score_in, score_out])


@pytest.mark.parametrize("tied", [False, True])
def test_auroc_is_scikit_learns_and_that_of_a_loop_over_pairs(tied):
    score_in, score_out = overlapping_scores(tied)
    value = ood_auroc(score_in, score_out)
    assert value == pytest.approx(roc_auc_score(*stacked(score_in, score_out)), rel=1e-12)
    assert value == pytest.approx(reference.auroc(score_in.tolist(), score_out.tolist()), rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_aupr_is_scikit_learns_average_precision(tied):
    score_in, score_out = overlapping_scores(tied)
    truth, score = stacked(score_in, score_out)
    assert ood_aupr(score_in, score_out) == pytest.approx(average_precision_score(truth, score), rel=1e-12)
    assert ood_aupr(score_in, score_out, "in") == pytest.approx(average_precision_score(1 - truth, -score), rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_fpr95_is_read_off_scikit_learns_roc_curve(tied):
    score_in, score_out = overlapping_scores(tied)
    truth, score = stacked(score_in, score_out)
    for positive, sign in (("out", 1), ("in", -1)):
        positives = truth if positive == "out" else 1 - truth
        false_positive, true_positive, _ = roc_curve(positives, sign * score, drop_intermediate=False)
        expected = false_positive[true_positive >= 0.95][0]
        assert ood_fpr95(score_in, score_out, positive) == pytest.approx(expected, rel=1e-12)


def test_by_hand():
    score_in, score_out = torch.tensor([0.1, 0.2, 0.3, 0.8]), torch.tensor([0.5, 0.9])
    assert ood_auroc(score_in, score_out) == 7 / 8  # all pairs but (.8, .5)
    assert ood_fpr95(score_in, score_out) == 1 / 4  # to catch .5, everything from .5 on is flagged: .8 too
    assert ood_fpr95(score_in, score_out, positive="in") == 1 / 2  # to keep .8, everything up to .8 is kept: .5 too
    assert ood_aupr(score_in, score_out) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_separated_scores_are_perfect_and_swapped_ones_the_worst():
    low, high = torch.zeros(30), torch.ones(20)
    assert (ood_auroc(low, high), ood_fpr95(low, high), ood_aupr(low, high)) == (1.0, 0.0, 1.0)
    assert (ood_auroc(high, low), ood_fpr95(high, low), ood_aupr(high, low)) == (0.0, 1.0, 30 / 50)


def test_constant_score_is_chance():
    same = torch.full((10,), 0.3)
    assert (ood_auroc(same, same), ood_fpr95(same, same), ood_aupr(same, same)) == (0.5, 1.0, 0.5)


def test_swapping_sides_and_negating_scores_changes_nothing():
    score_in, score_out = overlapping_scores(tied=True)
    assert ood_auroc(-score_out, -score_in) == pytest.approx(ood_auroc(score_in, score_out), rel=1e-12)


def test_infinite_scores_are_ranked():
    assert ood_auroc(torch.tensor([0.0, -math.inf]), torch.tensor([math.inf, 0.0])) == 3.5 / 4


def test_exact_counts_survive_large_sets():
    # 200,000 x 200,000 pairs do not fit in int32; every score ties.
    assert ood_auroc(torch.zeros(200_000), torch.zeros(200_000)) == 0.5


@pytest.mark.parametrize("metric", METRICS)
def test_empty_side_is_named(metric):
    with pytest.raises(ValueError, match=r"score_in has shape \[0\].*B >= 1"):
        metric(torch.tensor([]), torch.ones(3))
    with pytest.raises(ValueError, match=r"score_out has shape \[0\].*B >= 1"):
        metric(torch.ones(3), torch.tensor([]))


@pytest.mark.parametrize("metric", METRICS)
def test_nan_score_is_named(metric):
    with pytest.raises(ValueError, match=r"score_out holds 1 NaN of 2 values"):
        metric(torch.ones(3), torch.tensor([0.1, math.nan]))


@pytest.mark.parametrize("metric", [ood_fpr95, ood_aupr])
def test_unknown_side_is_named(metric):
    with pytest.raises(ValueError, match=r"positive='ood' is unknown. Pass one of 'out', 'in'"):
        metric(torch.ones(3), torch.ones(3), positive="ood")
