"""Figures of an evaluation draw what they are given: bars, lines and words are looked up in the figure."""

import numpy as np
import pytest
import torch
from PIL import Image

from bndl_hf.plots import (
    accuracy_by_decile_plot,
    pavpu_plot,
    reliability_diagram,
    risk_coverage_plot,
    save_figure,
    sparsity_frontier_plot,
    uncertainty_histograms,
)

EDGES, NAN = [0.0, 0.25, 0.5, 0.75, 1.0], float("nan")


def reliability(**changes):
    inputs = {
        "edges": EDGES,
        "count": [0, 1, 3000, 6999],
        "confidence": [NAN, 0.4, 0.7, 0.9],
        "accuracy": [NAN, 1.0, 0.6, 0.95],
    }
    return reliability_diagram(**{**inputs, **changes}, error=0.0321)


def lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.lines}


def test_reliability_bars_are_accuracy_and_the_gap_to_confidence():
    upper, lower = reliability().axes
    bars = [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in upper.patches]
    expected = [(0.25, 0, 1.0), (0.25, 1.0, -0.6), (0.5, 0, 0.6), (0.75, 0, 0.95), (0.5, 0.6, 0.1), (0.75, 0.95, -0.05)]
    np.testing.assert_allclose(bars, expected, atol=1e-12)
    np.testing.assert_allclose([bar.get_height() for bar in lower.patches], [0, 0.01, 30, 69.99])
    assert upper.get_title(loc="right") == "ECE 0.032"


def test_a_bin_of_a_handful_of_images_is_pale():
    upper, _ = reliability().axes
    assert [bar.get_alpha() for bar in upper.patches] == [0.25, 0.25, 1, 1, 1, 1]


def test_accuracy_falls_from_left_to_right_as_given():
    figure = accuracy_by_decile_plot({"p-value": torch.tensor([0.9, 0.5]), "entropy": [0.8, 0.6]}, overall=0.7)
    (axes,) = figure.axes
    np.testing.assert_allclose(lines(axes)["by p-value"], [90, 50], rtol=1e-6)
    np.testing.assert_allclose(lines(axes)["by entropy"], [80, 60])
    assert set(lines(axes)["all images"]) == {70}
    styles = {(line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in axes.lines[:2]}
    assert len({s[0] for s in styles}) == len({s[1] for s in styles}) == len({s[2] for s in styles}) == 2


def test_a_long_risk_coverage_curve_keeps_its_end_and_its_area():
    risk = np.linspace(0, 0.3, 100_000)
    (axes,) = risk_coverage_plot({"largest probability": risk}, accuracy=0.7).axes
    curve = axes.lines[0]
    assert curve.get_label() == "by largest probability (AURC 0.1500)"
    assert len(curve.get_xdata()) == 2000
    assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == pytest.approx((100, 30))
    assert [text.get_text() for text in axes.texts] == ["1 % errors", "5 % errors"]


def test_a_flawless_model_has_a_flat_curve():
    (axes,) = risk_coverage_plot({"entropy": np.zeros(5)}, accuracy=1.0).axes
    assert set(axes.lines[0].get_ydata()) == {0}
    assert not axes.texts


def test_pavpu_is_drawn_against_threshold_and_draws():
    left, right = pavpu_plot([0.01, 0.05], {5: [0.6, 0.7], 20: [0.8, 0.9]}, [5, 20], [0.7, 0.9], {20: 0.88}, 0.75).axes
    np.testing.assert_allclose(lines(left)["S = 20"], [80, 90])
    np.testing.assert_allclose(lines(right)["exact"], [70, 90])
    np.testing.assert_allclose(lines(right)["from draws"], [88])
    assert left.get_xscale() == right.get_xscale() == "log"


def test_every_histogram_adds_up_to_all_images_even_extreme_ones():
    inside = np.concatenate([np.zeros(500), np.ones(500), [np.inf]])
    figure = uncertainty_histograms({"joint": {"in": inside, "out": [0.5, 2.0]}, "flat": {"in": [3.0], "out": [3.0]}})
    for axes in figure.axes:
        for stairs in axes.patches:
            assert stairs.get_data().values.sum() == pytest.approx(100)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["joint", "flat"]


def test_a_saved_figure_says_nothing_of_the_machine(tmp_path):
    path = save_figure(reliability(), tmp_path / "new" / "figure.png")
    with Image.open(path) as image:
        assert set(image.info) <= {"dpi"}
    assert [file.name for file in path.parent.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: reliability(count=[1, 2]), r"count has shape \[2\]; \[4\] fits"),
        (lambda: reliability(count=[0, 0, 0, 0]), "count is zero in every bin"),
        (lambda: accuracy_by_decile_plot({}), "accuracy is empty"),
        (lambda: accuracy_by_decile_plot({"z": [[0.5]]}), r"accuracy\['z'\] has shape \[1, 1\]"),
        (lambda: risk_coverage_plot({}), "risk is empty"),
        (lambda: risk_coverage_plot({"z": []}), r"risk\['z'\] has shape \[0\]"),
        (lambda: pavpu_plot([0.1], {20: [0.5, 0.6]}, [20], [0.5]), r"by_threshold\[20\] has shape \[2\]; \[1\] fits"),
        (lambda: uncertainty_histograms({}), "scores is empty"),
        (
            lambda: uncertainty_histograms({"a": {"in": [1.0]}, "b": {"out": [1.0]}}),
            r"scores\['b'\] has groups \['out'\]; the first score has \['in'\]",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(draw, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw()


def test_the_frontier_draws_both_measures_of_every_head_and_leaves_out_what_has_no_weights():
    curve = {
        "sparsity": [0.1, 0.0, 0.01],
        "factors_per_class": [6.4, 0.0, 0.64],
        "accuracy": [0.9, 0.1, 0.8],
        "negative_log_likelihood": [0.3, 2.3, 0.5],
    }
    figure = sparsity_frontier_plot({"BNDL": curve, "other": {**curve, "negative_log_likelihood_sd": [0.1, 0.0, 0.1]}})
    left, right = figure.axes
    for axes, expected in ((left, [80.0, 90.0]), (right, [0.5, 0.3])):
        assert len(axes.containers) == 2
        line = axes.containers[0].lines[0]
        assert line.get_xdata().tolist() == pytest.approx([1.0, 10.0])
        assert line.get_ydata().tolist() == pytest.approx(expected)
    assert left.get_xscale() == "log"
    per_class = sparsity_frontier_plot({"BNDL": curve}, x="factors_per_class").axes[0]
    assert per_class.containers[0].lines[0].get_xdata().tolist() == [0.64, 6.4]
    with pytest.raises(ValueError, match="x='factors' is unknown; choose one of sparsity, factors_per_class"):
        sparsity_frontier_plot({"BNDL": curve}, x="factors")
    with pytest.raises(ValueError, match="curves is empty"):
        sparsity_frontier_plot({})
