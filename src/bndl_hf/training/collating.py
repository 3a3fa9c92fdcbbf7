"""From rows to a batch, where the user passes no collator of their own: every form a row usually has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import default_data_collator


class FeatureBatch(dict[str, Tensor]):
    """{"features": [B, D], "labels": [B]}; a sentence answers code that asks for pixels."""

    def __missing__(self, key: str) -> Tensor:
        raise ValueError(
            f"A batch of features holds no {key!r}, only features and labels; with cache_features=True call "
            "model(**inputs), or train with cache_features=False."
        )


def labels_of(batch: Mapping[str, Any]) -> Tensor:
    """The labels [B] of a batch to learn from.

    Raises:
        ValueError: it holds none, or not whole numbers. transformers' collator leaves out text without a word.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"A batch to learn from holds {', '.join(batch)} and no labels; a row needs a whole number under 'labels', "
            'its class. Where the classes are names, dataset.class_encode_column("labels") numbers them.'
        )
    return labels if labels.is_floating_point() else labels.long()


def collate_rows(rows: Any) -> dict[str, Any]:
    """A batch of rows {"pixel_values", "labels"} or of pairs (image [3, H, W], label), as torchvision's datasets give.

    Args:
        rows: the rows, or a batch already (a `FeatureDataset` reads whole batches).

    Raises:
        ValueError: images that are not tensors yet or differ in size, or rows of another form.
    """
    if isinstance(rows, dict):
        return rows
    first = rows[0]
    if isinstance(first, Mapping):
        if not {"pixel_values", "features"} & set(first):
            raise ValueError(
                f"A row holds {', '.join(map(str, first))}; the model reads pixel_values and labels. Make them with "
                "dataset.with_transform(...) and the image processor, or pass a data_collator that does."
            )
        _check_sizes([row["pixel_values"] for row in rows if "pixel_values" in row])
        return default_data_collator(list(rows))
    if not (isinstance(first, Sequence) and not isinstance(first, str) and len(first) == 2):
        raise ValueError(
            f'A row is a {type(first).__name__}; the Trainer reads {{"pixel_values": [3, H, W], "labels": int}} or '
            "(image, label). Pass such a dataset, or a data_collator that makes a batch of these rows."
        )
    images, labels = zip(*rows, strict=True)
    if not all(isinstance(image, Tensor) for image in images):
        raise ValueError(
            f"An image is a {type(images[0]).__name__}, not a tensor [3, H, W]; give the dataset a transform that "
            'makes one: transform=lambda image: processor(image, return_tensors="pt")["pixel_values"][0].'
        )
    _check_sizes(images)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor([int(label) for label in labels])}


def _check_sizes(images: Sequence[Any]) -> None:
    sizes = sorted({tuple(image.shape) for image in images if hasattr(image, "shape")})
    if len(sizes) > 1:
        raise ValueError(
            f"A batch holds images of {len(sizes)} sizes, {list(sizes[0])} and {list(sizes[1])} among them; it needs "
            'one. Resize them all, or give the image processor a fixed size: processor.size = {"height": 224, "width": '
            "224}."
        )
