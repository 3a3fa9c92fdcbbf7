"""Images that verdicts are fitted on: not those that were trained on, and not those that are reported."""

from __future__ import annotations

import dataclasses

import numpy as np

from bndl_hf.data.columns import column_values, stratified_rows
from bndl_hf.data.image_dataset import DataArguments, ImageDataset, load_image_dataset

# More than this share of the training images is not held out for a promise that takes so many.
LARGEST_SHARE = 0.25


def hold_out_for_decisions(
    dataset: ImageDataset,
    arguments: DataArguments,
    fraction: float = 0.1,
    split: str | None = None,
    at_least: int = 0,
) -> tuple[ImageDataset, ImageDataset | None]:
    """The dataset to train on, and one whose validation part verdicts are fitted on.

    Args:
        dataset: what `load_image_dataset` read.
        arguments: of that dataset; `split_seed` draws the images.
        fraction: share of the training images to hold out, the same of every class, where there are no validation
            images; 0 holds none out.
        split: a split of their own instead.
        at_least: images the promise takes: as many are held out, unless that is over a quarter of the training images.

    Returns:
        (The dataset without the images held out, the dataset whose `validation` they are; None for no such images).

    Raises:
        ValueError: fraction is outside [0, 0.9], or the split is none, or already trained or reported on.

    Example:
        >>> arguments = DataArguments("digits")
        >>> train, decisions = hold_out_for_decisions(load_image_dataset(arguments), arguments, at_least=149)
        >>> len(train.train), len(decisions.validation)
        (1289, 149)
    """
    if not 0 <= fraction <= 0.9:
        raise ValueError(f"decision_fraction={fraction} is not a share of the training images in [0, 0.9]; 0.1 is one.")
    if split is not None:
        own = dataclasses.replace(arguments, validation_split=split, validation_fraction=0.0)
        decisions = load_image_dataset(own, label_names=dataset.label_names)
        taken = [part for part in ("train", "test") if dataset.sources.get(part) == decisions.sources["validation"]]
        if taken:
            raise ValueError(
                f"decision_split={split!r} is the split of the {taken[0]} images; decide on others than are trained or "
                "reported on: name another split, or a share of the training images as decision_fraction."
            )
        return dataset, decisions
    if dataset.validation is not None:
        return dataset, dataset
    N = len(dataset.train)
    count = round(fraction * N)
    if fraction and at_least <= LARGEST_SHARE * N:
        count = max(count, at_least)
    if not 0 < count < N:
        return dataset, None
    rows = stratified_rows(column_values(dataset.train, dataset.label_column), count, arguments.split_seed)
    held_out = dataset.train.select(rows)
    rest = dataset.train.select(np.setdiff1d(np.arange(N), rows))
    sources = {**dataset.sources, "validation": dataset.sources["train"]}
    return (
        dataclasses.replace(dataset, train=rest),
        dataclasses.replace(dataset, train=rest, validation=held_out, sources=sources),
    )
