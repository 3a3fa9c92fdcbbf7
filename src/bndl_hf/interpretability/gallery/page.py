"""The gallery of factors as a static HTML page: what is needed to search and sort in it, cards and images beside it.

page.html.jinja has the words, page.css the layout, page.js what happens; a card becomes elements in the browser, its
names as text. Data is JSON inside scripts, which a page may load from a disk too; a small gallery has all of it inside.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from jinja2 import Environment, StrictUndefined
from PIL import Image
from torch import Tensor

from bndl_hf.interpretability.gallery.cards import FactorCard, FactorGallery
from bndl_hf.utils.files import written_whole

_CLASSES_SHOWN = 5  # of a factor; the others are counted
_CLASSES_KEPT = 20  # of a factor, for choosing by class
_CARDS_A_FILE = 50
_MOST_POSITIONS = 32  # of a map, down and across
_SINGLE_FILE_CARDS, _SINGLE_FILE_BYTES = 100, 4_000_000
_OURS = re.compile(r"cards-\d+\.js|\d+\.jpg")  # file names of an earlier gallery


def write_page(gallery: FactorGallery, title: str, single_file: bool | None) -> FactorGallery:
    """Write `gallery.page` and, unless all of it is in the page, `gallery.files`; the page comes last, and whole.

    Returns:
        The gallery, with `files` None where there are none.
    """
    assert gallery.files is not None
    jpegs = {row: _jpeg(picture) for row, picture in sorted(gallery.cards[0].all_pictures.items())}
    if single_file is None:
        single_file = len(gallery.cards) <= _SINGLE_FILE_CARDS and sum(map(len, jpegs.values())) <= _SINGLE_FILE_BYTES
    words = sorted({name for card in gallery.cards for name in card.classes})
    numbers = {name: number for number, name in enumerate(words)}
    starts = range(0, len(gallery.cards), _CARDS_A_FILE)
    chunks = [
        f"bndlCards({n}, {_json([_details(card) for card in gallery.cards[start : start + _CARDS_A_FILE]])});"
        for n, start in enumerate(starts)
    ]
    data = {
        "cards": [_summary(card, numbers) for card in gallery.cards],
        "classes": words,
        "classesShown": _CLASSES_SHOWN,
        "cardsAFile": _CARDS_A_FILE,
        "largestLoading": max((card.loadings[0] for card in gallery.cards), default=1.0),
        "folder": None if single_file else gallery.files.name,
        "images": {row: _data_url(jpeg) for row, jpeg in jpegs.items()} if single_file else None,
    }
    _clear(gallery.files)
    if not single_file:
        gallery.files.mkdir(exist_ok=True)
        for row, jpeg in jpegs.items():
            (gallery.files / f"{row}.jpg").write_bytes(jpeg)
        for n, chunk in enumerate(chunks):
            (gallery.files / f"cards-{n}.js").write_text(chunk, encoding="utf-8")
    folder = files("bndl_hf.interpretability.gallery")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    text = environment.from_string(folder.joinpath("page.html.jinja").read_text(encoding="utf-8")).render(
        title=title,
        gallery=gallery,
        classes=words,
        data=_json(data),
        chunks=chunks if single_file else [],
        style=folder.joinpath("page.css").read_text(encoding="utf-8"),
        script=folder.joinpath("page.js").read_text(encoding="utf-8"),
    )
    with written_whole(gallery.page) as partial:
        partial.write_text(text, encoding="utf-8")
    return dataclasses.replace(gallery, files=None) if single_file else gallery


def _summary(card: FactorCard, numbers: dict[str, int]) -> dict[str, Any]:
    """What search and order need of a card, always in the page."""
    kept = card.classes[:_CLASSES_KEPT]
    return {
        "k": card.factor,
        "name": card.name,
        "share": _short(card.evidence_share),
        "mean": _short(card.mean_contribution),
        "active": _short(card.active_share),
        "purity": None if card.purity is None else _short(card.purity),
        "classes": [numbers[name] for name in kept],
        "loadings": [_short(loading) for loading in card.loadings[: len(kept)]],
        "fed": len(card.classes),
    }


def _details(card: FactorCard) -> dict[str, Any]:
    """What is loaded once a card is near the screen."""
    return {
        "images": card.images,
        "labels": card.labels,
        "scores": [_short(score) for score in card.scores],
        "maps": [_packed_map(grid) for grid in card.grids],
    }


def _packed_map(grid: Tensor) -> list[Any]:
    """A map [h, w] as [h, w, base64 of a signed byte a position], the largest by absolute value being 127."""
    if max(grid.shape) > _MOST_POSITIONS:
        size = [max(1, round(side * _MOST_POSITIONS / max(grid.shape))) for side in grid.shape]
        grid = F.interpolate(grid[None, None], size, mode="area")[0, 0]
    values = grid.numpy()
    values = values / max(float(np.abs(values).max()), np.finfo(np.float32).tiny)
    signed = (127 * values).round().astype(np.int8)
    return [*values.shape, base64.b64encode(signed.tobytes()).decode("ascii")]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _json(values: Any) -> str:
    """JSON that is safe inside a script element, whatever text is in it."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=82)
    return buffer.getvalue()


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _clear(folder: Path) -> None:
    """Take away the files of an earlier gallery, and nothing else."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
