"""Share of images whose most probable class is the true one: `bndl_hf.uncertainty.accuracy` as an `evaluate` module."""

from typing import ClassVar

import datasets
import evaluate

from bndl_hf.metrics.columns import Column, as_probs, as_tensor
from bndl_hf.uncertainty import accuracy

_DESCRIPTION = "Share of images whose most probable class is the true one."

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each image its C probabilities (or logits), or the predicted class.
    references: the true class of each image.
Returns:
    accuracy: a fraction in [0, 1]. The first of equally probable classes is the predicted one.
Examples:
    >>> metric.compute(predictions=[[0.9, 0.1], [0.4, 0.6]], references=[0, 0])
    {'accuracy': 0.5}
"""


class Accuracy(evaluate.Metric):
    """Accuracy from probabilities, logits or classes."""

    example: ClassVar[dict[str, object]] = {"predictions": [[0.9, 0.1], [0.4, 0.6]], "references": [0, 0]}

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        probs = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": probs, "references": label}),
                datasets.Features({"predictions": label, "references": label}),
            ],
        )

    def _compute(
        self, predictions: Column, references: Column, from_logits: bool = False, **_: object
    ) -> dict[str, float]:
        labels = as_tensor(references, "references")
        classes = as_tensor(predictions, "predictions")
        if classes.ndim == 1:
            if len(classes) != len(labels) or len(labels) == 0:
                raise ValueError(
                    f"predictions has {len(classes)} classes for {len(labels)} references; as many, and one at least, "
                    "fit. Pass one for each image."
                )
            return {"accuracy": (classes == labels).double().mean().item()}
        return {"accuracy": accuracy(as_probs(predictions, from_logits), labels)}
