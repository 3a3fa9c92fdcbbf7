"""What results.json of a card says of verdicts, counted by hand."""

import dataclasses

import pytest
import torch

from bndl_hf.evaluation import judge_answers
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.model.verdicts import VerdictRule
from bndl_hf.uncertainty import realised_verdicts

RULE = VerdictRule(0.02, 0.05, 0.9, 0.95, 0.99, 3.0, 500)


def prediction(probs, verdict, statistic):
    probs = torch.tensor(probs)
    zeros = torch.zeros(len(probs))
    values = {field.name: zeros for field in dataclasses.fields(BNDLPrediction) if field.default is dataclasses.MISSING}
    values |= {"probs": probs, "predicted_labels": probs.argmax(-1)}
    more = {"verdict": torch.tensor(verdict), "fisher_statistic": torch.tensor(statistic), "rule": RULE}
    return BNDLPrediction(**values, prediction_sets=probs > 0.3, **more)


JUDGED = prediction([[0.95, 0.05], [0.08, 0.92], [0.6, 0.4], [0.8, 0.2]], [0, 0, 1, 2], [1.0, 1.0, 2.0, 4.0])


def test_shares_and_errors_are_counted():
    labels = torch.tensor([0, 0, 1, 0])  # the second sure answer is wrong; the torn one's set holds both classes
    found = realised_verdicts(JUDGED, labels, {"noise": prediction([[0.5, 0.5]], [2], [9.0])})
    assert (found["share_sure"], found["share_torn"], found["share_unfamiliar"]) == (0.5, 0.25, 0.25)
    assert (found["num_sure"], found["errors_among_sure"]) == (2, 0.5)
    assert (found["set_coverage"], found["mean_set_size"]) == (1.0, 2.0)
    assert (found["unfamiliar"], found["familiarity_auroc"], found["num_outsiders"]) == (
        {"noise": 1.0}, {"noise": 1.0}, {"noise": 1},
    )  # fmt: skip


def test_any_label_that_is_right_counts_and_images_without_one_do_not():
    right = torch.tensor([[True, False], [True, True], [False, True], [False, False]])
    results = judge_answers(JUDGED, torch.tensor([0, 0, 1, 0]), right=right)
    assert results["accuracy"] == 0.5
    assert results["all_right_labels"] == {"num_images": 3, "accuracy": pytest.approx(2 / 3), "errors_among_sure": 0.0}
    assert results["risk_coverage"] == {"coverage": [0.25, 0.5, 0.75, 1.0], "risk": [0.0, 0.5, 0.33333, 0.5]}
    assert results["deciles"]["entropy"]["accuracy"][0] in (0.0, 0.5, 1.0)


def test_without_verdicts_nothing_is_said_of_them():
    bare = dataclasses.replace(JUDGED, rule=None, verdict=None)
    assert judge_answers(bare, torch.tensor([0, 0, 1, 0]))["verdicts"] is None
    with pytest.raises(ValueError, match=r"The prediction has no verdicts; call model\.set_decisions"):
        realised_verdicts(bare)
