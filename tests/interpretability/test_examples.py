"""The rule that chooses example images."""

import dataclasses

import pytest
import torch

from bndl_hf.interpretability import ChosenExample, choose_examples
from bndl_hf.model.predictive import BNDLPrediction


def prediction(probs, verdict=None, statistic=None):
    probs = torch.tensor(probs)
    B = len(probs)
    zeros = torch.zeros(B)
    values = {field.name: zeros for field in dataclasses.fields(BNDLPrediction) if field.default is dataclasses.MISSING}
    values |= {"probs": probs, "predicted_labels": probs.argmax(-1)}
    return BNDLPrediction(
        **values,
        verdict=None if verdict is None else torch.tensor(verdict),
        fisher_statistic=None if statistic is None else torch.tensor(statistic),
    )


PROBS = [[0.99, 0.005, 0.005], [0.98, 0.02, 0.0], [0.01, 0.97, 0.02], [0.5, 0.49, 0.01], [0.4, 0.35, 0.25]]


def test_the_surest_the_most_torn_and_the_least_familiar_with_a_class_each():
    judged = prediction([*PROBS, [0.1, 0.1, 0.8]], [0, 0, 0, 1, 1, 2], [1.0, 1.0, 1.0, 1.0, 2.0, 5.0])
    outside = prediction([[0.1, 0.2, 0.7], [0.9, 0.1, 0.0]], [2, 2], [9.0, 4.0])
    found = choose_examples(judged, {"noise": outside})
    assert found == [
        ChosenExample("surest", "", 0),
        ChosenExample("surest", "", 2),  # row 1 is surer, but answers the same class
        ChosenExample("most torn", "", 3),
        ChosenExample("most torn", "", 4),
        ChosenExample("most unfamiliar", "noise", 0),
        ChosenExample("most unfamiliar", "noise", 1),  # row 5 is less familiar, but answers the same class
    ]


def test_without_verdicts_and_familiarity_there_are_the_surest_and_the_most_torn():
    found = choose_examples(prediction(PROBS), num_each=1)
    assert found == [ChosenExample("surest", "", 0), ChosenExample("most torn", "", 3)]


def test_equal_probabilities_are_told_apart_by_the_gap():
    judged = prediction([[1.0, 0.0], [1.0, 0.0]])
    judged.gap_ratio = torch.tensor([2.0, 3.0])
    assert choose_examples(judged, num_each=1)[0].row == 1


def test_nothing_to_choose_from_is_said():
    with pytest.raises(ValueError, match="num_each=0 of 5 images chooses nothing"):
        choose_examples(prediction(PROBS), num_each=0)
