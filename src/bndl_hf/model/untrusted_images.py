"""One RGB image from bytes that anybody may have sent: nothing but bytes is read, and no more of them than fits.

Where pipelines open paths and URLs for their user (input_images.py), a server must not: what a request holds are the
bytes of an image, its base64 text, or an image already decoded. The header says how many pixels there are before any of
them is decoded, and only plain raster formats are tried. What is read is turned upright and made RGB as in training.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from transformers import image_utils

from .input_images import to_rgb

# Pillow's readers of plain raster files; none of them runs a program or follows a reference.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_WHITE_SPACE = re.compile(r"\s+")
# What Pillow's readers raise for files that are damaged or made up.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError,
    RuntimeError, NotImplementedError, ZeroDivisionError, AssertionError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class ImageLimits:
    """What is too much for one image.

    Attributes:
        max_bytes: of the file, encoded.
        max_pixels: width times height. Preset: 8192 x 6144, the largest of a phone's 50-megapixel photographs; decoding
            one takes about half a gigabyte for a moment.
        max_aspect: longer side over shorter side. An image processor that scales the shorter side to 256 pixels would
            make 256 x 12,800,000 of a strip of one by 50,000 pixels.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 8192 * 6144
    max_aspect: float = 50.0


def read_untrusted_image(source: Any, limits: ImageLimits | None = None) -> Any:
    """The image as a PIL image of mode RGB, upright (EXIF); of an animation the first picture.

    Args:
        source: the bytes of a file, its base64 text (also as "data:image/png;base64,..."), or a PIL image. Text is
            never taken for a path or a URL.
        limits: None takes those of `ImageLimits`.

    Raises:
        ValueError: nothing arrived, too much did, or it is not an image that can be read; the sentence says which and
            names no file of the server.
        TypeError: something that cannot be an image.
    """
    limits = limits or ImageLimits()
    PIL = image_utils.PIL
    if isinstance(source, str):
        source = _decoded(source, limits)
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if not isinstance(source, bytes | PIL.Image.Image):
        raise TypeError(
            f"An image arrived as {type(source).__name__}; send the bytes of an image file or their base64 text."
        )
    if isinstance(source, PIL.Image.Image):
        return _upright_rgb(source, limits)
    if not source:
        raise ValueError("The image is empty, 0 bytes; send the bytes of an image file.")
    if len(source) > limits.max_bytes:
        raise ValueError(_too_many_bytes(limits))
    _check_pixels(*_webp_size(source), limits)  # Pillow makes room for a WebP's pixels when it opens one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # a limit of its own follows
            opened = PIL.Image.open(BytesIO(source), formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(_too_many_pixels("", limits)) from error
    except _UNREADABLE as error:
        raise ValueError(
            f"These {len(source):,} bytes are not an image that can be read; send {_formats()}. Vector images and web "
            "pages are not pictures, and no path or address is opened."
        ) from error
    with opened:
        return _upright_rgb(opened, limits)


def _decoded(text: str, limits: ImageLimits) -> bytes:
    """The bytes of base64 text or of a data URL."""
    if len(text) > limits.max_bytes * 1.5 + 100:  # 4/3, line ends and the head of a data URL
        raise ValueError(_too_many_bytes(limits))
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("A data URL must be of the form data:image/png;base64,...; send that, or base64 text.")
    try:
        return base64.b64decode(_WHITE_SPACE.sub("", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "The text is not base64. Send an image file's bytes as base64 text; no path or address is opened."
        ) from error


def _upright_rgb(image: Any, limits: ImageLimits) -> Any:
    width, height = image.size
    _check_pixels(width, height, limits)
    if not width or not height or max(width, height) > limits.max_aspect * min(width, height):
        raise ValueError(
            f"The image has {width:,} x {height:,} pixels: one side may be {limits.max_aspect:g} times the other at "
            "most; cut it."
        )
    try:
        return to_rgb(image_utils.PIL.ImageOps.exif_transpose(image))
    except _UNREADABLE as error:
        raise ValueError(
            f"The image of {width:,} x {height:,} pixels cannot be read ({type(error).__name__}): it is cut short or "
            "damaged, or of a kind without colours. Save it again as PNG or JPEG."
        ) from error


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ValueError(_too_many_pixels(f"{width:,} x {height:,} pixels are ", limits))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP file (RFC 9649, sections 2.5 to 2.7); zeros for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0, 0
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _too_many_bytes(limits: ImageLimits) -> str:
    return f"The image has more than {limits.max_bytes:,} bytes; make it smaller, or save it as JPEG."


def _too_many_pixels(size: str, limits: ImageLimits) -> str:
    return f"The image is too large: {size}more than {limits.max_pixels:,} pixels; scale it down."


__all__ = ["FORMATS", "ImageLimits", "read_untrusted_image"]
