"""How little of a decision layer is enough: accuracy and likelihood against sparsity (Sec. 5.1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .style import LINE_COLORS, LINE_STYLES, MARKERS, column, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sparsity_frontier_plot(
    curves: Mapping[str, Mapping[str, ArrayLike]],
    x: str = "sparsity",
    title: str = "How few weights are enough?",
    dpi: int = 200,
) -> Figure:
    """Accuracy and negative log-likelihood against what is left of the weights, side by side.

    Args:
        curves: head -> {"sparsity": [P] share of non-zero weights, fractions; "factors_per_class": [P] of them for each
            class; "accuracy": [P], fractions; "negative_log_likelihood": [P], nats}; optionally the standard deviations
            over seeds of the last two, "accuracy_sd" and "negative_log_likelihood_sd", [P].
        x: "sparsity" or "factors_per_class", on a logarithmic axis.
        title: one line above.
        dpi: pixels per inch.

    Returns:
        A Figure of 9.6 x 4.0 inches; points without any weight are left out.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no curve, or columns of different lengths; an unknown x.
    """
    labels = {"sparsity": "non-zero weights, %", "factors_per_class": "non-zero weights for each class"}
    if x not in labels:
        raise ValueError(f"x={x!r} is unknown; choose one of {', '.join(labels)}.")
    if not curves:
        raise ValueError("curves is empty; pass one head or more by name.")
    figure = new_figure(9.6, 4.0, dpi)
    from matplotlib.ticker import LogLocator, NullFormatter  # there, or new_figure had said that it is not

    left, right = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(curves.items()):
        places = column(curve[x], f"curves[{name!r}][{x!r}]") * (100 if x == "sparsity" else 1)
        order = np.argsort(places)
        order = order[places[order] > 0]  # a head of nothing but its bias has no place on a logarithmic axis
        style = {
            "color": LINE_COLORS[number % 7],
            "linestyle": LINE_STYLES[number % 7],
            "marker": MARKERS[number % 7],
            "markersize": 4,
            "linewidth": 1.6,
            "capsize": 2,
            "label": name,
        }
        for axes, figure_name, factor in ((left, "accuracy", 100), (right, "negative_log_likelihood", 1)):
            values = column(curve[figure_name], f"curves[{name!r}][{figure_name!r}]", len(places)) * factor
            spread = np.asarray(curve.get(f"{figure_name}_sd", np.zeros(len(places)))) * factor
            axes.errorbar(places[order], values[order], yerr=spread[order], **style)
    for axes, y_label in ((left, "accuracy, %"), (right, "negative log-likelihood, nats")):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        finish_axes(axes, title if axes is left else "", labels[x], y_label, legend="best")
    return figure
