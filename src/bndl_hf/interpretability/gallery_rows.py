"""The dataset of a gallery: rows with a PIL image and perhaps a label, read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm


def find_columns(dataset: Any, image_column: str | None, label_column: str | None) -> tuple[str, str | None]:
    """Names of the columns; None for labels that are not there.

    Raises:
        ValueError: no row, no images, or no column of that name.
    """
    if len(dataset) == 0:
        raise ValueError("The dataset is empty; pass one with images.")
    row = dataset[0]
    if not isinstance(row, Mapping):
        raise ValueError(f"A row of the dataset is a {type(row).__name__}; pass rows that name their columns.")
    columns = ", ".join(row)
    if image_column is None:
        found = [name for name, value in row.items() if isinstance(value, Image.Image)]
        if not found:
            raise ValueError(f"The dataset has no images: its columns are {columns}. A column of PIL images is needed.")
        image_column = found[0]
    if label_column is None:
        endings = [name for name in row if name.endswith("label")]
        label_column = next((name for name in ("label", "labels") if name in row), None)
        label_column = label_column or (endings[0] if len(endings) == 1 else None)
    for argument, name in (("image_column", image_column), ("label_column", label_column)):
        if name is not None and name not in row:
            raise ValueError(f"{argument}={name!r} is no column of the dataset; its columns are {columns}.")
    if not isinstance(row[image_column], Image.Image):
        raise ValueError(f"image_column={image_column!r} holds a {type(row[image_column]).__name__}, not PIL images.")
    return image_column, label_column


def row_batches(dataset: Any, batch_size: int, progress: bool) -> Iterator[list[Mapping[str, Any]]]:
    """All rows, `batch_size` at a time, with a progress bar."""
    starts = range(0, len(dataset), batch_size)
    for start in tqdm(starts, desc="Images", disable=not progress):
        yield [dataset[row] for row in range(start, min(start + batch_size, len(dataset)))]


def pixel_values_of(processor: Any, rows: Sequence[Mapping[str, Any]], image_column: str) -> Tensor:
    """What the model reads of their images, [B, channels, H, W]."""
    return processor(images=[row[image_column].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"]
