"""Selective prediction of `bndl_hf.uncertainty` as an `evaluate` module: the area under the risk-coverage curve."""

from typing import ClassVar

import datasets
import evaluate

from bndl_hf.metrics.columns import Column, as_probs, as_tensor
from bndl_hf.uncertainty import (
    area_under_risk_coverage,
    coverage_at_risk,
    error_detection_auroc,
    excess_area_under_risk_coverage,
    risk_at_coverage,
)
from bndl_hf.uncertainty.validation import check_probs

_DESCRIPTION = (
    "Area under the risk-coverage curve: the share of wrong answers among the most confident images, averaged over how "
    "many are answered. Smaller is better."
)

_CITATION = """\
@inproceedings{geifman2019bias,
  title={Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers},
  author={Geifman, Yonatan and Uziel, Guy and El-Yaniv, Ran},
  booktitle={International Conference on Learning Representations},
  year={2019}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each image its C probabilities (its largest one is the confidence), or logits with
        from_logits=True, or one confidence, higher for more certain images.
    references: the true class of each image; beside confidences, 1 where the answer was right and 0 where it was wrong.
    risk (float): report the largest coverage at no more than this share of wrong answers.
    coverage (float): report the share of wrong answers among this share of the images.
    from_logits (bool): take the softmax of `predictions` first.
Returns:
    area_under_risk_coverage: a fraction in [0, 1].
    excess_area_under_risk_coverage: what a perfect order of the same answers would save.
    error_detection_auroc: probability that a right image is more confident than a wrong one; NaN if all are right or
        all are wrong.
    coverage_at_risk, risk_at_coverage: where `risk` or `coverage` was given.
Examples:
    >>> results = metric.compute(predictions=[0.9, 0.8, 0.7, 0.6], references=[1, 1, 0, 1])
    >>> round(results["area_under_risk_coverage"], 4)  # (0 + 0 + 1/3 + 1/4) / 4
    0.1458
"""


class AreaUnderRiskCoverage(evaluate.Metric):
    """Risk and coverage from probabilities, logits or confidences."""

    example: ClassVar[dict[str, object]] = {
        "predictions": [[0.9, 0.1], [0.7, 0.3], [0.4, 0.6]],
        "references": [0, 1, 1],
        "risk": 0.1,
    }

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": datasets.Sequence(number), "references": label}),
                datasets.Features({"predictions": number, "references": label}),
            ],
            reference_urls=["https://arxiv.org/abs/1805.08206"],
        )

    def _compute(
        self,
        predictions: Column,
        references: Column,
        risk: float | None = None,
        coverage: float | None = None,
        from_logits: bool = False,
        **_: object,
    ) -> dict[str, float]:
        confidence, correct = as_tensor(predictions, "predictions"), as_tensor(references, "references")
        if confidence.ndim > 1:
            probs, labels = check_probs(as_probs(predictions, from_logits), correct)
            confidence, correct = probs.amax(dim=-1), probs.argmax(dim=-1) == labels
        results = {
            "area_under_risk_coverage": area_under_risk_coverage(confidence, correct),
            "excess_area_under_risk_coverage": excess_area_under_risk_coverage(confidence, correct),
            "error_detection_auroc": error_detection_auroc(confidence, correct),
        }
        if risk is not None:
            results["coverage_at_risk"] = coverage_at_risk(confidence, correct, risk)
        if coverage is not None:
            results["risk_at_coverage"] = risk_at_coverage(confidence, correct, coverage)
        return results
