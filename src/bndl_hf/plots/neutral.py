"""A figure for light and dark pages alike: no background, and words in a grey that is read on white and on black.

A page's theme is the reader's choice, and a file on the Hub knows nothing of it. So a figure on a model card has one
version that both can show.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bndl_hf.utils.files import written_whole

from .style import BIAS_COLOR, INK, MUTED, REST_COLOR, RULE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# 4.3 times as bright as, or darker than, white and the Hub's darkest background (#0b0f19): as far from one as from the
# other.
NEUTRAL_INK = "#777C82"
NEUTRAL_RULE = "#777C8240"
_PAGE = "#FFFFFF"
_REPLACED = {
    INK: NEUTRAL_INK,
    MUTED: NEUTRAL_INK,
    RULE: NEUTRAL_RULE,
    BIAS_COLOR: "#9AA3ABAA",
    REST_COLOR: "#8A939B",
    _PAGE: "none",
}


def neutral_figure(figure: Figure) -> Figure:
    """The same figure, changed in place, with colours that are read on a light page and on a dark one.

    Whatever is drawn in the ink, grey, rules or white of this package's figures changes; pictures, words on coloured
    ground, and curves and bars in colours stay.

    Args:
        figure: of a function of `bndl_hf.plots`, or one that uses its colours.

    Returns:
        `figure`.

    Example:
        >>> figure = neutral_figure(accuracy_by_decile_plot({"entropy": [0.9, 0.8]}))
    """
    from matplotlib.colors import to_hex
    from matplotlib.text import Text

    def changed(color: Any) -> Any:
        return _REPLACED.get(to_hex(color).upper(), color)

    for artist in figure.findobj():
        if isinstance(artist, Text):
            patch = artist.get_bbox_patch()
            if patch is None or to_hex(patch.get_facecolor()).upper() == _PAGE:
                artist.set_color(changed(artist.get_color()))
        for part in ("facecolor", "edgecolor", "color"):
            get, put = getattr(artist, f"get_{part}", None), getattr(artist, f"set_{part}", None)
            if get is None or put is None or isinstance(artist, Text) or (part == "color" and _has_faces(artist)):
                continue
            value = get()
            if isinstance(value, str) or (hasattr(value, "__len__") and len(value) in (3, 4) and _is_number(value[0])):
                if value == "none" or (not isinstance(value, str) and len(value) == 4 and value[3] == 0):
                    continue
                if (new := changed(value)) is not value:
                    put(new)
                    if (
                        len(new) > len(NEUTRAL_INK) and artist.get_alpha() == 1
                    ):  # a grid's, which hides the colour's own
                        artist.set_alpha(None)
    return figure


def save_neutral_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write `neutral_figure(figure)` as WebP without a background; small, and nothing of the machine is in it.

    Returns:
        The path.
    """
    neutral_figure(figure)
    with written_whole(path) as partial:
        figure.savefig(partial, format="webp", transparent=True, pil_kwargs={"quality": 82, "method": 4})
    return Path(path)


def _has_faces(artist: Any) -> bool:
    return hasattr(artist, "get_facecolor")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "ndim", None) == 0
