"""What the factors stand for, in one picture: a row for each factor with the images that show it most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .map_overlays import overlay_colours, show_image
from .style import FONT, INK, MUTED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _WORDS = 0.95, 1.5  # inches


def factor_sheet(
    images: Sequence[ArrayLike],
    maps: Sequence[ArrayLike],
    names: Sequence[str],
    classes: Sequence[Sequence[str]] | None = None,
    purity: Sequence[float | None] | None = None,
    title: str = "What the factors stand for",
    dpi: int = 200,
) -> Figure:
    """A row for each factor: its name, the classes it feeds, and its top images, each beside itself with its map.

    Args:
        images: for each factor its top images, [n, H, W] grey or [n, H, W, 3] RGB; 0..255 if integers, else in [0, 1].
        maps: for each factor where those images show it, [n, H, W]; every map has a scale of its own.
        names: a name for each factor.
        classes: for each factor the names of the classes it feeds, largest loading first.
        purity: for each factor the share of its top images that have one class, in [0, 1].
        title: one line above all.
        dpi: pixels per inch.

    Returns:
        A Figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no factor, images and maps of one do not fit each other, a map holds NaN, or classes or
            purity are not one for each factor.

    Example:
        >>> figure = factor_sheet([card.pictures for card in cards], [card.maps for card in cards],
        ...                       [f"factor {card.factor}" for card in cards])
    """
    if not len(images) == len(maps) == len(names) or not len(names):
        raise ValueError(
            f"images of {len(images)}, maps of {len(maps)} and names of {len(names)} factors; give each all three."
        )
    K = len(names)
    counts = [K if given is None else len(given) for given in (classes, purity)]
    if counts != [K, K]:
        raise ValueError(f"classes of {counts[0]} and purity of {counts[1]} factors; {K} factors need {K} of each.")
    rows = [(np.asarray(one), np.asarray(two, dtype=np.float64)) for one, two in zip(images, maps, strict=True)]
    for name, (pictures, layers) in zip(names, rows, strict=True):
        if pictures.shape[:3] != layers.shape or pictures.shape[3:] not in ((), (3,)) or not len(layers):
            raise ValueError(
                f"{name}: images of shape {list(pictures.shape)} and maps of shape {list(layers.shape)} do not fit."
            )
        if not np.isfinite(layers).all():
            raise ValueError(f"{name}: its maps hold NaN or infinite values, which have no colour.")
    n = max(len(layers) for _, layers in rows)
    figure = new_figure(_WORDS + _CELL * n, 2 * _CELL * len(rows) + 0.4, dpi)
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold", color=INK, fontfamily=FONT, parse_math=False)
    grid = figure.add_gridspec(2 * len(rows), n + 1, width_ratios=[_WORDS, *[_CELL] * n])
    for f, (pictures, layers) in enumerate(rows):
        words = figure.add_subplot(grid[2 * f : 2 * f + 2, 0])
        words.axis("off")
        font: dict[str, Any] = {"fontfamily": FONT, "parse_math": False, "va": "center", "transform": words.transAxes}
        words.text(0, 0.58, names[f], size=11, weight="bold", color=INK, **font)
        lines = [] if classes is None else ["feeds " + (", ".join(classes[f]) or "no class")]
        if purity is not None and purity[f] is not None:
            lines.append(f"one class: {purity[f]:.0%}")
        words.text(0, 0.52, "\n".join(lines), size=8, color=MUTED, **{**font, "va": "top"}, wrap=True)
        pictures = pictures / (255 if np.issubdtype(pictures.dtype, np.integer) else 1.0)
        grey = pictures if pictures.ndim == 3 else pictures @ (0.299, 0.587, 0.114)
        for i in range(len(layers)):
            show_image(figure.add_subplot(grid[2 * f, i + 1]), pictures[i])
            below = figure.add_subplot(grid[2 * f + 1, i + 1])
            show_image(below, 0.35 + 0.65 * grey[i])
            below.imshow(overlay_colours(layers[i] / max(np.abs(layers[i]).max(), np.finfo(np.float64).tiny)))
    return figure
