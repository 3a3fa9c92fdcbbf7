"""Maps of evidence laid over their images: where the parts of a decision come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .factor_labels import on_two_lines
from .style import FACTOR_COLOR, FONT, INK, RULE, UNCERTAIN_COLOR, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL = 1.5  # inches
_CAPTION_WIDTH = 24  # characters over a cell
_MOST_OPAQUE = 0.85  # where a map is largest; some of the image stays visible


def map_overlays(
    images: ArrayLike,
    maps: ArrayLike,
    captions: Sequence[Sequence[str]] | None = None,
    image_captions: Sequence[str] | None = None,
    title: str = "Where the evidence lies",
    dpi: int = 200,
) -> Figure:
    """A row for each image: the image, then each of its maps laid over it in grey.

    Green is evidence for, vermilion against, opaque as the square of it; grey is the image alone. All maps
    of one image share a scale, so that a faint map is a small part.

    Args:
        images: [B, H, W] grey or [B, H, W, 3] RGB; 0..255 if integers, else in [0, 1].
        maps: [B, k, H, W] or [B, H, W], any unit (`FactorMaps.maps`, `ClassMaps.maps`, `gradcam`, LIME's `map`).
        captions: B rows of k, above each map, on two lines where they are long.
        image_captions: B of them, above each image, likewise.
        title: one line above all.
        dpi: pixels per inch.

    Returns:
        A Figure of k + 1 columns and B rows.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: images, maps or captions do not fit each other, or a map holds NaN.

    Example:
        >>> maps = factor_maps(model, pixel_values, top_k=3)
        >>> captions = [[f"factor {k}" for k in row] for row in maps.factors.tolist()]
        >>> figure = map_overlays(images, maps.maps, captions)
    """
    pictures, layers = np.asarray(images), np.asarray(maps, dtype=np.float64)
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[-1] != 3) or not len(pictures):
        raise ValueError(f"images have shape {list(pictures.shape)}; pass [B, H, W] grey or [B, H, W, 3] RGB.")
    B, size = len(pictures), pictures.shape[1:3]
    layers = layers[:, None] if layers.ndim == 3 else layers
    if layers.ndim != 4 or len(layers) != B or layers.shape[2:] != size:
        raise ValueError(
            f"maps have shape {list(np.shape(maps))}; {B} images of {size[0]}x{size[1]} pixels need [{B}, k, "
            f"{size[0]}, {size[1]}] or [{B}, {size[0]}, {size[1]}]."
        )
    if not np.isfinite(layers).all():
        raise ValueError("maps hold NaN or infinite values, which have no colour.")
    k = layers.shape[1]
    _check_captions(captions, image_captions, B, k)
    captions = captions and [[on_two_lines(one, _CAPTION_WIDTH) for one in row] for row in captions]
    image_captions = image_captions and [on_two_lines(one, _CAPTION_WIDTH) for one in image_captions]
    lines = [one.count("\n") + 1 for row in (*(captions or ()), image_captions or ()) for one in row]
    row_height = _CELL * size[0] / size[1] + (0.08 + 0.14 * max(lines) if lines else 0.04)
    figure = new_figure(_CELL * (k + 1), row_height * B + 0.3, dpi)
    figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold", color=INK, fontfamily=FONT, parse_math=False)
    top = 255 if np.issubdtype(pictures.dtype, np.integer) else 1.0
    for b, cells in enumerate(figure.subplots(B, k + 1, squeeze=False)):
        show_image(cells[0], pictures[b] / top, image_captions[b] if image_captions else None)
        grey = pictures[b] / top if pictures.ndim == 3 else (pictures[b] / top) @ (0.299, 0.587, 0.114)
        largest = np.abs(layers[b]).max()
        for i, cell in enumerate(cells[1:]):
            show_image(cell, 0.35 + 0.65 * grey, captions[b][i] if captions else None)
            cell.imshow(overlay_colours(layers[b, i] / largest if largest > 0 else layers[b, i]))
    return figure


def _check_captions(
    captions: Sequence[Sequence[str]] | None, image_captions: Sequence[str] | None, B: int, k: int
) -> None:
    if captions is not None and [len(row) for row in captions] != [k] * B:
        raise ValueError(f"captions must be {B} rows of {k}, one for each map.")
    if image_captions is not None and len(image_captions) != B:
        raise ValueError(f"image_captions are {len(image_captions)}; {B} images need {B}.")


def show_image(axes: Axes, image: np.ndarray, caption: str | None = None) -> None:
    """An image in [0, 1] without ticks, its caption above."""
    smooth = "nearest" if max(image.shape[:2]) < 64 else "antialiased"
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation=smooth)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)
    if caption is not None:
        axes.set_title(caption, size=8, color=INK, fontfamily=FONT, parse_math=False, pad=3)


def overlay_colours(values: np.ndarray) -> np.ndarray:
    """RGBA of values in [-1, 1]: the colour says the sign, the opacity the square, so that half as much looks faint."""
    from matplotlib.colors import to_rgb

    colours = np.where(values[..., None] >= 0, to_rgb(FACTOR_COLOR), to_rgb(UNCERTAIN_COLOR))
    return np.concatenate([colours, _MOST_OPAQUE * np.square(values)[..., None]], axis=-1)
