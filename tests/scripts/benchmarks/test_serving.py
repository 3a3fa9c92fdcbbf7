"""serving.py: what it calls right and wrong; its processes are those of tests/hub/test_handler.py and test_space.py."""

import pytest

from script_modules import load_script


@pytest.mark.parametrize(
    ("says", "answered", "message", "expected"),
    [
        (None, True, "cat", "answered"),
        (None, False, "cut short", "wrongly refused: cut short"),
        ("too large", False, "it is too large: 9", "refused"),
        ("too large", True, "cat", "wrongly answered"),
        ("too large", False, "Error", "refused otherwise: Error"),
    ],
)
def test_an_outcome_is_right_only_where_it_is_what_the_file_deserves(says, answered, message, expected):
    serving, images = load_script("benchmarks/serving"), load_script("benchmarks/hostile_images")
    assert serving.outcome(images.Sent(b"", says), answered, message) == expected
