"""The surest and the least sure predictions and what each decision consists of, the figure at the top of the README."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from .factor_labels import check_thumbnails, show_thumbnail
from .style import (
    BIAS_COLOR,
    CERTAIN_COLOR,
    FACTOR_COLOR,
    FONT,
    INK,
    MUTED,
    REST_COLOR,
    RULE,
    UNCERTAIN_COLOR,
    figure_class,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches. At the default 200 dpi and six columns a sheet is 2,400 pixels wide; 8 points are 11 pixels of 1,200.
_MARGIN, _CARD, _GUTTER = 0.42, 1.68, 0.216
_IMAGE, _BAR_ROW, _LABEL_COLUMN, _VALUE_COLUMN = 0.84, 0.165, 0.62, 0.34
_NAMED_ROW, _THUMBNAIL = 0.29, 0.24  # a part with its name above the bar, and its pictures before both
_TITLE, _HEADING, _NAMES, _BETWEEN = 0.70, 0.42, 0.42, 0.24


def prediction_sheet(
    images: ArrayLike,
    true_labels: ArrayLike,
    predicted_labels: ArrayLike,
    probs: ArrayLike,
    is_certain: ArrayLike,
    p_value: ArrayLike,
    contributions: ArrayLike,
    factors: ArrayLike,
    rest: ArrayLike,
    bias: ArrayLike,
    label_names: Sequence[str] | None = None,
    threshold: float | None = None,
    images_per_block: int = 6,
    title: str = "The surest and the least sure predictions",
    caption: str | None = None,
    dpi: int = 200,
    factor_names: Sequence[str] | None = None,
    thumbnails: Mapping[int, Sequence[Any]] | None = None,
) -> Figure:
    """The surest of B images above the least sure: answer, probability, verdict, and the parts of each decision.

    Each image comes with its predicted label and probability, the true label where that is wrong, else the runner-up,
    "certain" or "uncertain" in word, sign and colour, and a bar chart of what the logit consists of, all on one scale.
    Images are ordered by p-value, then probability. The surest are shown one per class while there are classes,
    because the very surest are often all alike. Parts of exactly zero are not drawn.

    Args:
        images: [B, H, W] grey or [B, H, W, 3] RGB; 0..255 if integers, else in [0, 1].
        true_labels: [B] class indices.
        predicted_labels: [B] class indices.
        probs: [B, C] predictive probabilities.
        is_certain: [B] booleans (`BNDLPrediction.is_certain`).
        p_value: [B] in [0, 1], small for the surest; a `flip_probability` orders as well.
        contributions: [B, k] largest non-negative parts of the predicted class's logit (`Evidence.contributions`).
        factors: [B, k] the factors they belong to.
        rest: [B] what all other factors add.
        bias: [B] the bias of the predicted class.
        label_names: the C class names; None shows the indices.
        threshold: the p-value below which an image counts as certain; named in the figure if given.
        images_per_block: images in each of the two blocks, a block being one row; fewer where B is small.
        title: one line above.
        caption: one line below; None explains the bars.
        dpi: pixels per inch.
        factor_names: K words, one for each factor of the model (`bndl_hf.interpretability.factor_names`), above its
            bar.
        thumbnails: {factor: pictures}, at most three of which stand before its bar (`FactorThumbnails.images`).

    Returns:
        A Figure; `figure.savefig("sheet.png")` writes it, 2,400 pixels wide with six images in a block.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the arrays do not describe the same number of images, or there is none.

    Example:
        >>> prediction, evidence = model.predict(pixel_values), model.explain(pixel_values, top_k=4)
        >>> figure = prediction_sheet(
        ...     images, labels, prediction.predicted_labels, prediction.probs,
        ...     prediction.is_certain, prediction.p_value,
        ...     evidence.contributions, evidence.factors, evidence.rest, evidence.bias)
    """
    make_figure = figure_class()
    names = "images true_labels predicted_labels probs is_certain p_value contributions factors rest bias"
    given = images, true_labels, predicted_labels, probs, is_certain, p_value, contributions, factors, rest, bias
    columns = {name: np.asarray(values) for name, values in zip(names.split(), given, strict=True)}
    B = _check_columns(columns)
    if images_per_block < 1:
        raise ValueError(f"images_per_block={images_per_block} shows nothing; pass 1 or more.")
    order = np.lexsort((-columns["probs"].max(axis=1), columns["p_value"]))  # p-value first, then probability
    n = min(images_per_block, max(1, B // 2))
    least_sure = order[::-1][:n] if B > 1 else order[:0]
    surest = _one_per_class(order[: B - len(least_sure)], columns["predicted_labels"], n)
    blocks = [("Surest", "smallest p-values, one image per class where there are enough", surest)]
    if B > 1:
        blocks.append(("Least sure", "largest p-values", least_sure))

    classes = [str(c) for c in range(columns["probs"].shape[1])] if label_names is None else list(label_names)
    name_height = _NAMES if max(map(len, classes)) > 2 else 0.0
    shown = np.concatenate([rows for _, _, rows in blocks])
    parts = columns["contributions"][shown]
    labels = _FactorLabels(columns["factors"], factor_names, thumbnails)
    # ... and rest, bias, their sum
    parts_height = (parts > 0).sum(axis=1).max(initial=0) * labels.row_height + 3 * _BAR_ROW
    card_height = name_height + _IMAGE + 0.14 + parts_height
    num_columns = max(n, 4)  # title and headings need the width of four cards
    width = 2 * _MARGIN + num_columns * _CARD + (num_columns - 1) * _GUTTER
    lines = textwrap.wrap(
        caption or _caption(parts.shape[1]) + labels.caption(), int(15.5 * (width - 2 * _MARGIN))
    )  # characters an inch
    height = _TITLE + len(blocks) * (_HEADING + card_height + _BETWEEN) + 0.3 + 0.17 * (len(lines) - 1)
    figure = make_figure(figsize=(width, height), dpi=dpi, facecolor="white")
    page = _Page(figure, width, height)
    page.text(_MARGIN, 0.38, title, size=15, weight="bold", color=INK, gid="title")
    words = f"{columns['is_certain'].sum():,} of {B:,} images certain{f' (p < {threshold:g})' if threshold else ''}"
    page.text(width - _MARGIN, 0.38, words, size=9.5, color=INK, ha="right", gid="count")
    limits = (
        float(min(0.0, columns["bias"][shown].min())),
        float(max(parts.max(initial=1e-12), columns["rest"][shown].max(), columns["bias"][shown].max())),
    )
    y = _TITLE
    for heading, words, rows in blocks:
        page.rule(y)
        page.text(_MARGIN, y + 0.20, heading, size=11, weight="bold", color=INK, gid="heading")
        page.text(width - _MARGIN, y + 0.20, words, size=8.5, color=MUTED, ha="right", gid="heading")
        y += _HEADING
        for column, row in enumerate(rows):
            x = _MARGIN + column * (_CARD + _GUTTER)
            card = {name: values[row] for name, values in columns.items()}
            _draw_answer(page, x, y, card, classes, name_height)
            _draw_parts(page, x, y + name_height + _IMAGE + 0.14, card, limits, labels)
        y += card_height + _BETWEEN
    for number, line in enumerate(lines):
        page.text(_MARGIN, y + 0.17 * number, line, size=8.5, color=MUTED, gid="caption")
    return figure


def _check_columns(columns: dict[str, np.ndarray]) -> int:
    """B, once every array is known to have it and the shape that belongs to it."""
    images = columns["images"]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise ValueError(f"images have shape {list(images.shape)}; pass [B, H, W] grey or [B, H, W, 3] RGB.")
    if columns["probs"].ndim == 2 and columns["probs"].shape[1] < 2:
        raise ValueError(f"probs have shape {list(columns['probs'].shape)}; a classifier has two classes or more.")
    B = len(images)
    if B == 0:
        raise ValueError("There is no image to show: images is empty.")
    for name, values in columns.items():
        ndim = {"images": images.ndim, "probs": 2, "contributions": 2, "factors": 2}.get(name, 1)
        if values.ndim != ndim or len(values) != B:
            raise ValueError(f"{name} has shape {list(values.shape)}; {B} images need {ndim} axes, the first of {B}.")
    if columns["factors"].shape != columns["contributions"].shape:
        shapes = list(columns["factors"].shape), list(columns["contributions"].shape)
        raise ValueError(f"factors {shapes[0]} and contributions {shapes[1]} must have one shape: a factor per part.")
    return B


def _one_per_class(order: np.ndarray, predicted: np.ndarray, n: int) -> np.ndarray:
    """The first n of `order`, the first of every predicted class before any second one; in the order given."""
    firsts = np.sort(np.unique(predicted[order], return_index=True)[1])[:n]  # places in `order`
    others = np.setdiff1d(np.arange(len(order)), firsts)[: n - len(firsts)]
    return order[np.sort(np.concatenate([firsts, others]))]


def _caption(k: int) -> str:
    factors = f"its {k} largest factors" if k > 1 else "its largest factor"
    words = f"the parts that add up to the logit of the answer, exactly. Green: {factors}, never negative"
    return f"Bars, on one scale: {words}; grey: all other factors, and the bias."


def _draw_answer(page: _Page, x: float, y: float, card: dict[str, Any], names: list[str], name_height: float) -> None:
    """The image, and beside it what the model says about it; long names go above, into `name_height` inches."""
    y += name_height
    axes = page.axes(x, y, _IMAGE, _IMAGE)
    axes.set_anchor("W")
    image = card["images"]
    top = 255 if np.issubdtype(image.dtype, np.integer) else 1.0
    smooth = "nearest" if max(image.shape[:2]) < 64 else "antialiased"
    axes.imshow(image, cmap="gray", vmin=0, vmax=top, interpolation=smooth)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)

    predicted, true = int(card["predicted_labels"]), int(card["true_labels"])
    left, percent = x + _IMAGE + 0.10, _percent(card["probs"][predicted])
    if predicted != true:
        note = {"words": f"✗ true: {names[true]}", "weight": "bold", "color": INK, "gid": "true_label"}
    else:
        runner_up = int(np.argsort(-card["probs"], kind="stable")[1])
        words = f"next: {names[runner_up]}, {_percent(card['probs'][runner_up])}"
        note = {"words": words, "color": MUTED, "gid": "runner_up"}
    if name_height:  # names above, on the width of the card
        page.text(x, y - 0.31, _shorten(names[predicted], 18), size=10, weight="bold", color=INK, gid="predicted")
        page.text(x, y - 0.12, size=7.5, **{**note, "words": _shorten(note["words"], 26)})
        page.text(left, y + 0.13, percent, size=13, weight="bold", color=INK, gid="probability")
    else:  # names of one or two characters beside the image: 8  99.9%
        name = names[predicted]
        page.text(left, y + 0.11, name, size=17, weight="bold", color=INK, gid="predicted")
        page.text(left + 0.17 * len(name) + 0.06, y + 0.125, percent, size=9, color=INK, gid="probability")
        page.text(left, y + 0.73, size=7.5, **note)
    certain = bool(card["is_certain"])
    color = CERTAIN_COLOR if certain else UNCERTAIN_COLOR
    page.text(
        left + 0.05,
        y + 0.36 + (0.06 if name_height else 0),
        "✓ certain" if certain else "? uncertain",
        size=7.5,
        weight="bold",
        color="white",
        gid="verdict",
        bbox={"boxstyle": "round,pad=0.28,rounding_size=0.5", "fc": color, "ec": "none"},
    )
    words = f"p {_p_value(card['p_value'])}"
    page.text(left, y + 0.56 + (0.09 if name_height else 0), words, size=7.5, color=MUTED, gid="p_value")


class _FactorLabels:
    """What stands at the bars of factors: numbers, or names above the bars and pictures before them.

    Raises:
        ValueError: there are fewer names than factors, or a thumbnail is not a picture.
    """

    def __init__(
        self, factors: np.ndarray, names: Sequence[str] | None, thumbnails: Mapping[int, Sequence[Any]] | None
    ) -> None:
        shown = sorted({int(k) for k in factors.flat})
        if names is not None and shown and len(names) <= shown[-1]:
            raise ValueError(f"factor_names holds {len(names)} words; the parts belong to factors up to {shown[-1]}.")
        self.names = names
        given = check_thumbnails([list((thumbnails or {}).get(k, ()))[:3] for k in shown], len(shown))
        self.pictures = dict(zip(shown, given, strict=True))
        self.most = max(map(len, given), default=0)
        self.is_named = names is not None or self.most > 0
        self.row_height = _NAMED_ROW if self.is_named else _BAR_ROW

    def words(self, factor: int) -> str:
        """The name, cut to what fits above the bar, or the number."""
        room = int((_CARD - self.most * _THUMBNAIL) * 17)  # characters of 6.5 points
        return f"factor {factor}" if self.names is None else _shorten(self.names[factor].removeprefix("feeds "), room)

    def caption(self) -> str:
        """What the words and pictures are."""
        said = " Above a bar: the factor's name, or the classes it feeds." if self.names is not None else ""
        return said + (" Beside it: the images that show the factor most." if self.most else "")


def _draw_parts(
    page: _Page, x: float, y: float, card: dict[str, Any], limits: tuple[float, float], labels: _FactorLabels
) -> None:
    """Horizontal bars of the logit's parts, on the scale of the whole sheet."""
    parts = [(int(k), float(part)) for k, part in zip(card["factors"], card["contributions"], strict=True) if part]
    values = [part for _, part in parts] + [float(card["rest"]), float(card["bias"])]
    colors = [FACTOR_COLOR] * len(parts) + [REST_COLOR, BIAS_COLOR]
    heights = np.array([labels.row_height] * len(parts) + [_BAR_ROW] * 2)
    # Where the middle of each bar lies: in the lower half of a row that has a name above.
    middles = np.cumsum(heights) - (0.5 * _BAR_ROW if labels.is_named else heights / 2)
    height, left = heights.sum(), _LABEL_COLUMN
    if labels.most:
        left = max(left, labels.most * _THUMBNAIL + 0.05)
    axes = page.axes(x + left, y, _CARD - left - _VALUE_COLUMN, height)
    axes.barh(middles, values, height=0.62 * _BAR_ROW, color=colors, linewidth=0)
    axes.set(xlim=limits, ylim=(height, 0), xticks=[], yticks=[])
    axes.axvline(0, color=MUTED, linewidth=0.7)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row, (value, middle) in enumerate(zip(values, y + middles, strict=True)):
        page.text(x + _CARD, middle, _amount(value), size=7.5, color=INK, ha="right", gid="part_value")
        if row >= len(parts):
            page.text(x, middle, ("rest", "bias")[row - len(parts)], size=7.5, color=MUTED, gid="part")
            continue
        factor = parts[row][0]
        if not labels.is_named:
            page.text(x, middle, labels.words(factor), size=7.5, color=INK, gid="part")
            continue
        start = x + labels.most * _THUMBNAIL + (0.05 if labels.most else 0)
        white = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}  # over the line at zero
        page.text(start, middle - 0.13, labels.words(factor), size=6.5, color=INK, gid="part", bbox=white)
        if not labels.most:
            page.text(x, middle, str(factor), size=6.5, color=MUTED, gid="number")
        for i, picture in enumerate(labels.pictures[factor]):
            side = _THUMBNAIL - 0.02
            show_thumbnail(page.axes(x + i * _THUMBNAIL, middle + 0.06 - side, side, side), picture)
    page.rule(y + height + 0.02, x, x + _CARD)
    middle, style = y + height + 0.02 + 0.55 * _BAR_ROW, {"size": 7.5, "weight": "bold", "color": INK}
    page.text(x, middle, "logit", gid="part", **style)
    page.text(x + _CARD, middle, _amount(sum(values)), gid="part_value", ha="right", **style)


class _Page:
    """A figure measured in inches from its top left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """`words` with their middle at height y, left-aligned at x unless `ha` says otherwise."""
        place = x / self.width, 1 - y / self.height
        self.figure.text(*place, words, va="center", fontfamily=FONT, parse_math=False, **style)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose top left corner is at (x, y)."""
        left, bottom = x / self.width, 1 - (y + height) / self.height
        return self.figure.add_axes((left, bottom, width / self.width, height / self.height))

    def rule(self, y: float, left: float = _MARGIN, right: float | None = None) -> None:
        """A thin line, from margin to margin unless told otherwise."""
        from matplotlib.lines import Line2D

        ends = [left / self.width, (self.width - _MARGIN if right is None else right) / self.width]
        level = 1 - y / self.height
        self.figure.add_artist(Line2D(ends, [level, level], color=RULE, linewidth=0.8))


def _shorten(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def _percent(probability: float) -> str:
    """Without a digit in the middle, with one next to the ends; 99.97 % is not 100 %."""
    if not 0.0005 <= probability <= 0.9995:
        return ">99.9%" if probability > 0.5 else "<0.1%"
    return f"{probability:.0%}" if 0.01 <= probability <= 0.99 else f"{probability:.1%}"


def _p_value(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}" if p < 0.01 else f"= {p:.2f}"


def _amount(value: float) -> str:
    """Three significant digits at most, with a real minus sign."""
    rounded = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return "0.0" if rounded == "-0.0" else rounded.replace("-", "−")
