"""What a `compute_metrics` of `BNDLTrainer` gets: the logits as always, and what only this model knows."""

from __future__ import annotations

import numpy as np
from transformers import EvalPrediction


class BNDLEvalPrediction(EvalPrediction):
    """`EvalPrediction` with the predictive probabilities and the p-values of the exact prediction.

    The softmax of the mean logits is not the predictive: it knows nothing of their variance. Metrics of uncertainty
    want `probs`.

    Attributes:
        predictions: mean logits, [N, C].
        label_ids: true classes, [N].
        probs: predictive probabilities, [N, C], rows sum to one.
        p_value: of the gap between the two top classes, [N], in [0, 1].
    """

    def __init__(self, predictions: np.ndarray, label_ids: np.ndarray, probs: np.ndarray, p_value: np.ndarray) -> None:
        super().__init__(predictions=predictions, label_ids=label_ids)
        self.probs = probs
        self.p_value = p_value
