"""Published numbers beside ours: what is drawn where."""

import numpy as np
import pytest

from bndl_hf.plots import published_comparison_plot

PANELS = {
    "accuracy, %": {"paper": {"dense": (95.0, 0.1), "ours": (96.0, None)}, "measured": {"ours": (94.0, 0.5)}},
    "sparsity": {"paper": {"dense": (0.97, None)}},
}


def points(axes):
    """{series: [[mean, place], ...]} of a panel."""
    return {one.get_label(): np.column_stack(one[0].get_data()).tolist() for one in axes.containers}


def test_every_number_stands_in_its_systems_row_a_series_beside_the_other():
    left, right = published_comparison_plot(PANELS, title="Table").axes
    assert points(left) == {"paper": [[95.0, -0.125], [96.0, 0.875]], "measured": [[94.0, 1.125]]}
    assert points(right) == {"paper": [[0.97, -0.125]], "measured": []}
    assert [label.get_text() for label in left.get_yticklabels()] == ["dense", "ours"]
    assert left.get_title(loc="left") == "Table"
    assert left.get_xlabel() == "accuracy, %"


def test_rows_stand_in_the_order_asked_for():
    left, _ = published_comparison_plot(PANELS, ["ours", "nobody", "dense"]).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["ours", "dense"]
    with pytest.raises(ValueError, match="systems lacks dense, of which panels has numbers"):
        published_comparison_plot(PANELS, ["ours"])


def test_bars_are_standard_deviations():
    left, _ = published_comparison_plot(PANELS).axes
    (bars,) = (one for one in left.containers if one.get_label() == "measured")
    segments = bars[2][0].get_segments()
    np.testing.assert_allclose(segments, [[[93.5, 1.125], [94.5, 1.125]]])


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels is empty"),
        ({"accuracy": {"paper": {}}}, r"panels\['accuracy'\] has no number"),
        ({"accuracy": {str(i): {"dense": (1.0, None)} for i in range(8)}}, "8 series arrived; 7 can be told apart"),
    ],
)
def test_what_cannot_be_drawn_is_named(panels, message):
    with pytest.raises(ValueError, match=message):
        published_comparison_plot(panels)
