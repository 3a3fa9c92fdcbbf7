"""Calibration errors of `bndl_hf.uncertainty` as an `evaluate` module."""

from typing import ClassVar

import datasets
import evaluate

from bndl_hf.metrics.columns import Column, as_probs, as_tensor
from bndl_hf.uncertainty import adaptive_calibration_error, calibration_bins, classwise_calibration_error

_DESCRIPTION = (
    "Expected calibration error: by how much the largest probability misses the share of images where it comes true, "
    "averaged over bins; beside it the maximum, the equal-mass and the class-wise error."
)

_CITATION = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning},
  year={2017}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each image its C probabilities, or its logits with from_logits=True.
    references: the true class of each image.
    num_bins (int): bins of the probability. 15: Guo et al.'s value.
    from_logits (bool): take the softmax of `predictions` first.
Returns:
    expected_calibration_error: equal-width bins of the largest probability, a fraction in [0, 1].
    maximum_calibration_error: the worst of those bins.
    adaptive_calibration_error: bins of equally many images.
    classwise_calibration_error: every class's probability, averaged over classes.
Examples:
    >>> results = metric.compute(predictions=[[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], references=[0, 1, 1])
    >>> round(results["expected_calibration_error"], 4)  # (|1 - 1.8| + |1 - 0.6|) / 3
    0.4
"""


class ExpectedCalibrationError(evaluate.Metric):
    """Calibration errors from probabilities or logits."""

    example: ClassVar[dict[str, object]] = {
        "predictions": [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]],
        "references": [0, 1, 1],
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
            reference_urls=["https://arxiv.org/abs/1706.04599"],
        )

    def _compute(
        self, predictions: Column, references: Column, num_bins: int = 15, from_logits: bool = False, **_: object
    ) -> dict[str, float]:
        probs, labels = as_probs(predictions, from_logits), as_tensor(references, "references")
        bins = calibration_bins(probs, labels, num_bins)
        return {
            "expected_calibration_error": bins.expected_calibration_error,
            "maximum_calibration_error": bins.maximum_calibration_error,
            "adaptive_calibration_error": adaptive_calibration_error(probs, labels, num_bins),
            "classwise_calibration_error": classwise_calibration_error(probs, labels, num_bins),
        }
