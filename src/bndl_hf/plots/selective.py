"""How often a model is wrong if it answers only what it is surest of (Geifman and El-Yaniv 2017, arXiv:1705.08500)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .style import FONT, INK, LINE_COLORS, LINE_STYLES, MUTED, column, finish_axes, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_POINTS = 2000  # of a curve; more cannot be seen


def risk_coverage_plot(
    risk: Mapping[str, ArrayLike],
    accuracy: float | None = None,
    risks: Sequence[float] = (0.01, 0.05),
    title: str = "How many errors remain if it may decline?",
    dpi: int = 200,
) -> Figure:
    """Share of errors among the answered images against the share answered, for one or several orders of the images.

    Args:
        risk: name of an order -> [B] risk when the i surest of B images are answered, i = 1..B, as a fraction
            (`risk_coverage_curve(...).risk`).
        accuracy: of all images, a fraction: the best possible order, right answers first, is drawn for comparison.
        risks: target risks drawn as level lines, as fractions.
        title: one line above.
        dpi: pixels per inch.

    Returns:
        A Figure of 6.4 x 4.2 inches. The legend says each curve's area (AURC).

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no curve, or an empty one.

    Example:
        >>> curve = risk_coverage_curve(prediction.probs.max(-1).values, prediction.predicted_labels == labels)
        >>> figure = risk_coverage_plot({"largest probability": curve.risk})
    """
    if not risk:
        raise ValueError("risk is empty; pass one curve or more by name.")
    figure = new_figure(6.4, 4.2, dpi)
    axes = figure.subplots()
    highest = 0.0
    for number, (name, values) in enumerate(risk.items()):
        curve = column(values, f"risk[{name!r}]")
        color, style = LINE_COLORS[number % 7], LINE_STYLES[number % 7]
        label = f"by {name} (AURC {curve.mean():.4f})"
        coverage, shown = _thinned(curve)
        axes.plot(coverage, shown, color=color, linestyle=style, linewidth=1.6, label=label)
        highest = max(highest, curve[len(curve) // 20 :].max())  # the first images' risk is noise
    if accuracy is not None:
        coverage = np.linspace(0.001, 1, 1000)
        best = np.clip(coverage - accuracy, 0, None) / coverage
        axes.fill_between(100 * coverage, 100 * best, color=MUTED, alpha=0.18, linewidth=0, label="best possible order")
    for level in risks:
        if level < highest:
            axes.axhline(100 * level, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)))
            words = f"{100 * level:g} % errors"
            axes.text(99.4, 100 * level, words, ha="right", va="bottom", size=8.5, color=INK, fontfamily=FONT)
    axes.set(xlim=(0, 100), ylim=(0, max(108 * highest, 0.1)))
    finish_axes(axes, title, "images answered, surest first, %", "errors among them, %", legend="upper left")
    return figure


def _thinned(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk in percent, at most `_MAX_POINTS` of them, the last one always."""
    places = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _MAX_POINTS)).round().astype(int))
    return 100 * (places + 1) / len(curve), 100 * curve[places]
