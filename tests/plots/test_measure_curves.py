"""Measures against one quantity: what is drawn where."""

import numpy as np
import pytest

from bndl_hf.plots import measure_curves_plot

CURVES = {"ours": {"x": [1, 2], "y": [50.0, 60.0], "sd": [1.0, 2.0]}, "theirs": {"x": [1, 2], "y": [40.0, 45.0]}}


def test_curves_bands_and_the_diagonal_stand_where_they_should():
    figure = measure_curves_plot({"accuracy, %": CURVES, "NLL": {"theirs": CURVES["theirs"]}}, "labels", "t", ["NLL"])
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_xydata(), [[1, 50], [2, 60]])
    (band,) = left.collections
    assert (band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()) == (49, 62)
    assert left.lines[1].get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    np.testing.assert_array_equal(*right.lines[1].get_data())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]


@pytest.mark.parametrize(
    ("panels", "diagonal", "message"),
    [
        ({}, [], "panels must not be empty"),
        ({"NLL": {}}, [], "panels must not be empty"),
        ({"NLL": CURVES}, ["ECE"], "diagonal names ECE; panels are NLL"),
        ({"NLL": {"a": {"x": [1, 2], "y": [1]}}}, [], r"panels\['NLL'\]\['a'\]\['y'\] has shape \[1\]; \[2\] fits"),
        ({"NLL": {str(i): CURVES["ours"] for i in range(8)}}, [], "8 curves arrived; 7 can be told apart"),
    ],
)
def test_what_cannot_be_drawn_is_named(panels, diagonal, message):
    with pytest.raises(ValueError, match=message):
        measure_curves_plot(panels, "x", "t", diagonal)
