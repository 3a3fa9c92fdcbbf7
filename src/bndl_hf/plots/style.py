"""What all figures share: colours, type, axes, and how a figure becomes a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bndl_hf.utils.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008): told apart with every kind of colour blindness, and in grey by their lightness.
CERTAIN_COLOR = "#0072B2"  # blue
UNCERTAIN_COLOR = "#D55E00"  # vermilion
FACTOR_COLOR = "#009E73"  # bluish green
REST_COLOR = "#9AA3AB"
BIAS_COLOR = "#D3D8DC"
# For lines side by side, in this order; with LINE_STYLES they differ without any colour too.
LINE_COLORS = (CERTAIN_COLOR, UNCERTAIN_COLOR, FACTOR_COLOR, "#CC79A7", "#E69F00", "#56B4E9", "#1B2126")
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 2)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, MUTED, RULE = "#1B2126", "#66707A", "#D9DEE2"
FONT = "DejaVu Sans"  # comes with matplotlib


def figure_class() -> type[Figure]:
    """`matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib, which is not there; pip install bndl-hf[plots].") from error
    return Figure


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty white figure of `width` x `height` inches that lays itself out."""
    return figure_class()(figsize=(width, height), dpi=dpi, facecolor="white", layout="constrained")


def finish_axes(axes: Axes, title: str, x_label: str, y_label: str, legend: str | None = None) -> None:
    """Title, labels, a light grid, and a legend at the place `legend` names, in the one type of all figures."""
    text: dict[str, Any] = {"fontfamily": FONT, "parse_math": False}
    axes.set_title(title, loc="left", size=11, weight="bold", color=INK, **text)
    axes.set_xlabel(x_label, size=9.5, color=INK, **text)
    axes.set_ylabel(y_label, size=9.5, color=INK, **text)
    axes.tick_params(labelsize=9, labelcolor=MUTED, color=RULE, labelfontfamily=FONT)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set(color=RULE, linewidth=0.8, visible=side in ("left", "bottom"))
    if legend is not None:
        font: dict[str, Any] = {"family": FONT, "size": 8.5}
        place: Any = legend  # matplotlib lists the places by name
        axes.legend(loc=place, prop=font, frameon=True, framealpha=0.9, edgecolor="none", labelcolor=INK)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG that says nothing of the machine it was made on; the file appears whole or stays as it was.

    Returns:
        The path.
    """
    with written_whole(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return Path(path)


def column(values: ArrayLike, name: str, length: int | None = None) -> np.ndarray:
    """`values` as a float64 vector that is not empty, of `length` numbers if that is given.

    Raises:
        ValueError: it has another shape.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or length not in (None, len(array)):
        wanted = f"[{length}]" if length is not None else "one axis, not empty,"
        raise ValueError(f"{name} has shape {list(array.shape)}; {wanted} fits.")
    return array
