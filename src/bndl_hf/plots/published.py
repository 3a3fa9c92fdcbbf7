"""Numbers of our own beside those that others have published: one panel a measure, one row a system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import FONT, INK, LINE_COLORS, MARKERS, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Series -> system -> mean and standard deviation, None where it is not known.
Series = Mapping[str, Mapping[str, tuple[float, float | None]]]


def published_comparison_plot(
    panels: Mapping[str, Series], systems: Sequence[str] | None = None, title: str = "", dpi: int = 200
) -> Figure:
    """Mean and standard deviation of every system, the published number and ours in one row.

    Args:
        panels: label of a measure with its unit -> name of a series ("paper", "ours") -> system -> mean and standard
            deviation, None where there is none. A series may lack some systems.
        systems: their order, from top to bottom; None takes that in which they come.
        title: one line above the first panel.
        dpi: pixels per inch.

    Returns:
        A Figure with the panels side by side, 4.2 inches each and room for the names.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no panel, a panel without any number, a system that `systems` lacks, or more series than
            there are markers.

    Example:
        >>> panel = {"paper": {"dense": (94.98, 0.12)}, "ours": {"dense": (94.1, None)}}
        >>> figure = published_comparison_plot({"accuracy, %": panel})
    """
    found = list(dict.fromkeys(name for panel in panels.values() for series in panel.values() for name in series))
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    if empty := [label for label, panel in panels.items() if not any(panel.values())]:
        raise ValueError(f"panels[{empty[0]!r}] has no number; leave it out.")
    if not found:
        raise ValueError("panels is empty; pass one measure or more by its label.")
    systems = found if systems is None else [name for name in systems if name in found]
    if lacking := [name for name in found if name not in systems]:
        raise ValueError(f"systems lacks {', '.join(lacking)}, of which panels has numbers.")
    if len(names) > len(MARKERS):
        raise ValueError(f"{len(names)} series arrived; {len(MARKERS)} can be told apart. Leave some out.")
    figure = new_figure(1.4 + 4.2 * len(panels), 1.5 + 0.42 * len(systems), dpi)
    places = {name: place for place, name in enumerate(systems)}
    axes_of = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (label, panel) in zip(axes_of, panels.items(), strict=True):
        for number, name in enumerate(names):
            numbers = panel.get(name, {})
            aside = 0.5 * ((number + 0.5) / len(names) - 0.5)  # within a row, so that equal numbers do not hide
            axes.errorbar(
                [mean for mean, _ in numbers.values()],
                [places[system] + aside for system in numbers],
                xerr=[sd or 0.0 for _, sd in numbers.values()],
                color=LINE_COLORS[number],
                marker=MARKERS[number],
                markersize=6,
                linestyle="none",
                capsize=2,
                label=name,
            )
        axes.set_yticks(range(len(systems)), systems)
        axes.set_ylim(len(systems) - 0.5, -0.5)
        finish_axes(axes, title if axes is axes_of[0] else "", label, "")
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        prop={"family": FONT, "size": 8.5},
        labelcolor=INK,
    )
    return figure
