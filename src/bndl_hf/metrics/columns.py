"""From the columns of an `evaluate` module to the tensors of `bndl_hf.uncertainty`, and the page of a metric Space.

`evaluate` writes columns to disk as they come and hands them over as lists when all are there: what fits in memory as
lists is what it can judge. `bndl_hf.uncertainty.StreamingMetrics` has no such limit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

# What `evaluate` hands over: a list with an entry an image, a number or a list of numbers each.
Column: TypeAlias = Sequence[object]


def as_tensor(column: Column, name: str, ndim: int | None = None) -> Tensor:
    """A column as one tensor.

    Raises:
        ValueError: rows of different lengths, or (given `ndim`) another number of axes.
    """
    try:
        values = np.asarray(column)
    except ValueError as error:
        raise ValueError(
            f"{name} has {len(column)} rows of different lengths; every image needs as many numbers. "
            "Find the odd one out."
        ) from error
    if ndim is not None and values.ndim != ndim:
        raise ValueError(f"{name} has shape {list(values.shape)}; {ndim} axes fit.")
    return torch.from_numpy(values)


def as_probs(column: Column, from_logits: bool = False) -> Tensor:
    """Probabilities [B, C], or the softmax of logits [B, C]."""
    values = as_tensor(column, "predictions", ndim=2)
    return values.double().softmax(dim=-1) if from_logits else values


def make_page(folder: str | Path) -> Any:
    """A gradio page that computes the metric in `folder` from columns pasted as JSON: the `app.py` of its Space.

    Raises:
        ImportError: gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("gradio is not installed; pip install 'bndl-hf[space]'.") from error
    import evaluate

    metric = evaluate.load(str(folder))
    card = (Path(folder) / "README.md").read_text().split("---\n", 2)[-1]  # without the front matter
    return gradio.Interface(
        fn=lambda text: compute_from_json(metric, text),
        inputs=gradio.Code(example_json(metric), language="json", label="Columns and settings"),
        outputs=gradio.JSON(label=metric.name),
        title=metric.name,
        description=metric.description,
        article=card,
        flagging_mode="never",
    )


def compute_from_json(metric: Any, text: str) -> dict[str, Any]:
    """What `metric` says of {"predictions": [...], "references": [...], ...}; bad input is {"error": sentence}."""
    try:
        columns = json.loads(text)
        if not isinstance(columns, dict):
            raise ValueError(f"Pass a JSON object of columns, not a {type(columns).__name__}.")
        return metric.compute(**columns)
    except (ValueError, TypeError, KeyError) as error:
        return {"error": str(error)}


def example_json(metric: Any) -> str:
    """Two images as the metric takes them, to start the page with."""
    return json.dumps(metric.example, indent=2)
