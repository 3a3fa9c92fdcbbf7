"""The columns and labels of one split: found, checked, encoded; unreadable images left out. See `image_dataset.py`."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from datasets import Image as ImageFeature
from datasets.fingerprint import Hasher

from bndl_hf.data.pixel_values import decode_image, image_name

logger = logging.getLogger(__name__)

ROW_COLUMN = "source_row"  # which row of its split an image was, before any selection
_IMAGE_NAMES = ("image", "img", "images", "pixel_values", "pixels", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")


def find_column(dataset: Dataset, where: str, kind: str, asked: str | None) -> str:
    """The image or label column: as asked, else the only one of the right type, else the first with a usual name."""
    feature_type, usual = (ImageFeature, _IMAGE_NAMES) if kind == "image" else (ClassLabel, _LABEL_NAMES)
    features = dataset.features
    listed = ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())
    typed = [name for name, feature in features.items() if isinstance(feature, feature_type)]
    if asked is not None:
        if asked in features:
            return asked
        problem = f"has no column {asked!r}"
    elif len(typed) == 1:
        return typed[0]
    elif kind == "image" and typed:
        problem = f"has {len(typed)} image columns ({', '.join(typed)})"
    else:
        for name in usual:
            if name in (typed or features):
                return name
        problem = f"has no column that is known to hold {kind}s"
    raise ValueError(f"S{where[1:]} {problem}; columns here: {listed}. Pass one of them as --{kind}_column.")


def _type_name(feature: Any) -> str:
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def keep_columns(dataset: Dataset, image_column: str, label_column: str, where: str) -> Dataset:
    """The image, undecoded, and the label, each row with its number."""
    find_column(dataset, where, "label", label_column)
    return keep_images(dataset, image_column, where, [label_column])


def keep_images(dataset: Dataset, image_column: str, where: str, others: Sequence[str] = ()) -> Dataset:
    """The image, undecoded, and `others`, each row with its number."""
    find_column(dataset, where, "image", image_column)
    held = _type_name(dataset.features[image_column])
    dataset = dataset.with_format(None).select_columns([image_column, *others])
    try:
        dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    except (ValueError, TypeError, NotImplementedError) as error:  # pyarrow's errors derive from these
        raise ValueError(
            f"Column {image_column!r} of {where} holds {held}; images are paths or bytes. Pass another one as "
            "--image_column."
        ) from error
    fingerprint = Hasher.hash((dataset._fingerprint, ROW_COLUMN))
    return dataset.add_column(ROW_COLUMN, np.arange(len(dataset)), new_fingerprint=fingerprint)


def column_values(dataset: Dataset, column: str) -> list[Any]:
    """All values of one column, without decoding the others."""
    return dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def distinct_labels(dataset: Dataset, label_column: str, where: str) -> list[str]:
    """Names of the classes: the ClassLabel's own, else the distinct values, sorted.

    Raises:
        ValueError: the column holds no classes.
    """
    feature = dataset.features[label_column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    if not isinstance(feature, Value) or feature.dtype.startswith(("float", "double", "binary", "timestamp")):
        raise ValueError(
            f"Column {label_column!r} of {where} holds {_type_name(feature)}; classes are whole numbers or strings, "
            "one per image (several classes per image are not supported). Pass another one as --label_column."
        )
    return [
        str(label) for label in sorted({label for label in column_values(dataset, label_column) if label is not None})
    ]


def encode_labels(dataset: Dataset, label_column: str, names: list[str], where: str) -> Dataset:
    """Labels as places in `names`; done in memory, since a cast would copy every image to disk."""
    feature = dataset.features[label_column]
    labels = column_values(dataset, label_column)
    if isinstance(feature, ClassLabel):
        check_labels(dataset, label_column, len(feature.names), where)
        if feature.names == names:
            return dataset
        labels = [feature.names[label] for label in labels]
    place = {name: index for index, name in enumerate(names)}
    codes = [-1 if label is None else place.get(str(label)) for label in labels]
    if None in codes:
        row = codes.index(None)
        raise ValueError(
            f"Label {labels[row]!r} in row {row} of {where} is not a known class; classes here: {', '.join(names[:20])}"
            f"{', ...' if len(names) > 20 else ''}. Correct the label, or pick other splits."
        )
    encoded = dataset.remove_columns(label_column).add_column(
        label_column,
        codes,
        feature=ClassLabel(names=names),
        new_fingerprint=Hasher.hash((dataset._fingerprint, names)),
    )
    check_labels(encoded, label_column, len(names), where)
    return encoded


def check_labels(dataset: Dataset, label_column: str, num_labels: int, where: str) -> None:
    """Every label is one of 0..num_labels - 1.

    Raises:
        ValueError: the first label that is not, with its row; None and the Hub's -1 are said to be missing.
    """
    for row, label in enumerate(column_values(dataset, label_column)):
        if label is None or not 0 <= label < num_labels:
            row = column_values(dataset, ROW_COLUMN)[row] if ROW_COLUMN in dataset.column_names else row
            if label is None or label == -1:
                raise ValueError(f"Row {row} of {where} has no label ({label}). Pick a split that has labels.")
            raise ValueError(
                f"Label {label} in row {row} of {where} is not in 0..{num_labels - 1}. Correct it, or pass "
                "the num_labels that fits."
            )


def stratified_rows(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """`count` row numbers, ascending, drawn at random; each class gives its share of them, to within one row."""
    generator = np.random.default_rng(seed)
    _, classes, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    rows = generator.permutation(len(classes))
    rows = rows[np.argsort(classes[rows], kind="stable")]  # grouped by class, in random order within each
    rank = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[classes[rows]]  # 0, 1, ... within each class
    position = (rank + 0.5) / sizes[classes[rows]]  # every class evenly over (0, 1): any beginning holds its share
    return np.sort(rows[np.lexsort((generator.random(len(rows)), position))[:count]])


def skip_bad_images(dataset: Dataset, image_column: str, where: str, workers: int) -> Dataset:
    """The rows whose image can be read; says how many were left out and names the first."""
    kept = dataset.filter(
        _are_readable,
        batched=True,
        batch_size=100,
        input_columns=[image_column],
        num_proc=workers if workers > 1 else None,
        desc=f"Reading every image in {where}",
        new_fingerprint=Hasher.hash((dataset._fingerprint, "readable")),  # datasets' own depends on num_proc
    )
    bad = np.flatnonzero(~np.isin(column_values(dataset, ROW_COLUMN), column_values(kept, ROW_COLUMN)))
    if len(bad):
        first = (dataset[int(row)] for row in bad[:5])
        names = ", ".join(image_name(row[image_column], row[ROW_COLUMN], where) for row in first)
        more = ", ..." if len(bad) > 5 else ""
        logger.warning(
            "Left out %d of %d images in %s that cannot be read: %s%s", len(bad), len(dataset), where, names, more
        )
    if len(kept) == 0:
        raise ValueError(
            f"None of the {len(dataset)} images in {where} can be read. Is {image_column!r} the image column?"
        )
    return kept


def _are_readable(encoded: Sequence[Mapping[str, Any] | None]) -> list[bool]:
    return [_is_readable(image) for image in encoded]


def _is_readable(encoded: Mapping[str, Any] | None) -> bool:
    try:
        decode_image(encoded, "the image")
    except ValueError:
        return False
    return True
