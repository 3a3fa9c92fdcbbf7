"""The pictures a page brings along: its examples, and what factors look like."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from bndl_hf.interpretability.thumbnails import FactorThumbnails
from bndl_hf.model.input_images import read_image

_LONGEST = 640  # pixels of an example
_SMALL = 96  # pixels up to which every pixel counts, and nothing is lost in compression
_THUMBNAIL, _ON_A_SHEET, _TOP = 40, 32, 3  # pixels; factors; pictures a factor

Examples = Mapping[str, Any] | Sequence[Any]


def example_pictures(examples: Examples) -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """Copies of the examples without metadata, at most 640 pixels wide or high.

    Args:
        examples: {name: image}, or images: anything `read_image` reads. A file without a name of its own is called
            after its file.

    Returns:
        [{"name", "file"}], and {file: bytes}.

    Raises:
        ValueError: an image cannot be read.
        TypeError: something that is not an image.
    """
    named = examples.items() if isinstance(examples, Mapping) else [(_name_of(image), image) for image in examples]
    entries, files = [], {}
    for number, (name, source) in enumerate(named, start=1):
        image = read_image(source)
        if max(image.size) <= _SMALL:
            file, content = f"example-{number}.png", _encoded(image, "PNG", optimize=True)
        else:
            image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
            file, content = f"example-{number}.jpeg", _encoded(image, "JPEG", quality=88, optimize=True)
        entries.append({"name": str(name) or f"Example {number}", "file": file})
        files[file] = content
    return entries, files


def _name_of(image: Any) -> str:
    if isinstance(image, str | os.PathLike) and len(os.fspath(image)) < 1000:
        return Path(image).stem
    return ""


def thumbnail_sheets(thumbnails: FactorThumbnails | None) -> tuple[dict[str, Any] | None, dict[str, bytes]]:
    """Sheets of up to three thumbnails for each of 32 factors, and where on them each factor is.

    Returns:
        {"size": pixels, "sheets": names, "places": {factor: [sheet, row, how many]}} or None, and {name: bytes}.
    """
    if thumbnails is None:
        return None, {}
    places: dict[str, list[int]] = {}
    files: dict[str, bytes] = {}
    factors = thumbnails.factors
    for start in range(0, len(factors), _ON_A_SHEET):
        chosen = factors[start : start + _ON_A_SHEET]
        sheet = Image.new("RGB", (_TOP * _THUMBNAIL, len(chosen) * _THUMBNAIL))
        for row, factor in enumerate(chosen):
            pictures = thumbnails.images(factor)[:_TOP]
            for column, picture in enumerate(pictures):
                small = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
                sheet.paste(small, (column * _THUMBNAIL, row * _THUMBNAIL))
            places[str(factor)] = [len(files), row, len(pictures)]
        files[f"factors-{len(files)}.webp"] = _encoded(sheet, "WEBP", quality=75)
    return {"size": _THUMBNAIL, "sheets": list(files), "places": places}, files


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
