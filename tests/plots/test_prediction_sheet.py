"""The prediction sheet draws what it is given: every text and bar is looked up in the figure, not in its pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

import bndl_hf.plots
from bndl_hf.plots import CERTAIN_COLOR, UNCERTAIN_COLOR, prediction_sheet

B, C, K = 8, 10, 3


def sheet_inputs(**changes):
    """Image i has p-value i / 10, answers class i, is right but for images 6 and 7, and certain below image 3."""
    probs = np.full((B, C), 0.02)
    probs[np.arange(B), np.arange(B)] = 0.82
    inputs = {
        "images": np.arange(B * 16, dtype=np.uint8).reshape(B, 4, 4),
        "true_labels": np.array([0, 1, 2, 3, 4, 5, 9, 9]),
        "predicted_labels": np.arange(B),
        "probs": probs,
        "is_certain": np.arange(B) < 3,
        "p_value": np.arange(B) / 10,
        "contributions": np.tile([5.0, 2.5, 0.0], (B, 1)) + np.array([1.0, 0.0, 0.0]) * np.arange(B)[:, None],
        "factors": np.tile([11, 12, 13], (B, 1)),
        "rest": np.full(B, 1.5),
        "bias": np.full(B, -0.5),
    }
    return {**inputs, **changes}


def texts(figure, gid):
    return [text.get_text() for text in figure.texts if text.get_gid() == gid]


def image_axes(figure):
    return [axes for axes in figure.axes if axes.images]


def test_surest_images_come_first_and_least_sure_ones_last():
    figure = prediction_sheet(**sheet_inputs(), images_per_block=2)
    assert texts(figure, "predicted") == ["0", "1", "7", "6"]
    shown = [axes.images[0].get_array()[0, 0] for axes in image_axes(figure)]
    assert shown == [0, 16, 7 * 16, 6 * 16]  # first pixel of images 0, 1, 7, 6
    assert texts(figure, "p_value") == ["p < 0.0001", "p = 0.10", "p = 0.70", "p = 0.60"]


def test_verdict_is_a_word_a_sign_and_a_colour():
    figure = prediction_sheet(**sheet_inputs(), images_per_block=2)
    verdicts = [text for text in figure.texts if text.get_gid() == "verdict"]
    assert [text.get_text() for text in verdicts] == ["✓ certain", "✓ certain", "? uncertain", "? uncertain"]
    colors = [to_hex(text.get_bbox_patch().get_facecolor()).upper() for text in verdicts]
    assert colors == [CERTAIN_COLOR, CERTAIN_COLOR, UNCERTAIN_COLOR, UNCERTAIN_COLOR]


def test_true_label_is_shown_where_the_answer_is_wrong_and_only_there():
    figure = prediction_sheet(**sheet_inputs(), images_per_block=4)
    assert texts(figure, "true_label") == ["✗ true: 9", "✗ true: 9"]
    assert len(texts(figure, "runner_up")) == 6


def test_bars_are_the_parts_and_add_up_to_the_logit():
    figure = prediction_sheet(**sheet_inputs(), images_per_block=1)
    bars = [axes for axes in figure.axes if not axes.images]
    assert len(bars) == 2
    widths = [bar.get_width() for bar in bars[1].patches]
    assert widths == [12.0, 2.5, 1.5, -0.5]  # image 7: the part that is zero has no bar
    assert bars[0].get_xlim() == bars[1].get_xlim() == (-0.5, 12.0)
    assert texts(figure, "part")[5:] == ["factor 11", "factor 12", "rest", "bias", "logit"]
    assert texts(figure, "part_value")[5:] == ["12.0", "2.5", "1.5", "−0.5", "15.5"]


def test_surest_block_shows_one_image_per_class_while_there_are_classes():
    predicted = np.array([3, 3, 3, 5, 3, 0, 1, 2])
    figure = prediction_sheet(**sheet_inputs(predicted_labels=predicted), images_per_block=3)
    assert texts(figure, "predicted")[:3] == ["3", "3", "5"]  # two classes among the five left for this block


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 2), (8, 8)])
def test_every_image_is_shown_at_most_once(count, expected):
    inputs = {name: values[:count] for name, values in sheet_inputs().items()}
    figure = prediction_sheet(**inputs)
    assert len(image_axes(figure)) == expected
    assert len(set(texts(figure, "predicted"))) == expected


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


@pytest.mark.parametrize("long_names", [False, True])
def test_no_text_overlaps_another_or_leaves_the_figure(long_names):
    names = [f"West Highland white terrier, Westie {c}" for c in range(C)] if long_names else None
    inputs = sheet_inputs(images=np.zeros((B, 20, 30, 3)), factors=np.full((B, K), 2047), rest=np.full(B, 1234.5))
    for images_per_block in (2, 4):
        figure = prediction_sheet(
            **inputs, label_names=names, images_per_block=images_per_block, threshold=0.05, dpi=100
        )
        assert overlaps(figure) == []


def test_names_may_hold_dollar_signs():
    figure = prediction_sheet(**sheet_inputs(), label_names=["$x", "a$"] * 5)
    figure.canvas.draw()  # mathtext would raise or swallow them
    assert "$x" in texts(figure, "predicted")


def test_tensors_are_welcome_and_nothing_global_is_touched():
    figure = prediction_sheet(**{name: torch.as_tensor(values) for name, values in sheet_inputs().items()})
    assert figure.canvas.manager is None  # pyplot does not know it
    assert "3 of 8 images certain" in texts(figure, "count")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((0, 4, 4))}, "no image to show"),
        ({"images": np.zeros((B, 1, 4, 4))}, r"images have shape \[8, 1, 4, 4\]; pass \[B, H, W\] grey"),
        ({"p_value": np.zeros(B - 1)}, r"p_value has shape \[7\]; 8 images need 1 axes"),
        ({"probs": np.zeros(B)}, r"probs has shape \[8\]"),
        ({"factors": np.zeros((B, K + 1), dtype=int)}, "must have one shape"),
    ],
)
def test_arrays_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        prediction_sheet(**sheet_inputs(**changes))


def test_without_matplotlib_the_error_names_the_extra():
    # The folder alone, which imports nothing of ours: the package around it takes seconds to import.
    code = f"""
import sys
import numpy as np
sys.modules["matplotlib"] = None
sys.path.insert(0, {str(Path(bndl_hf.plots.__file__).parents[1])!r})
from plots import prediction_sheet as sheet
z, row = np.zeros(1), np.ones((1, 2))
try:
    sheet(np.zeros((1, 2, 2)), z, z, row, z, z, row, row, z, z)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Figures need matplotlib, which is not there; pip install bndl-hf[plots]."
