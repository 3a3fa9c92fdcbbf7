"""From the name of a dataset to parts that give `pixel_values` and `labels`.

`DataArguments` is what a user says, `load_image_dataset` finds splits, columns and class names, and
`ImageDataset.with_pixel_values` hands out a part that a DataLoader or a Trainer reads with `collate`. Images stay
encoded until they are asked for, and every row remembers its place in its split, so that an unreadable image can be
named. Datasets are map-style only: holding out a share and counting bad images need all rows. What happens to one
image is in `augmentation.py`.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetsError

from bndl_hf.data.augmentation import AUGMENTATIONS, Augmentation, check_augmentation_name, make_augmentation
from bndl_hf.data.columns import (
    ROW_COLUMN,
    check_labels,
    column_values,
    distinct_labels,
    encode_labels,
    find_column,
    keep_columns,
    skip_bad_images,
    stratified_rows,
)
from bndl_hf.data.image_folder import read_image_folder
from bndl_hf.data.pixel_values import (
    PixelValues,
    collate,
    decode_image,
    image_name,
    make_image_processor,
    output_size,
)

__all__ = [
    "DataArguments",
    "ImageDataset",
    "PixelValues",
    "check_labels",
    "collate",
    "load_image_dataset",
    "make_image_processor",
]

logger = logging.getLogger(__name__)

_CLASSES_SHOWN = 10

_DATASET_KINDS = (
    "a Hub id (uoft-cs/cifar10), a folder of parquet files, a folder written by save_to_disk, a folder of images with "
    "one sub-folder per class (below train/ and test/, or flat), a .parquet file, or 'digits' (built in: the 8x8 "
    "handwritten digits of scikit-learn)"
)


def _flag(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class DataArguments:
    """Which images to learn from and which to judge on: one flag per field, made by `HfArgumentParser`.

    Raises:
        ValueError: a value that no dataset could satisfy.
    """

    dataset_name: str = field(metadata={"help": f"The images: {_DATASET_KINDS}."})
    dataset_config_name: str | None = _flag(None, "Configuration of a Hub dataset that has several, e.g. 'full_size'.")
    train_split: str = _flag("train", "Split to learn from.")
    validation_split: str | None = _flag(
        None, "Split to choose on. Found: 'validation', where there is a test split too and nothing is held out."
    )
    test_split: str | None = _flag(
        None, "Split to report on, once, at the end. Found: 'test', else 'validation', else there is none."
    )
    validation_fraction: float = _flag(
        0.0,
        "Share of the training split to hold out, in [0, 1), the same of every class. Whatever you choose (an epoch, a "
        "learning rate, a threshold), choose it on these images: a number chosen on the test split says nothing about "
        "new images.",
    )
    image_column: str | None = _flag(
        None, "Column with the images. Found by its type, then by usual names: image, img, ..."
    )
    label_column: str | None = _flag(
        None, "Column with the classes. Found by its type, then by usual names: label, labels, fine_label, ..."
    )
    max_train_samples: int | None = _flag(
        None, "Learn from this many images only, the same share of every class: for a quick try."
    )
    max_eval_samples: int | None = _flag(
        None, "Judge on this many validation and this many test images only, drawn the same way."
    )
    skip_bad_images: bool = _flag(
        False,
        "Decode every image once before the start, leave out those that cannot be read, and say which. Without it the "
        "first unreadable image stops the run and is named.",
    )
    augmentation: str = _flag(
        "auto",
        f"Random changes to training images: {', '.join(AUGMENTATIONS)}. crop_flip pads by 1/8, crops and mirrors (the "
        "CIFAR recipe); resized_crop_flip crops a random window (the ImageNet recipe); shift never mirrors. auto: "
        "shift for digits and letters, crop_flip for images up to 96 pixels, resized_crop_flip for larger ones.",
    )
    preprocessing_num_workers: int = _flag(1, "Processes that look for unreadable images (--skip_bad_images).")
    split_seed: int = _flag(0, "Seed that decides which images are held out or kept.")

    def __post_init__(self) -> None:
        check_augmentation_name(self.augmentation)
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} is not a share of the training split. Pass a number "
                "in [0, 1), e.g. 0.1."
            )
        if self.validation_fraction and self.validation_split:
            raise ValueError(
                f"validation_split={self.validation_split!r} and validation_fraction={self.validation_fraction} both "
                "say what to choose on. Pass one of them."
            )
        for name in ("max_train_samples", "max_eval_samples", "preprocessing_num_workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} leaves nothing to do. Pass a number of at least 1.")


@dataclass
class ImageDataset:
    """Parts with the columns `image_column` (encoded), `label_column` (ClassLabel) and `ROW_COLUMN`.

    A part's `_fingerprint` changes whenever its rows do: the key of a feature cache. `sources` names the split that
    each part came from.
    """

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    image_column: str
    label_column: str
    label_names: list[str]
    sources: dict[str, str]

    def part(self, name: str) -> Dataset:
        """The part "train", "validation" or "test".

        Raises:
            ValueError: there is no such part, or it is empty.
        """
        dataset = {"train": self.train, "validation": self.validation, "test": self.test}.get(name)
        if dataset is None or len(dataset) == 0:
            raise ValueError(
                f"There is no {name} part; parts here: {', '.join(self.sources)}. Pass --{name}_split"
                f"{' or --validation_fraction 0.1' if name == 'validation' else ''}."
            )
        return dataset

    def is_held_out(self, part: str) -> bool:
        """Whether the images of `part` were taken out of the training split."""
        return part == "validation" and self.sources[part] == self.sources["train"]

    def where(self, part: str) -> str:
        """Where the images of `part` come from: "split 'test' of cifar10", say; held-out ones are counted."""
        source = self.sources[part]
        return f"{len(self.part(part))} validation images held out of {source}" if self.is_held_out(part) else source

    def class_counts(self, part: str = "train") -> dict[str, int]:
        """How many images of every class a part holds, in the order of the classes."""
        labels = column_values(self.part(part), self.label_column)
        counts = np.bincount(labels, minlength=len(self.label_names))  # [C]
        return dict(zip(self.label_names, counts.tolist(), strict=True))

    def describe(self) -> str:
        """One line that names the parts and the classes with their numbers of images.

        Example:
            >>> load_image_dataset(DataArguments("digits")).describe()
            'train: 1438 images, test: 359 images; 10 classes in train: 0 (142), 1 (146), 2 (142), ...'
        """
        sizes = {part: getattr(self, part) for part in ("train", "validation", "test")}
        parts = [f"{part}: {len(rows)} images" for part, rows in sizes.items() if rows is not None and len(rows)]
        counted = "train" if len(self.train) else "test"
        counts = self.class_counts(counted)
        shown = [f"{name} ({count})" for name, count in list(counts.items())[:_CLASSES_SHOWN]]
        if len(counts) > _CLASSES_SHOWN:
            least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            shown.append(f"...; fewest: {least} ({counts[least]}), most: {most} ({counts[most]})")
        return f"{', '.join(parts)}; {len(counts)} classes in {counted}: {', '.join(shown)}"

    def with_pixel_values(self, part: str, processor: Any, augmentation: str | Augmentation = "none") -> Dataset:
        """The part "train", "validation" or "test", giving {"pixel_values": float [3, H, W], "labels": int} row by row.

        Use it with `collate` and, in a Trainer, with `remove_unused_columns=False`: a row is decoded when asked for.

        Args:
            part: which of the three.
            processor: a transformers image processor.
            augmentation: one of `AUGMENTATIONS`, or a callable of your own from an RGB PIL image to a PIL image (a
                function, a transform of torchvision); "none", the default, for anything that is judged.

        Raises:
            ValueError: there is no such part, or the augmentation is unknown.
        """
        dataset = self.part(part)
        augment: Augmentation | None
        if isinstance(augmentation, str):
            image_size = None
            if augmentation == "auto":
                first = dataset[0]
                name = image_name(first[self.image_column], first[ROW_COLUMN], self.sources[part])
                image_size = decode_image(first[self.image_column], name).size[::-1]
            augment = make_augmentation(augmentation, output_size(processor), self.label_names, image_size)
        elif callable(augmentation):
            augment = augmentation
        else:
            raise ValueError(
                f"augmentation={augmentation!r} is neither a name ({', '.join(AUGMENTATIONS)}) nor a callable from a "
                "PIL image to a PIL image."
            )
        return dataset.with_transform(
            PixelValues(processor, self.image_column, self.label_column, self.sources[part], ROW_COLUMN, augment)
        )


def load_image_dataset(
    arguments: DataArguments, evaluation_only: bool = False, label_names: Sequence[str] | None = None
) -> ImageDataset:
    """The parts a user asked for, with their columns found and their labels checked.

    Args:
        arguments: the user's choice. Of several processes let the main one go first: the others then read its cache.
        evaluation_only: read no training split; `train` is then empty. For datasets that only have a test split.
        label_names: names of the classes in the model's order, to encode the labels by. Default: the ClassLabel's own
            names, else the distinct values of the first part, sorted.

    Raises:
        ValueError: the dataset, a split or a column cannot be found, a split is empty, or a label fits no class.

    Example:
        >>> digits = load_image_dataset(DataArguments("digits", validation_fraction=0.1))
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (1294, 144, 359)
    """
    name = arguments.dataset_name
    splits = read_splits(name, arguments.dataset_config_name)
    chosen = _choose_splits(splits, arguments, evaluation_only)
    sources = {part: f"split {split!r} of {name}" for part, split in chosen.items()}
    parts: dict[str, Dataset] = {}
    image_column, label_column, names = "", "", list(label_names or [])
    for part, split in chosen.items():
        dataset, where = splits[split], sources[part]
        image_column = image_column or find_column(dataset, where, "image", arguments.image_column)
        label_column = label_column or find_column(dataset, where, "label", arguments.label_column)
        if image_column == label_column:
            raise ValueError(
                f"Column {image_column!r} cannot hold both. Pass another --image_column or --label_column."
            )
        dataset = keep_columns(dataset, image_column, label_column, where)
        names = names or distinct_labels(dataset, label_column, where)
        parts[part] = encode_labels(dataset, label_column, names, where)
    if "train" in parts and len(names) < 2:
        hint = f" Every class is a folder of its own: {name}/cat/, {name}/dog/." if Path(name).is_dir() else ""
        raise ValueError(f"S{sources['train'][1:]} has one class, {names[0]!r}; a classifier needs at least two.{hint}")

    if arguments.validation_fraction and "train" in parts:
        parts["train"], parts["validation"] = _hold_out(parts["train"], label_column, arguments)
        sources["validation"] = sources["train"]
    for part, dataset in parts.items():
        limit = arguments.max_train_samples if part == "train" else arguments.max_eval_samples
        if limit is not None and limit < len(dataset):
            dataset = dataset.select(stratified_rows(column_values(dataset, label_column), limit, arguments.split_seed))
        if arguments.skip_bad_images:
            dataset = skip_bad_images(dataset, image_column, sources[part], arguments.preprocessing_num_workers)
        parts[part] = dataset
    train = parts["train"] if "train" in parts else parts["test"].select([])
    return ImageDataset(train, parts.get("validation"), parts.get("test"), image_column, label_column, names, sources)


def _digits() -> dict[str, Dataset]:
    """1,438 train and 359 test images of 8 x 8 grey pixels, always the same: every split is seeded with 0."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "dataset_name='digits' comes with scikit-learn, which is not installed. Install it: pip install "
            "bndl-hf[baselines]."
        ) from error
    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)  # [N, 8, 8], 0..16 -> 0..255
    test = stratified_rows(digits.target.tolist(), round(0.2 * len(pixels)), seed=0)
    rows = {"train": np.setdiff1d(np.arange(len(pixels)), test), "test": np.asarray(test)}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    return {
        split: Dataset.from_dict({"image": list(pixels[r]), "label": digits.target[r].tolist()}, features=features)
        for split, r in rows.items()
    }


def read_splits(
    name: str, config_name: str | None, flag: str = "dataset_name", labelled: bool = True
) -> dict[str, Dataset]:
    """Every split of a dataset, by its name.

    Args:
        name: see `DataArguments.dataset_name`.
        config_name: of a Hub dataset that has several.
        flag: what the user set, for the error.
        labelled: a folder of images needs class folders.
    """
    if name == "digits":
        return _digits()
    is_saved = any((Path(name) / marker).is_file() for marker in ("dataset_dict.json", "state.json"))
    if Path(name).is_dir() and not is_saved and (folder := read_image_folder(name, labelled)) is not None:
        return folder
    try:
        if is_saved:
            loaded = load_from_disk(name)
        elif name.endswith(".parquet"):
            loaded = load_dataset("parquet", data_files=name)
        else:
            loaded = load_dataset(name, config_name)
    except (OSError, ValueError, RuntimeError, IndexError, DatasetsError) as error:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {cause}"
        if isinstance(error, IndexError) or "corresponds to no data" in reason:  # how datasets 5.2 meets an empty split
            reason = "a split has no rows"
        raise ValueError(f"{flag}={name!r} cannot be loaded ({reason}). Pass {_DATASET_KINDS}.") from error
    return {str(loaded.split or "train"): loaded} if isinstance(loaded, Dataset) else dict(loaded)


def _choose_splits(splits: Iterable[str], arguments: DataArguments, evaluation_only: bool) -> dict[str, str]:
    """Which split is "train", "validation", "test"; a part that is not there is left out."""
    asked = {"train": arguments.train_split, "validation": arguments.validation_split, "test": arguments.test_split}
    chosen = {part: split for part, split in asked.items() if split and not (evaluation_only and part == "train")}
    for part, split in chosen.items():
        if split not in splits:
            raise ValueError(
                f"{arguments.dataset_name} has no split {split!r}; splits here: {', '.join(splits)}. Pass one of them "
                f"as --{part}_split."
            )
    for part, usual in (("test", "test"), ("test", "validation"), ("validation", "validation")):
        held_out = part == "validation" and arguments.validation_fraction > 0
        if part not in chosen and usual in splits and usual not in chosen.values() and not held_out:
            chosen[part] = usual
    if evaluation_only and "test" not in chosen:
        raise ValueError(
            f"{arguments.dataset_name} has no test split; splits here: {', '.join(splits)}. Pass one of them as "
            "--test_split."
        )
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"{chosen}: two parts share a split. Learn, choose and report on different images.")
    return chosen


def _hold_out(dataset: Dataset, label_column: str, arguments: DataArguments) -> tuple[Dataset, Dataset]:
    count = round(arguments.validation_fraction * len(dataset))
    if not 0 < count < len(dataset):
        raise ValueError(
            f"validation_fraction={arguments.validation_fraction} of {len(dataset)} rows is {count}; both parts need "
            "images. Pass a share that leaves some on either side."
        )
    held_out = stratified_rows(column_values(dataset, label_column), count, arguments.split_seed)
    return dataset.select(np.setdiff1d(np.arange(len(dataset)), held_out)), dataset.select(held_out)
