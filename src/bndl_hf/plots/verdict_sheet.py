"""Photographs with what a model says about them: the answer, its probability, the verdict, and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .factor_labels import check_thumbnails, show_thumbnail
from .style import CERTAIN_COLOR, FACTOR_COLOR, FONT, INK, MUTED, RULE, UNCERTAIN_COLOR, figure_class

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A sign beside each word: nobody has to tell the colours apart.
_VERDICTS = {"sure": ("✓", CERTAIN_COLOR), "torn": ("?", UNCERTAIN_COLOR), "unfamiliar": ("≠", "#8C4A86")}
# Inches.
_MARGIN, _CARD, _GUTTER, _IMAGE, _ROW, _LEFT = 0.08, 2.75, 0.28, 1.12, 0.32, 0.98


@dataclass(frozen=True)
class ShownAnswer:
    """One image and what stands beside it.

    Attributes:
        image: [H, W] grey or [H, W, 3] RGB; 0..255 if integers, else in [0, 1].
        label: the answer.
        probability: of it, as it is to be written, "98 %".
        verdict: "sure", "torn" or "unfamiliar"; None shows none.
        notes: lines below the verdict: the other classes, what is right.
        parts: (factor, its name, contribution to the answer's logit), largest first.
        rest: what all other factors add.
        bias: of the class.
        thumbnails: {factor: pictures}, at most three of which stand before its bar.
    """

    image: ArrayLike
    label: str
    probability: str
    verdict: str | None
    notes: Sequence[str] = ()
    parts: Sequence[tuple[int, str, float]] = ()
    rest: float = 0.0
    bias: float = 0.0
    thumbnails: Mapping[int, Sequence[Any]] = field(default_factory=dict)


def verdict_sheet(answers: Sequence[ShownAnswer], columns: int = 2, dpi: int = 160) -> Figure:
    """A sheet of images, each with answer, probability, verdict, and bars of the parts its logit consists of.

    Bars of one sheet have one scale. Parts of zero are not drawn.

    Args:
        answers: row by row.
        columns: answers in a row.
        dpi: pixels per inch.

    Returns:
        A Figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no answer, an image is not a picture, or a verdict has another name.

    Example:
        >>> figure = verdict_sheet([ShownAnswer(images[0], "cat", "98 %", "sure", parts=[(3, "whiskers", 2.1)])])
    """
    if not answers or columns < 1:
        raise ValueError(f"{len(answers)} answers in {columns} columns show nothing; pass one of each or more.")
    for answer in answers:
        if answer.verdict is not None and answer.verdict not in _VERDICTS:
            raise ValueError(f"verdict={answer.verdict!r} is not one of {', '.join(_VERDICTS)}, or None.")
    columns = min(columns, len(answers))
    most = max(sum(value > 0 for _, _, value in answer.parts) for answer in answers)
    card_height = 0.36 + _IMAGE + 0.12 + _ROW * most + 0.38
    rows = -(-len(answers) // columns)
    width = 2 * _MARGIN + columns * _CARD + (columns - 1) * _GUTTER
    height = 2 * _MARGIN + rows * card_height + (rows - 1) * _GUTTER
    page = _Page(figure_class()(figsize=(width, height), dpi=dpi, facecolor="white"), width, height)
    largest = max([1e-12, *(value for answer in answers for _, _, value in answer.parts)])
    for place, answer in enumerate(answers):
        row, column = divmod(place, columns)
        _draw(page, _MARGIN + column * (_CARD + _GUTTER), _MARGIN + row * (card_height + _GUTTER), answer, largest)
    return page.figure


def _draw(page: _Page, x: float, y: float, answer: ShownAnswer, largest: float) -> None:
    """One card with its top left corner at (x, y)."""
    (image,) = check_thumbnails([[answer.image]], 1)[0]
    page.text(x, y + 0.12, _shorten(answer.label, 18), size=11.5, weight="bold", color=INK, gid="label")
    page.text(
        x + _CARD, y + 0.12, answer.probability, size=11.5, weight="bold", color=INK, ha="right", gid="probability"
    )
    y += 0.36
    ratio = image.shape[1] / image.shape[0]
    w, h = (_IMAGE, _IMAGE / ratio) if ratio >= 1 else (_IMAGE * ratio, _IMAGE)
    axes = page.axes(x, y, w, h)
    top = 255 if np.issubdtype(image.dtype, np.integer) else 1.0
    smooth = "nearest" if max(image.shape[:2]) < 64 else "antialiased"
    axes.imshow(image, cmap="gray", vmin=0, vmax=top, interpolation=smooth, aspect="auto")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)
    left, line = x + _IMAGE + 0.12, y + 0.12
    if answer.verdict is not None:
        sign, color = _VERDICTS[answer.verdict]
        pill = {"boxstyle": "round,pad=0.3,rounding_size=0.6", "fc": color, "ec": "none"}
        words = f"{sign} {answer.verdict}"
        page.text(left + 0.05, line, words, size=9.5, weight="bold", color="white", gid="verdict", bbox=pill)
        line += 0.26
    for note in answer.notes:
        for words in _wrapped(note, 21)[:3]:
            page.text(left, line, words, size=8.5, color=INK, gid="note")
            line += 0.165
    y += _IMAGE + 0.12
    bar = _CARD - _LEFT - 0.42
    shown = [part for part in answer.parts if part[2] > 0]
    for factor, name, value in shown:
        middle = y + _ROW / 2
        pictures = list(answer.thumbnails.get(factor, ()))[:3]
        for i, picture in enumerate(check_thumbnails([pictures], 1)[0]):
            show_thumbnail(page.axes(x + i * (_ROW - 0.02), y + 0.02, _ROW - 0.04, _ROW - 0.04), picture)
        start = x + (_LEFT if pictures else 0)
        room = (x + _CARD - 0.4 - start) / 0.066
        page.text(
            start, middle - 0.075, _shorten(name.removeprefix("feeds "), int(room)), size=8, color=INK, gid="part"
        )
        page.bar(x + _LEFT, middle + 0.045, bar * value / largest, FACTOR_COLOR)
        page.text(x + _CARD, middle, f"{value:.1f}", size=8.5, color=INK, ha="right", gid="part_value")
        y += _ROW
    for words in _rest_of(answer, shown):
        page.text(x, y + 0.09, words, size=8, color=MUTED, gid="rest")
        y += 0.165


def _rest_of(answer: ShownAnswer, shown: Sequence[tuple[int, str, float]]) -> list[str]:
    """What the bars leave out, in words: their scale is that of the parts, of which there may be a thousand."""
    named = sum(value for _, _, value in shown)
    whole = named + answer.rest
    first = f"{named / whole:.0%} of the evidence; " if shown and whole > 0 else ""
    return [f"{first}all others {_signed(answer.rest)},", f"bias {_signed(answer.bias)}"]


class _Page:
    """A figure measured in inches from its top left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """`words` with their middle at height y."""
        place = x / self.width, 1 - y / self.height
        self.figure.text(*place, words, **{"va": "center", "fontfamily": FONT, "parse_math": False, **style})

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose top left corner is at (x, y)."""
        left, bottom = x / self.width, 1 - (y + height) / self.height
        return self.figure.add_axes((left, bottom, width / self.width, height / self.height))

    def bar(self, x: float, middle: float, length: float, color: str, height: float = 0.085) -> None:
        """A bar to the right of x."""
        from matplotlib.patches import Rectangle

        corner = x / self.width, 1 - (middle + height / 2) / self.height
        size = length / self.width, height / self.height
        self.figure.add_artist(Rectangle(corner, *size, facecolor=color, transform=self.figure.transFigure))


def _shorten(words: str, length: int) -> str:
    return words if len(words) <= length else words[: max(1, length - 1)].rstrip() + "…"


def _wrapped(words: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(words, width) or [""]


def _signed(value: float) -> str:
    return f"{value:.1f}".replace("-0.0", "0.0").replace("-", "−")
