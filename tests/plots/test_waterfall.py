"""A waterfall ends where its parts add up to, and its whiskers are as long as it was told."""

import re

import numpy as np
import pytest
import torch

from bndl_hf.plots import waterfall_plot

PARTS = {"parts": torch.tensor([2.0, -1.5]), "rest": torch.tensor(0.5), "bias": -0.25}


def bars(figure):
    """(left, width, colour) of every bar."""
    return [(bar.get_x(), bar.get_width(), bar.get_facecolor()) for bar in figure.axes[0].patches]


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_bar_begins_where_the_one_above_ends():
    figure = waterfall_plot(**PARTS, factors=torch.tensor([7, 3]), total="gap", title="Why a cat and not a dog?")
    lefts, widths, colors = zip(*bars(figure), strict=True)
    np.testing.assert_allclose(lefts, [0, 2, 0.5, 1, 0])
    np.testing.assert_allclose(widths, [2, -1.5, 0.5, -0.25, 0.75])
    assert len(set(colors)) == 5  # for, against, rest, bias, total
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["factor 7", "factor 3", "all other factors", "bias", "gap"]
    assert words(figure) == ["+2.00", "−1.50", "+0.50", "−0.25", "0.75"]
    assert axes.get_title(loc="left") == "Why a cat and not a dog?"
    assert not axes.collections  # no whisker was asked for


def test_whiskers_are_one_standard_deviation_about_the_end_of_a_bar():
    figure = waterfall_plot(**PARTS, part_std=[0.3, 0.0], rest_std=0.2, total_std=0.6)
    segments = figure.axes[0].collections[0].get_segments()
    ends = [(segment[0][1], segment[0][0], segment[1][0]) for segment in segments]
    np.testing.assert_allclose(ends, [(0, 1.7, 2.3), (2, 0.8, 1.2), (4, 0.15, 1.35)])


def test_parts_may_have_names_and_a_zero_has_no_minus_sign():
    figure = waterfall_plot([-0.001], 0.0, 0.0, names=["striped $fur"])
    assert figure.axes[0].get_yticklabels()[0].get_text() == "striped $fur"
    assert words(figure) == ["+0.00", "+0.00", "+0.00", "0.00"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parts": []}, "parts has shape [0]"),
        ({"factors": [1]}, "factors has shape [1]; [2] fits."),
        ({"part_std": [1, 2, 3]}, "part_std has shape [3]; [2] fits."),
        ({"names": ["a"]}, "names holds 1 words; 2 parts need one each."),
        ({"rest": float("nan")}, "must be finite numbers"),
        ({"part_std": [-1, 2]}, "standard deviations at least 0"),
    ],
)
def test_arrays_that_do_not_fit_are_an_error(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        waterfall_plot(**{**PARTS, **changes})
