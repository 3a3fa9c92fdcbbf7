"""The verdict: precedence, reasons in words, and rules that a file may hold."""

import dataclasses
from typing import Any

import pytest
import torch

from bndl_hf.model.verdicts import VerdictRule, as_percentage, describe, listed

RULE = VerdictRule(0.02, 0.05, 0.9, 0.95, 0.99, 14.0, 500, ((0.5, 0.1, 0.9), (0.9, 0.02, 0.7), (0.95, 0.01, 0.6)))


def test_unfamiliar_comes_before_sure_and_sure_before_torn() -> None:
    probs = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.6, 0.4], [0.6, 0.4]])
    is_familiar = RULE.is_familiar(torch.tensor([13.0, 15.0, 14.0, 99.0]))
    assert is_familiar is not None
    assert RULE.verdicts(probs, is_familiar).tolist() == [0, 2, 1, 2]
    assert RULE.verdicts(probs, None).tolist() == [0, 0, 1, 1]
    nothing = dataclasses.replace(RULE, threshold=None)
    assert nothing.verdicts(probs, None).tolist() == [1, 1, 1, 1]


def test_a_rule_that_needs_a_lost_statistic_says_so() -> None:
    with pytest.raises(ValueError, match="by a statistic this model has lost; call set_decisions"):
        RULE.is_familiar(None)


def test_other_risks_have_thresholds_of_their_own() -> None:
    found = [RULE.threshold_at(risk) for risk in (0.02, 0.1, 0.05, 0.01, 0.005)]
    assert found == [0.9, 0.5, 0.9, 0.95, None]
    with pytest.raises(ValueError, match=r"risk=2 must lie in \(0, 1\)"):
        RULE.threshold_at(2)


def test_a_rule_survives_json() -> None:
    assert VerdictRule.from_dict(RULE.to_dict()) == RULE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"risk": 1.5}, r"risk=1.5 must be a fraction in \(0, 1\)\."),
        ({"coverage": "0.9"}, r"coverage='0.9' must be a fraction in \(0, 1\) or None"),
        ({"threshold": 2.0}, "threshold=2.0 must be a probability"),
        ({"unfamiliar_above": float("nan")}, "unfamiliar_above=nan must be a finite number"),
        ({"familiar": None}, "familiar=None and unfamiliar_above=14.0 go together"),
        ({"num_held_out": True}, "num_held_out=True must be a whole number"),
        ({"risk_curve": [[0.9, 0.1]]}, "risk_curve holds"),
        ({"risk_curve": [[0.9, 0.1, 0.5], [0.5, 0.2, 0.6]]}, "risk_curve must ascend"),
        ({"risk_curve": 3}, "risk_curve=3 must be a list"),
        ({"other": 3}, "unknown: other"),
    ],
)
def test_what_is_no_rule_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VerdictRule.from_dict({**RULE.to_dict(), **changes})


@pytest.mark.parametrize(
    ("probs", "verdict", "in_set", "sentence"),
    [
        ([0.98, 0.02, 0.0], "sure", None, "cat, 98 %: sure, at most 2 % of answers this sure are wrong"),
        (
            [0.61, 0.33, 0.06],
            "torn",
            [True, True, False],
            "cat, 61 %: torn, cat (61 %) or dog (33 %); 95 % of such sets hold the right class",
        ),
        ([0.9, 0.1, 0.0], "torn", [True, False, False], "cat, 90 %: torn, too unsure to promise 2 % errors"),
        ([0.9, 0.1, 0.0], "torn", None, "cat, 90 %: torn, too unsure to promise 2 % errors"),
        ([0.1, 0.9, 0.0], "unfamiliar", None, "dog, 90 %: unfamiliar, unlike 99 % of the images it was checked on"),
        ([0.1, 0.9, 0.0], None, None, "dog, 90 %"),
    ],
)
def test_an_answer_reads_as_a_sentence(probs: list[float], verdict: Any, in_set: Any, sentence: str) -> None:
    assert describe(probs, ["cat", "dog", "owl"], verdict, RULE, in_set).startswith(sentence)


def test_long_sets_are_counted_and_percentages_never_certain() -> None:
    assert listed(["a", "b", "c", "d"]) == "a, b, c or d"
    assert listed([*"abcdefg"]) == "a, b, c or 4 others"
    assert [as_percentage(p) for p in (0.0, 0.0004, 0.001, 0.015, 0.5, 0.985, 0.9993, 1.0)] == [
        "< 0.1 %",
        "< 0.1 %",
        "0.1 %",
        "1.5 %",
        "50 %",
        "98.5 %",
        "> 99.9 %",
        "> 99.9 %",
    ]
