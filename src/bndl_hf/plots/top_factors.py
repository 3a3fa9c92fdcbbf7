"""The factors that matter most over many images, with their pictures, and how many of them a class is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .factor_labels import check_thumbnails, on_two_lines, show_thumbnail
from .style import FACTOR_COLOR, FONT, INK, RULE, column, figure_class, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW, _PICTURE, _COLUMN = 0.62, 0.54, 3.1  # inches


def top_factors_plot(
    names: Sequence[str],
    share: ArrayLike,
    thumbnails: Sequence[Sequence[Any]] | None = None,
    columns: int = 2,
    dpi: int = 160,
) -> Figure:
    """Factors in the order given, each with up to three pictures, its name, and a bar of its share.

    Args:
        names: k words.
        share: [k] of the evidence of all answers, fractions.
        thumbnails: for each factor its pictures, [H, W] or [H, W, 3]; None shows none.
        columns: of factors, filled one after the other.
        dpi: pixels per inch.

    Returns:
        A Figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no factor, or not a share for each.

    Example:
        >>> figure = top_factors_plot(["fins", "feeds bass"], [0.04, 0.03])
    """
    make_figure = figure_class()
    shares = column(share, "share", len(names))
    pictures = check_thumbnails(thumbnails, len(names))
    rows = -(-len(names) // columns)
    width, height = columns * _COLUMN + 0.1, rows * _ROW + 0.1
    figure = make_figure(figsize=(width, height), dpi=dpi, facecolor="white")
    from matplotlib.patches import Rectangle

    for place, (name, value) in enumerate(zip(names, shares, strict=True)):
        x, y = 0.05 + _COLUMN * (place // rows), 0.05 + _ROW * (place % rows)
        for i, picture in enumerate(pictures[place][:3]):
            box = (x + i * (_PICTURE + 0.03)) / width, 1 - (y + _PICTURE) / height, _PICTURE / width, _PICTURE / height
            show_thumbnail(figure.add_axes(box), picture)
        start = x + (3 * (_PICTURE + 0.03) + 0.06 if any(pictures) else 0)
        style: dict[str, Any] = {"fontfamily": FONT, "parse_math": False, "color": INK, "size": 8}
        room = x + _COLUMN - 0.15 - start
        words = on_two_lines(name.removeprefix("feeds "), int(room / 0.072))
        figure.text(start / width, 1 - (y + 0.17) / height, words, va="center", gid="name", linespacing=1.05, **style)
        length = (room - 0.42) * value / shares.max()
        corner = start / width, 1 - (y + 0.49) / height
        bar = Rectangle(corner, length / width, 0.09 / height, facecolor=FACTOR_COLOR, transform=figure.transFigure)
        figure.add_artist(bar)
        end = (start + length + 0.05) / width
        figure.text(end, 1 - (y + 0.445) / height, f"{100 * value:.1f} %", va="center", gid="share", **style)
    return figure


def weights_per_class_plot(counts: ArrayLike, names: Sequence[str] | None = None, dpi: int = 160) -> Figure:
    """How many non-zero loadings each class has: a bar for each, smallest first, or a histogram of many classes.

    Args:
        counts: [C] numbers of loadings.
        names: of the C classes; shown for 20 or fewer.
        dpi: pixels per inch.

    Returns:
        A Figure of 6.4 x 3.2 inches.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: counts are empty or not one a class.

    Example:
        >>> figure = weights_per_class_plot([12, 9, 14], ["cat", "dog", "owl"])
    """
    values = column(counts, "counts", None if names is None else len(names))
    figure = new_figure(6.4, 3.2, dpi)
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    median = float(np.median(values))
    if len(values) <= 20 and names is not None:
        order = np.argsort(values, kind="stable")
        axes.bar(range(len(values)), values[order], color=FACTOR_COLOR, width=0.75)
        labels = [name if len(name) <= 14 else name[:13] + "…" for name in (names[c] for c in order)]
        axes.set_xticks(range(len(values)), labels, rotation=30, ha="right", parse_math=False)
        finish_axes(axes, "Weights a class", "", "non-zero loadings")
    else:
        first, last = values.min() - 0.5, values.max() + 0.5  # whole numbers in the middle of their bins
        axes.hist(
            values,
            bins=np.linspace(first, last, min(30, int(last - first)) + 1).tolist(),
            color=FACTOR_COLOR,
            edgecolor="white",
            linewidth=0.6,
        )
        finish_axes(axes, "Weights a class", "non-zero loadings of a class", "classes")
        axes.axvline(median, color=RULE, linewidth=1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    words = f"median {median:,.0f}"
    axes.set_title(words, loc="right", size=9.5, color=INK, fontfamily=FONT)
    return figure
