"""Of what a decision consists: the parts of one logit, or of the gap of two, stacked from left to right until they are
all of it (Eq. 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .factor_labels import check_thumbnails, on_two_lines
from .style import (
    BIAS_COLOR,
    CERTAIN_COLOR,
    FACTOR_COLOR,
    FONT,
    INK,
    MUTED,
    REST_COLOR,
    RULE,
    UNCERTAIN_COLOR,
    column,
    finish_axes,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches a bar, and one with a name on two lines or thumbnails beside it.
_ROW, _HIGH_ROW = 0.32, 0.42
_THUMBNAIL = 0.36  # inches
_LABEL_WIDTH, _TITLE_WIDTH = 30, 36  # characters


def waterfall_plot(
    parts: ArrayLike,
    rest: float,
    bias: float,
    factors: ArrayLike | None = None,
    part_std: ArrayLike | None = None,
    rest_std: float | None = None,
    total_std: float | None = None,
    names: Sequence[str] | None = None,
    total: str = "logit",
    title: str = "What does the decision consist of?",
    dpi: int = 200,
    thumbnails: Sequence[Sequence[Any]] | None = None,
) -> Figure:
    """One image's logit, or the gap between two classes, as bars that each begin where the one above ends.

    Parts above zero are green and go to the right, those below are vermilion and go to the left. Whiskers at the end of
    a bar are one standard deviation of that part alone, to either side.

    Args:
        parts: [k] largest parts (`Evidence.contributions` or `Contrast.parts` of one image), drawn in this order.
        rest: what all other factors add.
        bias: of the class, or the difference of two.
        factors: [k] the factors the parts belong to; None numbers them from 1.
        part_std: [k] their standard deviations; None draws no whiskers.
        rest_std: standard deviation of the rest, likewise.
        total_std: of the whole, likewise.
        names: [k] words for the parts in place of "factor 7", on two lines where they are long.
        total: what the parts add up to, "logit" or "gap".
        title: one line above.
        dpi: pixels per inch.
        thumbnails: [k] lists of pictures, drawn between the words and the bar (`FactorThumbnails.images`).

    Returns:
        A Figure 6.4 inches wide, a third of an inch high for every bar, or more where names or thumbnails need it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the arrays do not describe the same parts, or a number is not finite or a deviation below zero.

    Example:
        >>> why = model.explain(pixel_values, against="runner_up").contrast
        >>> figure = waterfall_plot(
        ...     why.contributions[0], why.rest[0], why.bias[0], why.factors[0], why.contribution_std[0],
        ...     why.rest_std[0], why.total_std[0], total="gap", title="Why a cat and not a dog?")
    """
    parts = column(parts, "parts")
    k = len(parts)
    numbers = np.arange(1, k + 1) if factors is None else column(factors, "factors", k).astype(int)
    labels = [f"factor {number}" for number in numbers] if names is None else list(names)
    pictures = check_thumbnails(thumbnails, k)
    if len(labels) != k:
        raise ValueError(f"names holds {len(labels)} words; {k} parts need one each.")
    values = np.append(parts, [float(rest), float(bias)])
    ends = np.cumsum(values)  # where each bar ends
    deviations = np.zeros(k) if part_std is None else column(part_std, "part_std", k)
    whiskers = np.append(deviations, [float(rest_std or 0), 0.0, float(total_std or 0)])
    if not np.isfinite([*values, *whiskers]).all() or (whiskers < 0).any():
        raise ValueError("parts, rest, bias must be finite numbers, and standard deviations at least 0.")

    labels = [on_two_lines(label, _LABEL_WIDTH) for label in labels]
    is_high = any(pictures) or any("\n" in label for label in labels)
    figure = new_figure(6.4, 1.1 + (_HIGH_ROW if is_high else _ROW) * (k + 3), dpi)
    axes = figure.subplots()
    colors = [FACTOR_COLOR if part >= 0 else UNCERTAIN_COLOR for part in parts] + [REST_COLOR, BIAS_COLOR]
    rows = np.arange(k + 3)
    lefts, widths = np.append(ends - values, 0.0), np.append(values, ends[-1])
    axes.barh(rows, widths, left=lefts, height=0.62, color=[*colors, CERTAIN_COLOR], linewidth=0)
    for row in rows[:-1]:  # from the end of one bar down to the beginning of the next
        axes.plot([ends[row]] * 2, [row - 0.31, row + 1.31], color=MUTED, linewidth=0.6)
    tips = np.append(ends, ends[-1])
    shown = whiskers > 0
    if shown.any():
        style: dict[str, Any] = {"ecolor": INK, "elinewidth": 1, "capsize": 2.5, "capthick": 1}
        axes.errorbar(tips[shown], rows[shown], xerr=whiskers[shown], fmt="none", **style)
    axes.axvline(0, color=MUTED, linewidth=0.8)

    title = on_two_lines(title, _TITLE_WIDTH) if is_high else title  # the labels push the bars to the right
    finish_axes(axes, title, f"{total}, as the parts add up", "")
    axes.grid(visible=False, axis="y")
    axes.set_ylim(k + 2.5, -0.5)
    axes.axhline(k + 1.5, color=RULE, linewidth=0.8)
    axes.set_yticks(rows, [*labels, "all other factors", "bias", total], fontfamily=FONT, parse_math=False)
    for row, label in enumerate(axes.get_yticklabels()):
        label.set(color=MUTED if k <= row < k + 2 else INK, weight="bold" if row == k + 2 else "normal")
        label.set(size=8 if "\n" in label.get_text() else 9)
    _draw_thumbnails(axes, pictures)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.15 * (high - low))  # room for the numbers
    for row, (left, width, whisker) in enumerate(zip(lefts, widths, whiskers, strict=True)):
        place = max(left, left + width, left + width + whisker)
        amount = f"{round(width, 2) + 0.0:{'' if row == k + 2 else '+'}.2f}"  # + 0.0: no minus sign on a zero
        axes.annotate(
            amount.replace("-", "−"),
            (place, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=8.5,
            color=INK,
            weight="bold" if row == k + 2 else "normal",
            fontfamily=FONT,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
        )
    return figure


def _draw_thumbnails(axes: Axes, pictures: list[list[np.ndarray]]) -> None:
    """Pictures in front of the bars; the labels make room for them."""
    most = max(map(len, pictures))
    if not most:
        return
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    gap = 72 * _THUMBNAIL + 2  # points from one to the next
    for row, of_factor in enumerate(pictures):
        for i, picture in enumerate(of_factor):
            zoom = 72 * _THUMBNAIL / max(picture.shape[:2])
            box = AnnotationBbox(
                OffsetImage(picture, zoom=zoom, cmap="gray"),
                (0, row),
                xybox=(-(most - i) * gap - 2, 0),
                xycoords=axes.get_yaxis_transform(),
                boxcoords="offset points",
                box_alignment=(0, 0.5),
                frameon=False,
                pad=0,
                annotation_clip=False,
            )
            box.set_gid("thumbnail")
            axes.add_artist(box)
    axes.tick_params(axis="y", pad=most * gap + 5)
