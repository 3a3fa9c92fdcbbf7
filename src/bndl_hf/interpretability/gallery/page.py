"""The gallery of factors as one HTML page that needs no other file: pictures and maps are inside it.

Words and layout are in page.html.jinja; every name in it is escaped.
"""

from __future__ import annotations

import base64
import io
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from bndl_hf.interpretability.gallery.cards import FactorGallery
from bndl_hf.plots import overlay_colours
from bndl_hf.utils.files import written_whole

_CLASSES_SHOWN = 5  # of a factor; the others are counted


def write_page(gallery: FactorGallery, title: str) -> None:
    """Write `gallery.page`; the file appears whole or stays as it was."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"jpeg": _jpeg, "overlay": _overlay}
    template = files("bndl_hf.interpretability.gallery").joinpath("page.html.jinja").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        title=title,
        gallery=gallery,
        classes=sorted({name for card in gallery.cards for name in card.classes}),
        classes_shown=_CLASSES_SHOWN,
        largest_loading=max((loading for card in gallery.cards for loading in card.loadings), default=1.0),
    )
    with written_whole(gallery.page) as partial:
        partial.write_text(text, encoding="utf-8")


def _jpeg(picture: np.ndarray) -> str:
    """A picture [H, W, 3] as a data: URL."""
    return _data_url(picture, "JPEG", quality=85)


def _overlay(evidence: np.ndarray) -> str:
    """A map [H, W] as a transparent picture, its largest value in full colour, as a data: URL."""
    colours = overlay_colours(evidence / max(float(np.abs(evidence).max()), np.finfo(np.float32).tiny))
    return _data_url((255 * colours).round().astype(np.uint8), "PNG", optimize=True)


def _data_url(pixels: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
