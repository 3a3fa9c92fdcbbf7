"""What stands beside a factor's bar or map: its name on at most two lines, and its thumbnails."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def on_two_lines(words: str, width: int) -> str:
    """`words` on one or two lines of at most `width` characters, the end left out where it does not fit."""
    together = words.replace(" more", "\u00a0more")  # "+12 more" stays on one line
    lines = textwrap.wrap(together, width, max_lines=2, placeholder=" …")
    return "\n".join(lines).replace("\u00a0more", " more") or words


def check_thumbnails(thumbnails: Sequence[Sequence[Any]] | None, k: int) -> list[list[np.ndarray]]:
    """The pictures of k factors as arrays, each [H, W] or [H, W, 3]; k empty lists where there are none.

    Raises:
        ValueError: they are not of k factors, or one is not a picture.
    """
    if thumbnails is None:
        return [[] for _ in range(k)]
    pictures = [[np.asarray(one) for one in of_factor] for of_factor in thumbnails]
    if len(pictures) != k:
        raise ValueError(f"thumbnails of {len(pictures)} factors; {k} parts need a list each, which may be empty.")
    for one in (one for of_factor in pictures for one in of_factor):
        if one.ndim not in (2, 3) or one.shape[2:] not in ((), (3,)) or not one.size:
            raise ValueError(f"A thumbnail has shape {list(one.shape)}; [H, W] grey or [H, W, 3] RGB fits.")
    return pictures


def show_thumbnail(axes: Axes, picture: np.ndarray) -> None:
    """A picture that fills its axes."""
    top = 255 if np.issubdtype(picture.dtype, np.integer) else 1.0
    axes.imshow(picture, cmap="gray", vmin=0, vmax=top, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.set_gid("thumbnail")
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.5)
