"""Out-of-distribution images, which do not belong to any of a model's classes: read without labels.

What they are called, where they lie and how they are decoded is as in image_dataset.py; a label column is not needed
and not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from bndl_hf.data.columns import ROW_COLUMN, find_column, keep_images, skip_bad_images, stratified_rows
from bndl_hf.data.image_dataset import DataArguments, PixelValues, read_splits

_USUAL_SPLITS = ("test", "validation", "train")


def parse_named(pairs: Sequence[str]) -> dict[str, str]:
    """{name: dataset} of "NAME=DATASET" words.

    Raises:
        ValueError: a word without a name, or a name given twice.

    Example:
        >>> parse_named(["mnist=ylecun/mnist"])
        {'mnist': 'ylecun/mnist'}
    """
    named: dict[str, str] = {}
    for pair in pairs:
        name, equals, dataset = pair.partition("=")
        if not (name and equals and dataset):
            raise ValueError(f"--ood_datasets {pair!r} is not of the form NAME=DATASET, such as mnist=ylecun/mnist.")
        if name in named:
            raise ValueError(f"--ood_datasets names {name!r} twice; give each set a name of its own.")
        named[name] = dataset
    return named


def load_unlabelled_images(
    name: str, processor: Any, arguments: DataArguments, split: str | None = None
) -> tuple[Dataset, str]:
    """The images of a dataset, giving {"pixel_values", "labels"} with labels of -1, and the name of their source.

    Args:
        name: as `DataArguments.dataset_name`; a folder of images needs no sub-folders.
        processor: a transformers image processor.
        arguments: `image_column` where the dataset has such a column, `max_eval_samples`, `skip_bad_images` and
            `split_seed` hold here too.
        split: which one; None takes "test", else "validation", else "train", else the only one.

    Raises:
        ValueError: the dataset, its split or its image column cannot be found, or it holds no image.
    """
    splits = read_splits(name, None, "--ood_datasets", labelled=False)
    chosen = split or next((usual for usual in _USUAL_SPLITS if usual in splits), None)
    if chosen is None and len(splits) == 1:
        chosen = next(iter(splits))
    if chosen not in splits:
        wanted = f"no split {chosen!r}" if chosen else "no test split"
        raise ValueError(f"{name} has {wanted}; splits here: {', '.join(splits)}. Pass one of them as --ood_split.")
    where, dataset = f"split {chosen!r} of {name}", splits[chosen]
    if len(dataset) == 0:
        raise ValueError(f"S{where[1:]} holds no image; pass a dataset with images as --ood_datasets.")
    asked = arguments.image_column if arguments.image_column in dataset.features else None
    column = find_column(dataset, where, "image", asked)
    dataset = keep_images(dataset, column, where)
    limit = arguments.max_eval_samples
    if limit is not None and limit < len(dataset):
        dataset = dataset.select(stratified_rows([0] * len(dataset), limit, arguments.split_seed))
    if arguments.skip_bad_images:
        dataset = skip_bad_images(dataset, column, where, arguments.preprocessing_num_workers)
    label_column = f"{column}_label"
    fingerprint = f"{dataset._fingerprint}-unlabelled"
    dataset = dataset.add_column(label_column, np.full(len(dataset), -1), new_fingerprint=fingerprint)
    return dataset.with_transform(PixelValues(processor, column, label_column, where, ROW_COLUMN)), where
