"""Sheets of answers, the factors that matter most, and colours for light and dark pages."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from bndl_hf.plots import (
    ShownAnswer,
    accuracy_by_decile_plot,
    neutral_figure,
    top_factors_plot,
    verdict_sheet,
    weights_per_class_plot,
)
from bndl_hf.plots.neutral import NEUTRAL_INK
from bndl_hf.plots.style import INK

GREY = np.zeros((8, 8))


def words(figure, gid):
    return [text.get_text() for text in figure.findobj(lambda one: one.get_gid() == gid)]


def test_an_answer_stands_with_verdict_parts_and_what_they_leave_out():
    parts = [(3, "whiskers", 3.0), (5, "feeds dog", 1.0), (7, "silent", 0.0)]
    answers = [
        ShownAnswer(GREY, "cat", "98 %", "sure", ["true: cat"], parts, rest=4.0, bias=-0.5, thumbnails={3: [GREY] * 5}),
        ShownAnswer(np.zeros((4, 9, 3), dtype=np.uint8), "a very long name of a class", "40 %", "torn"),
        ShownAnswer(GREY, "$x_1$", "9 %", None),
    ]
    figure = verdict_sheet(answers)
    assert words(figure, "label") == ["cat", "a very long name…", "$x_1$"]
    assert words(figure, "verdict") == ["✓ sure", "? torn"]
    assert words(figure, "part") == ["whiskers", "dog"]
    assert words(figure, "part_value") == ["3.0", "1.0"]
    assert words(figure, "rest")[:2] == ["50% of the evidence; all others 4.0,", "bias −0.5"]
    assert len(figure.findobj(lambda one: one.get_gid() == "thumbnail")) == 3
    bars = [one.get_width() * figure.get_figwidth() for one in figure.artists]
    assert bars[0] == pytest.approx(3 * bars[1])


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [([], "0 answers in 2 columns show nothing"), ([ShownAnswer(GREY, "a", "1 %", "certain")], "verdict='certain'")],
)
def test_what_cannot_be_shown_is_said(answers, sentence):
    with pytest.raises(ValueError, match=sentence):
        verdict_sheet(answers)


def overlaps(figure):
    """Pairs of texts whose boxes meet, and texts that leave the figure."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.texts]
    width, height = figure.canvas.get_width_height()
    outside = [words for words, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    meeting = [
        (one, other)
        for index, (one, box) in enumerate(boxes)
        for other, other_box in boxes[index + 1 :]
        if box.x0 < other_box.x1 and other_box.x0 < box.x1 and box.y0 < other_box.y1 and other_box.y0 < box.y1
    ]
    return outside + meeting


def test_no_text_overlaps_another_or_leaves_the_figure():
    name = "West Highland white terrier, Westie"
    parts = [(7, f"feeds {name}", 1234.5), (2047, "factor 2047", 0.1)]
    notes = [f"or {name}, 12 %", f"true: {name}"]
    answer = ShownAnswer(GREY, name, "99.9 %", "unfamiliar", notes, parts, 1234.5, -12.5, {7: [GREY] * 3})
    plain = ShownAnswer(np.zeros((20, 30, 3)), "8", "100 %", None)
    figure = verdict_sheet([answer, plain, answer], columns=2, dpi=100)
    assert overlaps(figure) == []
    assert figure.canvas.manager is None  # pyplot does not know it


def test_without_matplotlib_the_error_names_the_extra(tmp_path, run_python):
    code = """
import sys
import numpy as np
sys.modules["matplotlib"] = None
from bndl_hf.plots import ShownAnswer, verdict_sheet
try:
    verdict_sheet([ShownAnswer(np.zeros((2, 2)), "cat", "98 %", "sure")])
except ImportError as error:
    print(error)
"""
    done = run_python(["-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Figures need matplotlib, which is not there; pip install bndl-hf[plots]."


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("page", ["#FFFFFF", "#0b0f19", "#0d1117"])
def test_words_are_read_on_light_and_on_dark_pages(page):
    one, other = sorted([luminance(NEUTRAL_INK), luminance(page)])
    assert (other + 0.05) / (one + 0.05) > 4.2  # WCAG's ratio; 4.5 on both cannot be


def test_a_neutral_figure_keeps_its_colours_and_loses_ink_and_white():
    figure = neutral_figure(accuracy_by_decile_plot({"entropy": [0.9, 0.8]}, overall=0.85))
    axes = figure.axes[0]
    assert axes.get_title(loc="left")
    assert axes.xaxis.label.get_color() == NEUTRAL_INK
    assert axes.lines[0].get_color() != NEUTRAL_INK
    assert axes.lines[1].get_color() == NEUTRAL_INK
    assert figure.get_facecolor()[3] == 0
    assert INK not in [text.get_color() for text in figure.findobj(Text)]


def test_top_factors_and_weights_of_classes():
    figure = top_factors_plot(["fins", "feeds bass"], [0.04, 0.02], [[GREY], []])
    assert words(figure, "name") == ["fins", "bass"]
    assert words(figure, "share") == ["4.0 %", "2.0 %"]
    few = weights_per_class_plot([5, 2, 9], ["a", "b", "c"]).axes[0]
    assert [bar.get_height() for bar in few.patches] == [2, 5, 9]
    assert [label.get_text() for label in few.get_xticklabels()] == ["b", "a", "c"]
    many = weights_per_class_plot(np.arange(50)).axes[0]
    assert sum(bar.get_height() for bar in many.patches) == 50
    with pytest.raises(ValueError, match="share has shape"):
        top_factors_plot(["one"], [0.1, 0.2])
