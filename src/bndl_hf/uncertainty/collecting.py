"""The model's predictions on a held-out set, batch by batch: what the fits of this package learn from.

Read recalibration.py, conformal.py and abstention.py for the fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from bndl_hf.model.predictive import BNDLPrediction


def collect_predictions(
    model: Any,
    data: Dataset | Iterable[Mapping[str, Tensor]] | Tensor,
    labels: Tensor | None = None,
    *,
    batch_size: int = 256,
    progress: bool = True,
    **predict_arguments: Any,
) -> tuple[BNDLPrediction, Tensor]:
    """`model.predict` on every image of a dataset, as one prediction on the CPU, and the labels.

    Args:
        model: a `BNDLForImageClassification`, or a `BNDLDecisionLayer` for features.
        data: a dataset of rows {"pixel_values" or "features", "labels"}, a DataLoader or any iterable of such batches;
            or one tensor, pixel values [N, 3, height, width] or features [N, D].
        labels: [N], with a tensor only.
        batch_size: images at a time; a DataLoader and batches keep their own.
        progress: show a bar.
        **predict_arguments: of `predict`: `method`, `num_samples`, `generator`.

    Returns:
        (BNDLPrediction of all N images, labels [N]). It holds a few numbers per image and class: 16 N C bytes and more.

    Raises:
        TypeError: the model cannot predict, or the data are none of the above.
        ValueError: no images, or no labels.

    Example:
        >>> prediction, labels = collect_predictions(model, held_out)
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(
            f"A {type(model).__name__} has no predict; pass a BNDLForImageClassification, a BNDLDecisionLayer or a "
            "BNDLPrediction."
        )
    batches, num_images = batches_of(data, labels, batch_size)
    device = next(model.parameters()).device
    predictions, truths = [], []
    with tqdm(total=num_images, desc="Predictions", unit=" images", disable=not progress) as bar:
        for batch in batches:
            inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
            truth = inputs.pop("labels", None)
            main = next((inputs.pop(name) for name in ("features", "pixel_values") if name in inputs), None)
            if main is None or truth is None:
                raise ValueError(
                    f"A batch has the entries {', '.join(batch)}; tensors called labels, and features or "
                    "pixel_values, fit."
                )
            prediction = model.predict(main, **inputs, **predict_arguments)
            on_cpu: dict[str, Any] = {name: _on_cpu(getattr(prediction, name)) for name in _FIELDS}
            predictions.append(BNDLPrediction(**on_cpu))
            truths.append(truth.cpu())
            bar.update(len(truths[-1]))
    if not predictions:
        raise ValueError("data holds no batch; pass at least one held-out image.")
    return join_predictions(predictions), torch.cat(truths)


def join_predictions(parts: Sequence[BNDLPrediction]) -> BNDLPrediction:
    """Predictions for several batches, or of several models for images of their own, as one.

    Args:
        parts: at least one, on one device; what any of them lacks (prediction sets, say) the whole lacks too.
    """
    return BNDLPrediction(**{name: _joined(name, [getattr(part, name) for part in parts]) for name in _FIELDS})


_FIELDS = tuple(field.name for field in fields(BNDLPrediction))


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _joined(name: str, parts: list[Any]) -> Any:
    if any(part is None for part in parts):
        return None
    if not isinstance(parts[0], Tensor):  # the rule behind the verdicts, of the model and not of an image
        return parts[0]
    return torch.cat(parts, dim=1 if name == "logits_samples" else 0)  # draws come first: [S, B, C]


def batches_of(
    data: Any, labels: Tensor | None = None, batch_size: int = 256
) -> tuple[Iterable[Mapping[str, Any]], int | None]:
    """Batches of dictionaries, and the number of images where it is known."""
    if isinstance(data, Tensor):
        if labels is None or len(labels) != len(data):
            raise ValueError(
                f"data is a tensor of {len(data)} images with {'no' if labels is None else len(labels)} labels; pass "
                "one label for each."
            )
        return _slices(data, torch.as_tensor(labels), batch_size), len(data)
    if labels is not None:
        raise ValueError(f"labels go with a tensor; a {type(data).__name__} brings its own in its batches.")
    if isinstance(data, Mapping) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise TypeError(
            f"data is a {type(data).__name__}; pass a dataset, a DataLoader, batches, or a tensor and labels."
        )
    if isinstance(data, Dataset) or hasattr(data, "column_names"):
        num_images = len(data) if hasattr(data, "__len__") else None
        return DataLoader(data, batch_size=batch_size, collate_fn=_collate), num_images
    return data, None


def _slices(data: Tensor, labels: Tensor, batch_size: int) -> Iterator[dict[str, Tensor]]:
    name = "features" if data.ndim == 2 else "pixel_values"
    for start in range(0, len(data), batch_size):
        yield {name: data[start : start + batch_size], "labels": labels[start : start + batch_size]}


def _collate(rows: Any) -> Any:
    """Batch of rows; a dataset that reads batches at once has made it already."""
    return rows if isinstance(rows, Mapping) else default_collate(rows)
