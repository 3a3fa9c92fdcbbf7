"""Do probabilities come true, and does accuracy fall as uncertainty grows: the reliability diagram (Guo et al. 2017,
arXiv:1706.04599, Fig. 1) and accuracy by uncertainty decile (the paper's Fig. 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .style import (
    BIAS_COLOR,
    CERTAIN_COLOR,
    FONT,
    INK,
    LINE_COLORS,
    LINE_STYLES,
    MARKERS,
    MUTED,
    UNCERTAIN_COLOR,
    column,
    finish_axes,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_diagram(
    edges: ArrayLike,
    count: ArrayLike,
    confidence: ArrayLike,
    accuracy: ArrayLike,
    error: float | None = None,
    title: str = "Do probabilities come true?",
    dpi: int = 200,
) -> Figure:
    """Accuracy against mean probability in bins, above the share of images in each.

    Bins with less than a thousandth of the images are pale: a handful of images says little.

    Args:
        edges: [M + 1] of the bins of the largest probability.
        count: [M] images.
        confidence: [M] mean largest probability, NaN (or None) in empty bins, which are not drawn.
        accuracy: [M] share of images answered right, likewise.
        error: expected calibration error, a fraction, written into the figure.
        title: one line above.
        dpi: pixels per inch.

    Returns:
        A Figure of 5.2 x 5.6 inches.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the arrays do not describe the same bins, or every bin is empty.

    Example:
        >>> bins = calibration_bins(probs, labels)  # of bndl_hf.uncertainty
        >>> figure = reliability_diagram(bins.edges, bins.count, bins.confidence, bins.accuracy)
    """
    edges = column(edges, "edges")
    M = len(edges) - 1
    count, confidence, accuracy = (
        column(values, name, M)
        for name, values in (("count", count), ("confidence", confidence), ("accuracy", accuracy))
    )
    if not count.sum() > 0:
        raise ValueError("count is zero in every bin: there is no image to show.")
    figure = new_figure(5.2, 5.6, dpi)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    left, width = edges[:-1], np.diff(edges)
    is_rare = count < 1e-3 * count.sum()
    for bins, alpha, names in (
        ((count > 0) & is_rare, 0.25, ("", "")),
        ((count > 0) & ~is_rare, 1.0, ("share answered right", "gap to the mean probability")),
    ):
        style = {"width": width[bins], "align": "edge", "alpha": alpha}
        edge = {"edgecolor": "white", "linewidth": 0.8}
        upper.bar(left[bins], accuracy[bins], color=CERTAIN_COLOR, label=names[0], **style, **edge)
        edge = {"facecolor": "none", "edgecolor": UNCERTAIN_COLOR, "hatch": "////", "linewidth": 0.6}
        gap = confidence[bins] - accuracy[bins]
        upper.bar(left[bins], gap, bottom=accuracy[bins], label=names[1], **style, **edge)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="perfect calibration")
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    finish_axes(upper, title, "", "share answered right", legend="upper left")
    if error is not None:
        upper.set_title(f"ECE {error:.3f}", loc="right", size=9.5, color=INK, fontfamily=FONT)
    share = 100 * count / count.sum()
    lower.bar(left, share, width=width, align="edge", color=BIAS_COLOR, edgecolor="white", linewidth=0.8)
    finish_axes(lower, "", "largest probability", "images, %")
    return figure


def accuracy_by_decile_plot(
    accuracy: Mapping[str, ArrayLike],
    overall: float | None = None,
    title: str = "Is it right where it is sure?",
    dpi: int = 200,
) -> Figure:
    """Accuracy of equally large groups of images, from least to most uncertain, for one or several uncertainties.

    Args:
        accuracy: name of an uncertainty -> [G] accuracy of each group as a fraction, least uncertain first.
        overall: accuracy of all images, a fraction, drawn as a level line.
        title: one line above.
        dpi: pixels per inch.

    Returns:
        A Figure of 6.4 x 4 inches.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no uncertainty, or no group.

    Example:
        >>> correct = prediction.predicted_labels == labels
        >>> groups = accuracy_by_uncertainty_decile(prediction.p_value, correct, num_groups=4)
        >>> figure = accuracy_by_decile_plot({"p-value": groups.accuracy})
    """
    if not accuracy:
        raise ValueError("accuracy is empty; pass the groups of one uncertainty or more by name.")
    figure = new_figure(6.4, 4.0, dpi)
    axes = figure.subplots()
    for number, (name, values) in enumerate(accuracy.items()):
        groups = 100 * column(values, f"accuracy[{name!r}]")
        color, style, marker = (options[number % 7] for options in (LINE_COLORS, LINE_STYLES, MARKERS))
        places = range(1, len(groups) + 1)
        axes.plot(places, groups, color=color, linestyle=style, marker=marker, markersize=5, label=f"by {name}")
        axes.set_xticks(list(places))
    if overall is not None:
        axes.axhline(100 * overall, color=MUTED, linewidth=1, linestyle=(0, (4, 2)), label="all images")
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0] - 5), top=102)
    finish_axes(
        axes, title, "group of equally many images, least to most uncertain", "answered right, %", legend="lower left"
    )
    return figure
