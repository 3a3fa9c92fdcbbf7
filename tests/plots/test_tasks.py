"""The figure of heads on tasks: what is drawn where."""

import numpy as np
import pytest

from bndl_hf.plots import task_comparison_plot

RATIOS = {"ours": [0.95, 1.0], "theirs": [1.2, 11.0]}
RANKS = {"NLL": {"ours": 1.0, "theirs": 2.0}, "AURC": {"ours": 1.5, "theirs": 1.5}}


def test_excess_is_in_percent_over_the_best_rival():
    left, right = task_comparison_plot(["a", "b"], RATIOS, RANKS).axes
    ours, theirs = (dots.get_offsets() for dots in left.collections)
    np.testing.assert_allclose(ours, [[-5, -0.125], [0, 0.875]])
    np.testing.assert_allclose(theirs, [[20, 0.125], [1000, 1.125]])
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in right.get_yticklabels()] == ["ours", "theirs"]


@pytest.mark.parametrize(
    ("tasks", "ratios", "ranks", "message"),
    [
        ([], RATIOS, RANKS, "must not be empty"),
        (["a"], RATIOS, RANKS, r"ratios\['ours'\] has shape \[2\]; \[1\] fits"),
        (["a", "b"], {"ours": [1.0, 0.0]}, {"NLL": {"ours": 1.0}}, "ratios of ours are not above 0"),
        (["a", "b"], {"ours": [1.0, 1.0]}, RANKS, "ranks name theirs, which ratios lack"),
    ],
)
def test_what_cannot_be_drawn_is_named(tasks, ratios, ranks, message):
    with pytest.raises(ValueError, match=message):
        task_comparison_plot(tasks, ratios, ranks)
