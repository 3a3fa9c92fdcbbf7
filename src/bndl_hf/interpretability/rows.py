"""The dataset of a gallery or of thumbnails: rows with a PIL image and perhaps a label, by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BaseImageProcessor

from bndl_hf.interpretability.checks import check_labels
from bndl_hf.model.input_images import read_image


class GalleryRows:
    """Rows of a dataset as a model reads them.

    Args:
        dataset: rows {image column: a PIL image, label column: a class}, read by their number alone.
        processor: a transformers image processor.
        image_column, label_column: None finds them; no column found means no labels.
        label_names: of the labels; None takes those of the dataset's column, else `model_names`.
        model_names: of the model's classes.
        with_labels: False looks for no labels.

    Raises:
        ValueError: no row, no images, labels that are not whole numbers, or no column of that name.
    """

    def __init__(
        self,
        dataset: Any,
        processor: BaseImageProcessor,
        image_column: str | None,
        label_column: str | None,
        label_names: Sequence[str] | None,
        model_names: Sequence[str],
        with_labels: bool = True,
    ) -> None:
        self.dataset, self.processor = dataset, processor
        self.image_column, self.label_column = _find_columns(dataset, image_column, label_column, with_labels)
        feature = (getattr(dataset, "features", None) or {}).get(self.label_column)
        self.label_names = label_names or getattr(feature, "names", None) or model_names

    def __len__(self) -> int:
        return len(self.dataset)

    def pixel_values(self, numbers: Sequence[int]) -> Tensor:
        """What the model reads of some images, [B, channels, H, W]."""
        return self._processed([self.dataset[number] for number in numbers])

    def batches(self, batch_size: int, progress: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Pixel values and labels, if there are any, of all rows in order, with a progress bar.

        Raises:
            ValueError: a label that has no name.
        """
        for start in tqdm(range(0, len(self), batch_size), desc="Images", disable=not progress):
            yield self._batch(range(start, min(start + batch_size, len(self))))

    def _batch(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        rows = [self.dataset[number] for number in numbers]
        if self.label_column is None:
            return self._processed(rows), None
        labels = torch.tensor([row[self.label_column] for row in rows])
        check_labels(labels, len(rows), len(self.label_names))
        return self._processed(rows), labels

    def _processed(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        images = [row[self.image_column] for row in rows]
        if bad := [image for image in images if not isinstance(image, Image.Image)]:
            raise ValueError(f"Column {self.image_column!r} holds a {type(bad[0]).__name__} among its images.")
        images = [read_image(image) for image in images]
        return self.processor(images=images, return_tensors="pt")["pixel_values"]


def _find_columns(
    dataset: Any, image_column: str | None, label_column: str | None, with_labels: bool
) -> tuple[str, str | None]:
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"The dataset is a {type(dataset).__name__} without a length; rows are read by their number, twice. Pass a "
            "map-style one, say Dataset.from_generator of it."
        )
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
    if label_column is None and with_labels:
        endings = [name for name in row if name.endswith("label")]
        label_column = next((name for name in ("label", "labels") if name in row), None)
        label_column = label_column or (endings[0] if len(endings) == 1 else None)
    for argument, name in (("image_column", image_column), ("label_column", label_column)):
        if name is not None and name not in row:
            raise ValueError(f"{argument}={name!r} is not a column of the dataset; its columns are {columns}.")
    if not isinstance(row[image_column], Image.Image):
        raise ValueError(f"image_column={image_column!r} holds a {type(row[image_column]).__name__}, not PIL images.")
    if label_column is not None and not isinstance(row[label_column], int):
        raise ValueError(
            f"Column {label_column!r} holds {row[label_column]!r}, and labels are places in label_names; number them "
            "(dataset.class_encode_column), or pass another label_column."
        )
    return image_column, label_column
