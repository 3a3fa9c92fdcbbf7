"""Scores of images from the training distribution beside those of out-of-distribution images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .style import BIAS_COLOR, FONT, INK, LINE_COLORS, LINE_STYLES, REST_COLOR, column, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_BINS = 40


def uncertainty_histograms(
    scores: Mapping[str, Mapping[str, ArrayLike]],
    notes: Mapping[str, str] | None = None,
    title: str = "Does it notice what it was not trained for?",
    dpi: int = 200,
) -> Figure:
    """One histogram a score, the first group filled, the others as lines; each group adds up to 100 %.

    Args:
        scores: name of a score -> name of a group -> [N] scores. The first group is the one to compare with: the
            dataset's own images, say. All scores have the same groups.
        notes: name of a score -> a line below its name, such as its AUROC.
        title: one line above all.
        dpi: pixels per inch.

    Returns:
        A Figure 9 inches wide, three histograms a row. The outermost 0.5 % of the values at either side are drawn in
        the outermost bins, so that a few extreme images do not squeeze all others into one bar.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no score, or a group is empty or has another name than in the first score.

    Example:
        >>> figure = uncertainty_histograms({"entropy": {"cifar10": on_cifar10.total, "mnist": on_mnist.total}})
    """
    if not scores:
        raise ValueError("scores is empty; pass the groups of one score or more by name.")
    groups = list(next(iter(scores.values())))
    for name, values in scores.items():
        if list(values) != groups:
            raise ValueError(f"scores[{name!r}] has groups {list(values)}; the first score has {groups}.")
    num_columns = min(3, len(scores))
    num_rows = math.ceil(len(scores) / num_columns)
    figure = new_figure(max(3.0 * num_columns, 5.0), 2.5 * num_rows + 0.8, dpi)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for panel, (name, values) in zip(panels, scores.items(), strict=False):
        vectors = [column(values[group], f"scores[{name!r}][{group!r}]") for group in groups]
        edges = _edges(vectors)
        for number, (group, vector) in enumerate(zip(groups, vectors, strict=True)):
            shown = np.clip(vector, edges[0], edges[-1])
            share = 100 * np.histogram(shown, edges)[0] / len(vector)
            if number == 0:
                panel.stairs(share, edges, fill=True, facecolor=BIAS_COLOR, edgecolor=REST_COLOR, label=group)
            else:
                color, style = LINE_COLORS[(number - 1) % 7], LINE_STYLES[(number - 1) % 7]
                panel.stairs(share, edges, color=color, linestyle=style, linewidth=1.5, label=group)
        panel.locator_params(axis="x", nbins=4)
        note = (notes or {}).get(name)
        finish_axes(panel, name, note or "", "images, %" if panel in panels[::num_columns] else "")
    for panel in panels[len(scores) :]:
        panel.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold", color=INK, fontfamily=FONT)
    handles, labels = panels[0].get_legend_handles_labels()
    font = {"family": FONT, "size": 9}
    figure.legend(handles, labels, loc="outside lower center", ncols=4, prop=font, frameon=False, labelcolor=INK)
    return figure


def _edges(vectors: list[np.ndarray]) -> np.ndarray:
    """Bins over the middle 99 % of all groups, each group weighing the same."""
    finite = [vector[np.isfinite(vector)] for vector in vectors]
    quantiles = [np.quantile(vector, (0.005, 0.995)) for vector in finite if len(vector)]
    low, high = (min(q[0] for q in quantiles), max(q[1] for q in quantiles)) if quantiles else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _NUM_BINS + 1)
