"""Images as nobody should send them to a server, and odd ones that it must answer; read by serving.py and by the tests.

Every entry is made here from nothing: no file, a fixed seed.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_DAMAGED = "cut short|not an image that can be read"


@dataclass(frozen=True)
class Sent:
    """One file that is sent.

    Attributes:
        data: its bytes.
        says: part of the message that refuses it; None where it is an image and is to be answered.
        name: of the file, with the ending it claims.
    """

    data: bytes
    says: str | None = None
    name: str = "image.png"


def photograph(width: int = 320, height: int = 240) -> Image.Image:
    """Smooth noise in three colours: compresses like a photograph."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The bytes of a file of `image`."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(seed: int, count: int) -> bytes:
    """Random bytes."""
    return np.random.default_rng(seed).bytes(count)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """Signature and header of an 8-bit grey PNG, without pixels."""
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


def odd_images() -> dict[str, Sent]:
    """Images of odd kinds, each of which has a right answer."""
    photo = photograph()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    deep = (np.asarray(photo.convert("L")).astype(np.uint16) << 8) + 7
    clear = photo.convert("RGBA")
    clear.putalpha(128)
    frames = [photo, photo.transpose(Image.Transpose.ROTATE_180)]
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 100}
    palette = photo.convert("P")
    return {
        "JPEG": Sent(saved(photo, "JPEG"), name="image.jpg"),
        "PNG": Sent(saved(photo, "PNG")),
        "WebP": Sent(saved(photo, "WEBP"), name="image.webp"),
        "WebP without loss": Sent(saved(photo, "WEBP", lossless=True), name="image.webp"),
        "BMP": Sent(saved(photo, "BMP"), name="image.bmp"),
        "TIFF": Sent(saved(photo, "TIFF"), name="image.tiff"),
        "progressive JPEG": Sent(saved(photo, "JPEG", progressive=True), name="image.jpg"),
        "CMYK JPEG": Sent(saved(photo.convert("CMYK"), "JPEG"), name="image.jpg"),
        "CMYK TIFF": Sent(saved(photo.convert("CMYK"), "TIFF"), name="image.tiff"),
        "grey JPEG": Sent(saved(photo.convert("L"), "JPEG"), name="image.jpg"),
        "16-bit PNG": Sent(saved(Image.fromarray(deep), "PNG")),
        "1-bit PNG": Sent(saved(photo.convert("1"), "PNG")),
        "palette PNG": Sent(saved(palette, "PNG")),
        "palette with transparency": Sent(saved(palette, "PNG", transparency=0)),
        "half transparent": Sent(saved(clear, "PNG")),
        "grey and alpha": Sent(saved(clear.convert("LA"), "PNG")),
        "EXIF-rotated JPEG": Sent(saved(photo, "JPEG", exif=exif), name="image.jpg"),
        "animated GIF": Sent(saved(photo, "GIF", **more), name="image.gif"),
        "animated WebP": Sent(saved(photo, "WEBP", **more), name="image.webp"),
        "animated PNG": Sent(saved(photo, "PNG", **more)),
        "PNG called JPEG": Sent(saved(photo, "PNG"), name="image.jpg"),
        "one pixel": Sent(saved(photo.resize((1, 1)), "PNG")),
    }


def hostile_images() -> dict[str, Sent]:
    """What must be refused with a message."""
    photo = photograph()
    whole = {kind: saved(photo, kind) for kind in ("PNG", "JPEG", "WEBP")}
    canvas = b"\0" * 4 + (16382).to_bytes(3, "little") * 2
    bomb_text = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(b"\0" * 200_000_000, 9))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    page = b"<!doctype html><html><script>alert(1)</script></html>"
    return {
        "0 bytes": Sent(b"", "empty"),
        "21 MB": Sent(whole["PNG"] + b"\0" * 21 * 2**20, "more than 20,971,520 bytes"),
        "100 megapixels": Sent(saved(Image.new("1", (10_000, 10_000)), "PNG"), "too large"),
        "400 megapixels": Sent(saved(Image.new("1", (20_000, 20_000)), "PNG"), "too large"),
        "header of 4 gigapixels": Sent(png_header(65_000, 65_000) + png_chunk(b"IDAT", b""), "too large"),
        "WebP header of 268 megapixels": Sent(
            b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas, "too large", "image.webp"
        ),
        "strip of 1 x 50,000": Sent(saved(Image.new("L", (1, 50_000)), "PNG"), "50 times the other"),
        "text that unpacks to 200 MB": Sent(whole["PNG"][:33] + bomb_text + whole["PNG"][33:], _DAMAGED),
        "cut PNG": Sent(whole["PNG"][: len(whole["PNG"]) // 2], "cut short"),
        "cut JPEG": Sent(whole["JPEG"][: len(whole["JPEG"]) // 2], "cut short", "image.jpg"),
        "cut WebP": Sent(whole["WEBP"][: len(whole["WEBP"]) // 2], _DAMAGED, "image.webp"),
        "noise for pixels": Sent(png_header(64, 64) + png_chunk(b"IDAT", noise(1, 500)), _DAMAGED),
        "floating-point TIFF": Sent(saved(Image.new("F", (32, 32)), "TIFF"), "without colours", "image.tiff"),
        "SVG called PNG": Sent(svg, "not an image"),
        "SVG": Sent(svg, "not an image", "image.svg"),
        "HTML called PNG": Sent(page, "not an image"),
        "PDF called PNG": Sent(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "not an image"),
        "PostScript called PNG": Sent(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "noise": Sent(noise(2, 5000), "not an image"),
    }  # fmt: skip
