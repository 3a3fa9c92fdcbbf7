"""Prediction sets: the promised coverage, naive loops, and what the methods have in common."""

import json
import math

import numpy as np
import pytest
import torch

from bndl_hf.model.prediction_sets import ConformalPredictor
from bndl_hf.uncertainty import (
    coverage_by_set_size,
    fit_conformal,
    mean_set_size,
    set_coverage,
    size_stratified_violation,
)
from uncertainty.reference import random_probs

METHODS = ("lac", "aps", "raps")
PROBS, LABELS = random_probs(200, 6, seed=0)


def naive_score(row, c, method, penalty, free_ranks, u):
    """Score of class c, by sorting a list."""
    if method == "lac":
        return 1 - row[c]
    order = sorted(range(len(row)), key=lambda i: -row[i])
    rank = order.index(c) + 1
    mass = sum(row[i] for i in order[: rank - 1])
    return mass + u * row[c] + (penalty * max(0, rank - free_ranks) if method == "raps" else 0)


# ---- the fit ----


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_threshold_and_sets_are_those_of_a_naive_loop(method, randomized):
    options = {"penalty": 0.05, "free_ranks": 2, "randomized": randomized, "allow_empty": True}
    predictor = fit_conformal(PROBS, LABELS, 0.8, method, generator=torch.Generator().manual_seed(3), **options)
    lots = torch.rand(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if randomized else [0] * 200
    raps = (0.05, 2) if method == "raps" else (0.0, 0)
    assert (predictor.penalty, predictor.free_ranks) == raps
    rows = PROBS.tolist()
    scores = sorted(naive_score(rows[i], LABELS[i].item(), method, *raps, float(lots[i])) for i in range(200))
    assert predictor.threshold == pytest.approx(scores[math.ceil(201 * 0.8) - 1], abs=1e-12)
    new, _ = random_probs(50, 6, seed=1)
    lots = torch.rand(50, generator=torch.Generator().manual_seed(4), dtype=torch.float64) if randomized else [0] * 50
    expected = [
        [naive_score(row, c, method, *raps, float(u)) <= predictor.threshold for c in range(6)]
        for row, u in zip(new.tolist(), lots, strict=True)
    ]
    assert predictor.predict_sets(new, torch.Generator().manual_seed(4)).tolist() == expected


@pytest.mark.parametrize("options", [{}, {"randomized": True, "allow_empty": True}, {"class_conditional": True}])
@pytest.mark.parametrize("method", METHODS)
def test_coverage_over_many_splits_is_the_promised_one(method, options):
    # A model of poor accuracy, so that the most probable class alone covers less than was asked.
    probs, labels = random_probs(3000, 4, seed=2, sharpness=0.7)
    generator = torch.Generator().manual_seed(0)
    covered, sizes = [], []
    for _ in range(60):
        order = torch.randperm(3000, generator=generator)
        fit, new = order[:400], order[400:]
        predictor = fit_conformal(probs[fit], labels[fit], 0.85, method, generator=generator, **options)
        sets = predictor.predict_sets(probs[new], generator)
        covered.append(set_coverage(sets, labels[new]))
        sizes.append(mean_set_size(sets))
    # Splits of the same 3000 images share them, so their spread is no larger than that of independent ones.
    standard_error = math.sqrt(0.85 * 0.15 / 400 / 60)
    # In expectation 0.85 to 0.85 + 1 / (n + 1); ties of aps at zero and four classes of a hundred images add a little.
    slack = 4 * standard_error + 5 / 400
    assert 0.85 - 4 * standard_error < np.mean(covered) < 0.85 + slack
    assert 1 < np.mean(sizes) < 4


def test_class_conditional_sets_cover_every_class_where_marginal_ones_do_not():
    probs, labels = random_probs(6000, 3, seed=5)
    biased = probs * torch.tensor([1.0, 0.3, 1.0])  # a model that underrates class 1
    biased = biased / biased.sum(-1, keepdim=True)
    fit, new = slice(0, 3000), slice(3000, 6000)

    def of_class_1(**options):
        sets = fit_conformal(biased[fit], labels[fit], 0.9, "lac", **options).predict_sets(biased[new])
        return set_coverage(sets[labels[new] == 1], labels[new][labels[new] == 1])

    assert of_class_1() < 0.8
    assert of_class_1(class_conditional=True) == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 1000 * 2))


def test_raps_without_a_penalty_is_aps():
    aps = fit_conformal(PROBS, LABELS, 0.9, "aps")
    raps = fit_conformal(PROBS, LABELS, 0.9, "raps", penalty=0.0)
    assert raps.threshold == aps.threshold
    assert torch.equal(raps.predict_sets(PROBS), aps.predict_sets(PROBS))
    shorter = fit_conformal(PROBS, LABELS, 0.9, "raps", penalty=1.0, free_ranks=3).predict_sets(PROBS)
    assert shorter.sum(-1).max() == 3 < raps.predict_sets(PROBS).sum(-1).max()


def test_a_sure_answer_is_a_set_of_one_also_beside_hard_images():
    # With the class's own mass counted, the many right and sure answers would drive the threshold to nearly one.
    probs = torch.tensor([[0.999, 0.0005, 0.0005], [0.5, 0.3, 0.2]]).double()[[0] * 95 + [1] * 5]
    predictor = fit_conformal(probs, torch.tensor([0] * 95 + [1] * 5), 0.9, "aps")
    assert predictor.predict_sets(probs[[0, -1]]).sum(-1).tolist() == [1, 1]


def test_the_most_probable_class_is_in_every_set_unless_sets_may_be_empty():
    probs = torch.tensor([[0.9, 0.1]] * 19 + [[0.4, 0.6]])
    labels = torch.zeros(20, dtype=torch.long)
    kept, empty = (fit_conformal(probs, labels, 0.5, "lac", allow_empty=allow) for allow in (False, True))
    unsure = torch.tensor([[0.55, 0.45]])
    assert kept.predict_sets(unsure).tolist() == [[True, False]]
    assert empty.predict_sets(unsure).tolist() == [[False, False]]


def test_the_smallest_number_of_images_is_enough_and_one_less_is_not():
    probs, labels = random_probs(19, 3, seed=6)
    fit_conformal(probs, labels, 0.95, "lac")
    with pytest.raises(ValueError, match=r"coverage=0\.95 takes at least 19 held-out images; there are 18"):
        fit_conformal(probs[1:], labels[1:], 0.95, "lac")
    with pytest.raises(ValueError, match="at least 9 held-out images of class 2; there are 0"):
        fit_conformal(PROBS[LABELS != 2], LABELS[LABELS != 2], 0.9, class_conditional=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"coverage": 1.0}, r"coverage=1.0 is not in \(0, 1\)"),
        ({"coverage": math.nan}, r"coverage=nan is not in \(0, 1\)"),
        ({"method": "naps"}, "method='naps' is unknown"),
        ({"penalty": -1.0}, "penalty=-1.0 and free_ranks=5 must be zero or above"),
        ({"labels": LABELS[:-1]}, r"labels has shape \[199\]"),
        ({"labels": LABELS + 1}, "labels holds 6"),
        ({"prediction": PROBS * 2}, "probs sums to 2"),
        ({"prediction": PROBS.where(PROBS < 0.5, math.nan)}, "probs holds .* NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(change, says):
    with pytest.raises(ValueError, match=says):
        fit_conformal(**{"prediction": PROBS, "labels": LABELS, **change})


# ---- keeping it ----


@pytest.mark.parametrize("class_conditional", [False, True])
def test_a_predictor_survives_json(class_conditional):
    predictor = fit_conformal(PROBS, LABELS, 0.8, class_conditional=class_conditional)
    again = ConformalPredictor.from_dict(json.loads(json.dumps(predictor.to_dict())))
    assert again == predictor
    assert again.class_conditional == class_conditional


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "x"}, "method='x' is unknown"),
        ({"coverage": 0}, "coverage=0 is not in"),
        ({"threshold": [0.1, 0.2]}, "threshold holds 2 numbers for 6 classes"),
        ({"threshold": math.inf}, "threshold=inf must be finite"),
        ({"penalty": -1}, "penalty=-1 must be a finite number"),
        ({"surprise": 1}, "unknown: surprise"),
    ],
)
def test_a_damaged_description_is_refused_in_words(change, says):
    with pytest.raises(ValueError, match=says):
        ConformalPredictor.from_dict({**fit_conformal(PROBS, LABELS).to_dict(), **change})
    with pytest.raises(ValueError, match="missing: coverage"):
        ConformalPredictor.from_dict(
            {k: v for k, v in fit_conformal(PROBS, LABELS).to_dict().items() if k != "coverage"}
        )


def test_probabilities_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"probs has shape \[3, 2\]; these sets were fitted on 6 classes"):
        fit_conformal(PROBS, LABELS).predict_sets(torch.full((3, 2), 0.5))


# ---- judging sets ----


def test_judges_by_hand():
    sets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    labels = torch.tensor([0, 0, 1, 2, 0])
    assert set_coverage(sets, labels) == 3 / 5
    assert mean_set_size(sets) == 7 / 5
    by_size = coverage_by_set_size(sets, labels)
    assert (by_size.size, by_size.count, by_size.coverage) == ((0, 1, 2, 3), (1, 2, 1, 1), (0.0, 0.5, 1.0, 1.0))
    # sizes 0-1: 1 of 3; sizes 2-3: 2 of 2
    assert size_stratified_violation(sets, labels, 0.9) == pytest.approx(0.9 - 1 / 3)
    assert size_stratified_violation(sets, labels, 0.9, strata=[(2, 3)]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean_set_size(torch.ones(2, 3)), "sets has shape .* dtype torch.float32; booleans"),
        (lambda: set_coverage(torch.ones(2, 3).bool(), torch.tensor([0])), r"labels has shape \[1\]"),
        (lambda: set_coverage(torch.ones(0, 3).bool(), torch.zeros(0).long()), r"sets has shape \[0, 3\]"),
        (
            lambda: size_stratified_violation(torch.ones(2, 3).bool(), torch.tensor([0, 1]), 0.9, [(7, 9)]),
            r"holds none of the set sizes \[3\]",
        ),
    ],
)
def test_sets_of_the_wrong_kind_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
