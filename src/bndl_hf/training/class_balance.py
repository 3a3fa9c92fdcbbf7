"""How many training images each class has, and what corrects an imbalance: weights in the loss, or a sampler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler, Subset
from transformers import PretrainedConfig
from transformers.trainer_utils import has_length


def known_labels(dataset: Any) -> Tensor | None:
    """Labels [N] of a dataset where they can be had without decoding its images, else None.

    From the column that the rows' transform names, a column or attribute "labels" or "label", or torchvision's
    `targets`; a `Subset` has those of the dataset it was taken from.
    """
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices))]
    values: Any = None
    if getattr(dataset, "column_names", None) and hasattr(dataset, "format"):
        transform = (dataset.format["format_kwargs"] or {}).get("transform")
        names = [getattr(transform, "label_column", None), "labels", "label"]
        column = next((name for name in names if name in dataset.column_names), None)
        values = None if column is None else list(dataset.with_format(None)[column])
    else:
        values = next((v for name in ("labels", "targets") if (v := getattr(dataset, name, None)) is not None), None)
    if values is None or not has_length(dataset) or len(values) != len(dataset):
        return None
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError):  # names instead of numbers, say
        return None
    return labels.long() if labels.ndim == 1 and not labels.is_floating_point() else None


def all_labels(dataset: Any) -> Tensor:
    """Labels [N] of a dataset, its rows read one by one where there is no faster way.

    Raises:
        ValueError: the dataset has no length, or its rows hold no label.
    """
    labels = known_labels(dataset)
    if labels is not None:
        return labels
    if not has_length(dataset):
        raise ValueError(
            "train_dataset has no length, so its classes cannot be counted; pass a dataset with a length, or leave out "
            "weighted_sampler and class_weights."
        )
    rows: Any = dataset
    with torch.random.fork_rng():
        return torch.tensor([_label_of(rows[index], index) for index in range(len(rows))])


def _label_of(row: Any, index: int) -> int:
    name = next((n for n in ("labels", "label") if isinstance(row, Mapping) and n in row), None)
    if name is not None:
        return int(row[name])
    if isinstance(row, tuple | list) and len(row) == 2:
        return int(row[1])
    raise ValueError(
        f"Row {index} of train_dataset holds no label, so the classes cannot be counted; a row is "
        '{"pixel_values": ..., "labels": ...} or (image, label).'
    )


def count_classes(labels: Tensor, num_labels: int) -> Tensor:
    """Images of each class, [C]; labels outside 0 .. C - 1 are not counted here (the model names them)."""
    return torch.bincount(labels[(labels >= 0) & (labels < num_labels)], minlength=num_labels)


def class_weights(given: list[float] | str, counts: Tensor) -> Tensor:
    """Weight of each class [C] in the likelihood, with mean 1 over the training images.

    Args:
        given: "balanced", one over the number of images, or C numbers >= 0.
        counts: images of each class, [C].

    Raises:
        ValueError: another number of weights than classes, or none above zero where there are images.

    Example:
        >>> class_weights("balanced", torch.tensor([30, 10]))
        tensor([0.6667, 2.0000])
    """
    counts = counts.double()
    if isinstance(given, str):
        weights = torch.where(counts > 0, 1 / counts.clamp_min(1), 0.0)
    else:
        weights = torch.tensor(given, dtype=torch.float64)
        if len(weights) != len(counts):
            raise ValueError(f"class_weights has {len(weights)} numbers and the model {len(counts)} classes.")
    mean = (weights * counts).sum() / counts.sum()
    if not mean > 0:
        raise ValueError(f"class_weights={given} is zero for every class that has training images.")
    return (weights / mean).float()


def describe_classes(counts: Tensor, config: PretrainedConfig) -> str:
    """The classes found and their images in one line: each by its name where there are few, else their range.

    Example:
        >>> describe_classes(torch.tensor([30, 10]), BNDLConfig(feature_dim=4, id2label={0: "cat", 1: "dog"}))
        '40 training images of 2 classes: cat 30, dog 10'
    """
    names: Any = config.id2label
    line = f"{int(counts.sum())} training images of {int((counts > 0).sum())} classes"
    if len(counts) <= 12:
        return f"{line}: " + ", ".join(f"{names[i]} {n}" for i, n in enumerate(counts.tolist()))
    return f"{line}, {int(counts.min())} to {int(counts.max())} a class"


def missing_classes(counts: Tensor, config: PretrainedConfig) -> str | None:
    """A sentence naming the classes without training images, or None where every class has some."""
    names: Any = config.id2label
    missing = [names[i] for i in (counts == 0).nonzero().flatten().tolist()]
    if not missing:
        return None
    listed = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return (
        f"{len(missing)} of {len(counts)} classes have no training image ({listed}); the model cannot learn them. "
        "Check the labels, or make the model with the classes that are there."
    )


class BalancedSampler(Sampler[int]):
    """Rows drawn with replacement, each class equally often on average, however many images it has.

    The draws of an epoch depend on the seed and the epoch alone: every process draws the same, and a resumed run too.

    Args:
        labels: [N].
        seed: of the draws.
    """

    def __init__(self, labels: Tensor, seed: int) -> None:
        self._weights = 1 / torch.bincount(labels).double()[labels]  # [N]
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of `epoch`; the Trainer calls it before every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._weights)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + 1_000_003 * self._epoch)
        yield from torch.multinomial(self._weights, len(self), replacement=True, generator=generator).tolist()
