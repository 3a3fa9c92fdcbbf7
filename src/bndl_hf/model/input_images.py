"""One RGB image from anything a pipeline accepts: path, URL, base64 text, PIL image, array, tensor, row of a dataset.

Read as training reads it (16-bit grey is scaled, not clipped), and named in the error when it cannot be read.
`transformers.image_utils.load_image` converts before the depth of the pixels can be looked at, so files are opened
here, with the Pillow and httpx that it uses. Read pipeline_bndl.py next.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import image_utils
from transformers.image_transforms import to_pil_image

_CHANNELS = (1, 3, 4)  # grey, RGB, RGB and alpha
_TEXT_SHOWN = 80  # characters of a source in an error
_SHORTEST_BASE64 = 40  # characters; the smallest GIF there is has 35 bytes


@dataclass(frozen=True)
class DatasetRow:
    """The image of one row of a `datasets.Dataset`, not decoded yet, so that an error can name it."""

    number: int
    encoded: Mapping[str, Any] | None  # {"bytes", "path"}
    feature: Any  # datasets.Image, which decodes

    @property
    def name(self) -> str:
        """A name by which the user finds the image."""
        path = (self.encoded or {}).get("path")
        return f"the image in row {self.number} of the dataset" + (f" ({path})" if path else "")


class DatasetRows(Dataset):
    """The image column of a `datasets.Dataset`, as `DatasetRow`s."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.feature, self.column = dataset.features[column], column
        self.dataset = dataset.cast_column(column, type(self.feature)(decode=False))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> DatasetRow:
        return DatasetRow(number, self.dataset[number][self.column], self.feature)


def streamed_rows(dataset: Any, column: str) -> Iterator[DatasetRow]:
    """The image column of a `datasets.IterableDataset`, likewise."""
    feature = dataset.features[column]
    for number, row in enumerate(dataset.cast_column(column, type(feature)(decode=False))):
        yield DatasetRow(number, row[column], feature)


def read_image(source: Any, timeout: float | None = None) -> Any:
    """The image as a PIL image of mode RGB, upright (EXIF), without transparency.

    Args:
        source: a path, a URL, base64 text, a PIL image, a `DatasetRow`, or a numpy array or torch tensor: [H, W],
            [H, W, c] or [c, H, W], c one of 1, 3, 4; values 0..255 of an integer type, 0..65535 of uint16, or
            floating-point numbers in [0, 1].
        timeout: seconds to wait for a URL; None waits without limit.

    Raises:
        ValueError: the image cannot be read; the sentence names it and the reason.
        TypeError: something that is not an image.
    """
    known = (str, os.PathLike, image_utils.PIL.Image.Image, DatasetRow, Tensor)
    if not isinstance(source, known) and not image_utils.is_numpy_array(source):
        raise TypeError(
            f"An image arrived as {type(source).__name__}. Pass a path, a URL, base64 text, a PIL image, a numpy array "
            "or a torch tensor."
        )
    try:
        if isinstance(source, Tensor) or image_utils.is_numpy_array(source):
            return _from_numbers(source)
        image = _open(source, timeout)
        return to_rgb(image_utils.PIL.ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise anything from OSError to SyntaxError and struct.error
        raise ValueError(
            f"Cannot read {_name_of(source)} ({type(error).__name__}: {error}). Repair it, or leave it out."
        ) from error


def _open(source: Any, timeout: float | None) -> Any:
    """The PIL image, as deep as it was stored."""
    if isinstance(source, image_utils.PIL.Image.Image):
        return source
    if isinstance(source, DatasetRow):
        if source.encoded is None:
            raise ValueError("there is no image in this row")
        return source.feature.decode_example(dict(source.encoded))
    path = os.fspath(source)
    if path.startswith(("http://", "https://")):
        answer = image_utils.httpx.get(path, timeout=timeout, follow_redirects=True)
        return image_utils.PIL.Image.open(BytesIO(answer.raise_for_status().content))
    if os.path.isfile(path):
        image = image_utils.PIL.Image.open(path)
        image.load()  # closes the file: a long list must not exhaust the handles
        return image
    text = path.split(",")[-1] if path.startswith("data:image/") else path
    if len(text) < _SHORTEST_BASE64 or "." in text:  # base64 text holds no full stop
        raise FileNotFoundError("there is no such file, and it is neither a URL nor base64 text")
    return image_utils.PIL.Image.open(BytesIO(base64.b64decode(text)))


def to_rgb(image: Any) -> Any:
    """An image of any mode as 8-bit RGB, as `decode_image` of the training data makes it.

    Raises:
        ValueError: floating-point pixels.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: 0..65535 -> 0..255; Pillow's own conversion would clip
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    elif image.mode == "P":  # by way of RGBA: a palette may carry transparency
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_numbers(numbers: Any) -> Any:
    """The RGB image of an array or a tensor, see `read_image`."""
    pixels = numbers.detach().cpu() if isinstance(numbers, Tensor) else torch.from_numpy(numbers.copy())
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not {pixels.shape[0], pixels.shape[2]} & set(_CHANNELS):
        raise ValueError("one image is [H, W], [H, W, c] or [c, H, W] with c of 1, 3 or 4; several make a list")
    layout = "channels_first" if pixels.shape[0] in _CHANNELS else "channels_last"  # transformers' order of guessing
    low, high = (float(bound) for bound in pixels.aminmax()) if pixels.dtype != torch.uint16 else (0.0, 65535.0)
    if pixels.is_floating_point():
        if not pixels.isfinite().all():
            raise ValueError("it holds NaN or infinite values")
        if low < 0 or high > 1:
            raise ValueError(
                f"floating-point pixels from {low:.4g} to {high:.4g}; give numbers in [0, 1], or uint8. What an image "
                "processor made already goes to model.predict"
            )
        pixels = pixels.float() * 255 + 0.5
    elif pixels.dtype == torch.bool:
        pixels = pixels.to(torch.uint8) * 255
    elif pixels.dtype == torch.uint16:
        pixels = pixels.to(torch.int32) / 257 + 0.5
    elif low < 0 or high > 255:
        raise ValueError(f"{pixels.dtype} pixels from {low:.0f} to {high:.0f}; give 0..255, or 0..65535 as uint16")
    return to_pil_image(pixels.to(torch.uint8), do_rescale=False, input_data_format=layout).convert("RGB")


def _name_of(source: Any) -> str:
    """A name by which the user finds the image."""
    if isinstance(source, DatasetRow):
        return source.name
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return f"image {text}" if len(text) <= _TEXT_SHOWN or os.path.isfile(text) else f"image {text[:_TEXT_SHOWN]}..."
    if isinstance(source, image_utils.PIL.Image.Image):
        file = getattr(source, "filename", "")
        return (
            f"image {file}" if file else f"a PIL image of {source.width} x {source.height} pixels, mode {source.mode}"
        )
    kind = "tensor" if isinstance(source, Tensor) else "array"
    return f"the {kind} of shape {list(source.shape)} and type {source.dtype}"


__all__ = ["DatasetRow", "DatasetRows", "read_image", "streamed_rows", "to_rgb"]
