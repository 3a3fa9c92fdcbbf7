"""The Brier score of `bndl_hf.uncertainty` and its parts as an `evaluate` module."""

from typing import ClassVar

import datasets
import evaluate

from bndl_hf.metrics.columns import Column, as_probs, as_tensor
from bndl_hf.uncertainty import brier_decomposition, brier_score

_DESCRIPTION = (
    "Brier score of several classes: the squared distance of the probabilities from the truth, summed over classes, "
    "with its decomposition into reliability, resolution and uncertainty."
)

_CITATION = """\
@article{brier1950verification,
  title={Verification of forecasts expressed in terms of probability},
  author={Brier, Glenn W.},
  journal={Monthly Weather Review},
  volume={78},
  number={1},
  year={1950}
}
@article{murphy1973vector,
  title={A new vector partition of the probability score},
  author={Murphy, Allan H.},
  journal={Journal of Applied Meteorology},
  volume={12},
  number={4},
  year={1973}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each image its C probabilities, or its logits with from_logits=True.
    references: the true class of each image.
    num_bins (int): bins of the decomposition; the score itself has none.
    from_logits (bool): take the softmax of `predictions` first.
Returns:
    brier_score: in [0, 2]; 0 for certain and right, 2 for certain and wrong.
    brier_reliability, brier_resolution, brier_uncertainty, brier_within_bin: the score is
        reliability - resolution + uncertainty + within_bin.
Examples:
    >>> round(metric.compute(predictions=[[0.9, 0.1], [0.4, 0.6]], references=[0, 0])["brier_score"], 4)
    0.37
"""


class BrierScore(evaluate.Metric):
    """Brier score and its parts from probabilities or logits."""

    example: ClassVar[dict[str, object]] = {
        "predictions": [[0.9, 0.1], [0.4, 0.6]],
        "references": [0, 0],
        "num_bins": 15,
    }

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(
        self, predictions: Column, references: Column, num_bins: int = 15, from_logits: bool = False, **_: object
    ) -> dict[str, float]:
        probs, labels = as_probs(predictions, from_logits), as_tensor(references, "references")
        parts = brier_decomposition(probs, labels, num_bins)
        return {
            "brier_score": brier_score(probs, labels),
            "brier_reliability": parts.reliability,
            "brier_resolution": parts.resolution,
            "brier_uncertainty": parts.uncertainty,
            "brier_within_bin": parts.within_bin,
        }
