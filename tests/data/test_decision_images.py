"""Images for verdicts: neither trained on nor reported, as many as the promise takes."""

import numpy as np
import pytest

from bndl_hf.data import DataArguments, load_image_dataset
from bndl_hf.data.columns import ROW_COLUMN, column_values
from bndl_hf.data.decision_images import hold_out_for_decisions

DIGITS = DataArguments("digits")


@pytest.fixture(scope="module")
def digits():
    return load_image_dataset(DIGITS)


def rows(part) -> set[int]:
    return set(part[ROW_COLUMN])


def test_held_out_images_are_of_every_class_and_are_not_trained_on(digits) -> None:
    train, decisions = hold_out_for_decisions(digits, DIGITS, fraction=0.2)
    assert decisions is not None
    assert rows(train.train) | rows(decisions.validation) == rows(digits.train)
    assert not rows(train.train) & rows(decisions.validation)
    counts = np.bincount(column_values(decisions.validation, digits.label_column), minlength=10)
    assert counts.sum() == round(0.2 * 1438)
    assert counts.min() >= 27
    again = hold_out_for_decisions(digits, DIGITS, fraction=0.2)[1]
    assert rows(again.validation) == rows(decisions.validation)
    assert train.validation is None  # nothing else chooses on them
    assert len(train.test) == 359


@pytest.mark.parametrize(
    ("fraction", "at_least", "count"),
    [(0.1, 0, 144), (0.1, 149, 149), (0.1, 500, 144), (0.0, 149, None)],
    ids=["a tenth", "what the promise takes", "too many to take", "none"],
)
def test_as_many_as_the_promise_takes_unless_that_is_too_many(digits, fraction, at_least, count) -> None:
    train, decisions = hold_out_for_decisions(digits, DIGITS, fraction, at_least=at_least)
    assert (None if decisions is None else len(decisions.validation)) == count
    assert len(train.train) == 1438 - (count or 0)


def test_validation_images_serve_where_there_are_any() -> None:
    arguments = DataArguments("digits", validation_fraction=0.1)
    dataset = load_image_dataset(arguments)
    train, decisions = hold_out_for_decisions(dataset, arguments, at_least=149)
    assert train is decisions is dataset


def test_a_split_of_their_own_is_read_and_must_be_one(digits) -> None:
    with pytest.raises(ValueError, match="no split 'calibration'"):
        hold_out_for_decisions(digits, DIGITS, split="calibration")
    with pytest.raises(ValueError, match="decision_split='test' is the split of the test images"):
        hold_out_for_decisions(digits, DIGITS, split="test")
    with pytest.raises(ValueError, match=r"decision_fraction=1\.0 is not a share"):
        hold_out_for_decisions(digits, DIGITS, fraction=1.0)
