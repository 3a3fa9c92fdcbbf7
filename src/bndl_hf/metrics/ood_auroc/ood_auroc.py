"""Out-of-distribution detection of `bndl_hf.uncertainty` as an `evaluate` module."""

from typing import ClassVar

import datasets
import evaluate

from bndl_hf.metrics.columns import Column, as_probs, as_tensor
from bndl_hf.uncertainty import ood_aupr, ood_auroc, ood_fpr95
from bndl_hf.uncertainty.validation import check_probs

_DESCRIPTION = (
    "Out-of-distribution detection: the probability that an image of no class scores higher than an image of the "
    "training distribution, with the false-positive rate at 95 % and the area under the precision-recall curve."
)

_CITATION = """\
@inproceedings{hendrycks2017baseline,
  title={A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks},
  author={Hendrycks, Dan and Gimpel, Kevin},
  booktitle={International Conference on Learning Representations},
  year={2017}
}
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: one score for each image, higher for images more likely out of distribution, or its C probabilities (or
        logits with from_logits=True), which are scored by 1 - the largest.
    references: 1 for an image that is out of distribution, 0 for one that is not.
    positive (str): "out" or "in": the side that fpr95 and aupr call positive.
    from_logits (bool): take the softmax of `predictions` first.
Returns:
    ood_auroc: a fraction in [0, 1]; 0.5 is chance.
    ood_fpr95: share of the other side that is flagged together with 95 % of the positive side; smaller is better.
    ood_aupr: average precision.
Examples:
    >>> metric.compute(predictions=[0.1, 0.2, 0.3, 0.8, 0.5, 0.9], references=[0, 0, 0, 0, 1, 1])["ood_auroc"]
    0.875
"""


class OodAuroc(evaluate.Metric):
    """Out-of-distribution detection from scores, probabilities or logits."""

    example: ClassVar[dict[str, object]] = {
        "predictions": [0.1, 0.2, 0.3, 0.8, 0.5, 0.9],
        "references": [0, 0, 0, 0, 1, 1],
    }

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": number, "references": label}),
                datasets.Features({"predictions": datasets.Sequence(number), "references": label}),
            ],
            reference_urls=["https://arxiv.org/abs/1610.02136"],
        )

    def _compute(
        self, predictions: Column, references: Column, positive: str = "out", from_logits: bool = False, **_: object
    ) -> dict[str, float]:
        is_out = as_tensor(references, "references")
        if sorted(is_out.unique().tolist()) != [0, 1]:
            raise ValueError(
                f"references has shape {list(is_out.shape)} and holds {is_out.unique().tolist()[:5]}; "
                "0 (in distribution) and 1 (out) must both occur, and nothing else. Add the missing images."
            )
        values = as_tensor(predictions, "predictions")
        if values.ndim > 1:
            probs, is_out = check_probs(as_probs(predictions, from_logits), is_out)
            values = 1 - probs.amax(dim=-1)
        if len(values) != len(is_out):
            raise ValueError(f"predictions has {len(values)} scores for {len(is_out)} references. Pass one for each.")
        score_in, score_out = values[is_out == 0], values[is_out == 1]
        return {
            "ood_auroc": ood_auroc(score_in, score_out),
            "ood_fpr95": ood_fpr95(score_in, score_out, positive),
            "ood_aupr": ood_aupr(score_in, score_out, positive),
        }
