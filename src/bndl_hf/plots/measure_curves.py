"""Measures of several heads against one quantity, side by side: severity of a shift, labels bought, a promised risk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from .style import FONT, INK, LINE_COLORS, LINE_STYLES, MARKERS, MUTED, column, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Beyond so many points markers would hide the line.
_MAX_MARKED = 25
# Inches of an entry of the legend: its line and gaps, and a letter.
_LEGEND_LINE, _LETTER = 0.6, 0.075


def measure_curves_plot(
    panels: Mapping[str, Mapping[str, Mapping[str, ArrayLike]]],
    x_label: str,
    title: str,
    diagonal: Collection[str] = (),
    dpi: int = 200,
) -> Figure:
    """One panel a measure, one curve a head, with a band of one standard deviation where there is one.

    Args:
        panels: label of a measure -> head -> {"x": [P], "y": [P], "sd": [P], which may be missing}; in the units of the
            label. A head has the same colour in every panel.
        x_label: what all panels have below.
        title: one line above all.
        diagonal: labels of the panels in which y = x is drawn: what a promise or chance comes to.
        dpi: pixels per inch.

    Returns:
        A Figure, 4 inches wide a panel.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no panel or curve, more heads than colours, or columns of different lengths; a diagonal
            names no panel.

    Example:
        >>> curves = {"bndl": {"x": [100, 150], "y": [50.0, 54.0], "sd": [1.0, 0.8]}}
        >>> figure = measure_curves_plot({"accuracy, %": curves}, "labels", "What is a label worth?")
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels must not be empty; pass one measure with one curve or more.")
    if unknown := sorted(set(diagonal) - set(panels)):
        raise ValueError(f"diagonal names {', '.join(unknown)}; panels are {', '.join(panels)}.")
    heads = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    if len(heads) > len(LINE_COLORS):
        raise ValueError(f"{len(heads)} curves arrived; {len(LINE_COLORS)} can be told apart. Leave some out.")
    width = max(4.0 * len(panels), 5.5)
    figure = new_figure(width, 3.9, dpi)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    drawn = {}
    for axes, (label, curves) in zip(all_axes, panels.items(), strict=True):
        for name, curve in curves.items():
            number = heads.index(name)
            x = column(curve["x"], f"panels[{label!r}][{name!r}]['x']")
            y = column(curve["y"], f"panels[{label!r}][{name!r}]['y']", len(x))
            color = LINE_COLORS[number]
            if "sd" in curve:
                sd = column(curve["sd"], f"panels[{label!r}][{name!r}]['sd']", len(x))
                axes.fill_between(x, y - sd, y + sd, color=color, alpha=0.15, linewidth=0)
            marker = MARKERS[number] if len(x) <= _MAX_MARKED else ""
            (drawn[name],) = axes.plot(
                x, y, color=color, linestyle=LINE_STYLES[number], marker=marker, markersize=4, linewidth=1.6
            )
        if label in diagonal:
            ends, heights = axes.get_xlim(), axes.get_ylim()
            axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
            axes.set(xlim=ends, ylim=heights)
        finish_axes(axes, "", x_label, label)
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold", color=INK, fontfamily=FONT)
    handles, font = [drawn[name] for name in heads], {"family": FONT, "size": 9}
    columns = int(width / (_LEGEND_LINE + _LETTER * max(map(len, heads))))
    figure.legend(
        handles,
        heads,
        loc="outside lower center",
        ncols=min(max(1, columns), len(heads)),
        prop=font,
        frameon=False,
        labelcolor=INK,
    )
    return figure
