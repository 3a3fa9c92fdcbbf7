"""Many heads on many tasks: what each loses to the best rival, and the average rank (Demsar 2006)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .style import FONT, INK, LINE_COLORS, MARKERS, MUTED, REST_COLOR, column, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Excess beyond which the axis becomes logarithmic, percent: below it differences are what a reader compares.
_LINEAR_TO = 10.0


def task_comparison_plot(
    tasks: Sequence[str],
    ratios: Mapping[str, ArrayLike],
    ranks: Mapping[str, Mapping[str, float]],
    title: str = "Excess negative log-likelihood over the best rival",
    dpi: int = 200,
) -> Figure:
    """Excess likelihood of every head on every task, and beside it the heads' average ranks.

    Args:
        tasks: names, [T], from top to bottom.
        ratios: head -> negative log-likelihood over that of the best rival on each task, [T], above 0; NaN where the
            head was not run. The first head is drawn over the others.
        ranks: measure -> head -> rank averaged over tasks, 1 is best.
        title: one line above the left panel.
        dpi: pixels per inch.

    Returns:
        A Figure 10.4 inches wide; excess is in percent, linear to 10 % and logarithmic beyond.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no task, head or rank; more heads than there are markers; ratios of another length or not
            above 0; ranks of a head without ratios.
    """
    if not tasks or not ratios or not ranks:
        raise ValueError("tasks, ratios and ranks must not be empty; pass one task, head and measure or more.")
    if len(ratios) > len(LINE_COLORS) + 2:
        raise ValueError(f"{len(ratios)} heads arrived; {len(LINE_COLORS) + 2} can be told apart. Leave some out.")
    excess = {name: 100 * (column(values, f"ratios[{name!r}]", len(tasks)) - 1) for name, values in ratios.items()}
    if wrong := [name for name, values in excess.items() if (values <= -100).any()]:
        raise ValueError(f"ratios of {', '.join(wrong)} are not above 0; a ratio of two likelihoods in nats fits.")
    if unknown := {name for by_head in ranks.values() for name in by_head} - set(ratios):
        raise ValueError(f"ranks name {', '.join(sorted(unknown))}, which ratios lack; pass the same heads to both.")
    figure = new_figure(10.4, 1.6 + 0.4 * max(len(tasks), len(ratios) / 1.6), dpi)
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    colors = (*LINE_COLORS, REST_COLOR, MUTED)
    marks = (*MARKERS, "<", ">")
    places = np.arange(len(tasks))
    for number, (name, values) in enumerate(excess.items()):
        # Side by side within a task's row, so that equal values do not hide each other.
        aside = 0.5 * ((number + 0.5) / len(excess) - 0.5)
        left.scatter(
            values, places + aside, s=44 if number else 70, color=colors[number], marker=marks[number], label=name,
            zorder=3 + len(excess) - number, edgecolor="white", linewidth=0.6,
        )  # fmt: skip
    left.axvline(0, color=INK, linewidth=1, zorder=2)
    left.set_xscale("symlog", linthresh=_LINEAR_TO, linscale=1.0)
    _excess_ticks(left, np.concatenate(list(excess.values())))
    left.set_yticks(places, tasks)
    left.set_ylim(len(tasks) - 0.5, -0.5)
    finish_axes(left, title, "excess, % (below 0: better than the rival)", "")
    first = next(iter(ranks.values()))
    order = sorted(first, key=lambda name: first[name])
    numbers = {name: number for number, name in enumerate(ratios)}
    rows = np.arange(len(order))
    for number, (measure, by_head) in enumerate(ranks.items()):
        offset = (number - (len(ranks) - 1) / 2) * 0.3
        for row, name in zip(rows, order, strict=True):
            if name not in by_head:
                continue
            color = colors[numbers[name]]
            right.plot([0, by_head[name]], [row + offset] * 2, color=color, linewidth=1.4, alpha=0.5)
            right.scatter(
                by_head[name], row + offset, s=36, marker="o" if number == 0 else "s", zorder=3, linewidth=1.4,
                edgecolor=color, facecolor=color if number == 0 else "white",
            )  # fmt: skip
        style = {"marker": "o" if number == 0 else "s", "edgecolor": INK, "facecolor": INK if number == 0 else "white"}
        right.scatter([], [], s=30, label=measure, **style)
    right.set_yticks(rows, order)
    right.set_ylim(len(order) - 0.5, -0.5)
    right.set_xlim(0, len(order) + 0.5)
    finish_axes(right, "Average rank", "rank over tasks, 1 is best", "", legend="upper right")
    right.grid(axis="y", visible=False)
    handles, names = left.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(len(names), 9), frameon=False,
        prop={"family": FONT, "size": 8.5}, labelcolor=INK,
    )  # fmt: skip
    return figure


def _excess_ticks(axes: Axes, values: np.ndarray) -> None:
    """Ticks at round percentages within what is drawn."""
    lowest, highest = np.nanmin(values, initial=0.0), np.nanmax(values, initial=0.0)
    margin = 1.25
    axes.set_xlim(min(lowest * margin, -2), max(highest * margin, 4))
    ticks = [-50, -30, -20, -10, -5, 0, 5, 10, 30, 100, 300, 1000, 3000, 10_000]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+,.0f}" if value else "0")
    axes.xaxis.minorticks_off()
