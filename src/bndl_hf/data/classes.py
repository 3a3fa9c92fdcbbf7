"""The classes of a model and of the images it is judged on: matched by their names, or refused."""

from __future__ import annotations

from typing import cast

from transformers import PretrainedConfig

from bndl_hf.data.image_dataset import DataArguments, ImageDataset, load_image_dataset


def known_classes(config: PretrainedConfig) -> list[str] | None:
    """Names of a model's classes in its order, unless they are placeholders."""
    id2label = cast(dict[int, str], config.id2label)
    names = [id2label[i] for i in range(len(id2label))]
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def load_images_to_judge(arguments: DataArguments, config: PretrainedConfig, name: str) -> ImageDataset:
    """The test part of a dataset, its labels encoded as the model's.

    Args:
        arguments: the user's choice.
        config: of the model.
        name: of the model, for the error.

    Raises:
        ValueError: what `load_image_dataset` finds wrong; a label the model does not know, or, where its classes have
            no names, another number of them.
    """
    dataset = load_image_dataset(arguments, evaluation_only=True, label_names=known_classes(config))
    if len(dataset.label_names) != config.num_labels:
        raise ValueError(
            f"{name} has {config.num_labels} classes without names, {dataset.sources['test']} has "
            f"{len(dataset.label_names)}, so they cannot be matched; set model.config.id2label and save it again."
        )
    return dataset
