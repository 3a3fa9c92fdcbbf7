"""PAvPU against what it depends on, the threshold and the number of draws S: a single value says little without both
(Sec. 5, App. A.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from .style import INK, LINE_COLORS, LINE_STYLES, MARKERS, MUTED, RULE, column, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pavpu_plot(
    thresholds: ArrayLike,
    by_threshold: Mapping[int, ArrayLike],
    num_samples: ArrayLike,
    by_num_samples: ArrayLike,
    sampled: Mapping[int, float] | None = None,
    accuracy: float | None = None,
    threshold: float = 0.05,
    title: str = "PAvPU depends on threshold and draws",
    dpi: int = 200,
) -> Figure:
    """PAvPU against the p-value's threshold for several S, beside PAvPU against S at one threshold.

    Args:
        thresholds: [T] thresholds in (0, 1).
        by_threshold: S -> [T] exact PAvPU at each threshold, fractions.
        num_samples: [R] numbers of draws S.
        by_num_samples: [R] exact PAvPU of each at `threshold`, fractions.
        sampled: S -> PAvPU from real draws at `threshold`, a fraction; drawn as marks.
        accuracy: of all images, a fraction: what PAvPU tends to as S grows and every image becomes certain.
        threshold: of the right half, marked in the left one.
        title: one line above.
        dpi: pixels per inch.

    Returns:
        A Figure of 9 x 3.8 inches.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: arrays of different lengths.

    Example:
        >>> figure = pavpu_plot([0.01, 0.05], {20: [0.94, 0.93]}, [5, 20], [0.91, 0.93], sampled={20: 0.93})
    """
    x_values = column(thresholds, "thresholds")
    draws = column(num_samples, "num_samples")
    exact = 100 * column(by_num_samples, "by_num_samples", len(draws))
    figure = new_figure(9.0, 3.8, dpi)
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (S, values) in enumerate(by_threshold.items()):
        curve = 100 * column(values, f"by_threshold[{S}]", len(x_values))
        left.plot(x_values, curve, color=LINE_COLORS[number % 7], linestyle=LINE_STYLES[number % 7], label=f"S = {S}")
    left.axvline(threshold, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
    right.plot(draws, exact, color=LINE_COLORS[0], label="exact")
    if sampled:
        style = {"linestyle": "none", "color": LINE_COLORS[1], "marker": MARKERS[1], "markersize": 6}
        right.plot(list(sampled), [100 * value for value in sampled.values()], label="from draws", **style)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(which="minor", color=RULE)
        if accuracy is not None:
            axes.axhline(100 * accuracy, color=INK, linewidth=1, linestyle=(0, (1, 1.5)), label="accuracy")
    finish_axes(left, title, "threshold: certain where p is below", "PAvPU, %", legend="best")
    finish_axes(right, f"at p < {threshold:g}", "number of draws, S", "", legend="best")
    return figure
