"""What a `compute_metrics` of `BNDLTrainer` gets: the logits as always, and what only this model knows."""

from __future__ import annotations

from typing import Any

from transformers import EvalPrediction


class BNDLEvalPrediction(EvalPrediction):
    """`EvalPrediction` with the predictive probabilities and the p-values of the exact prediction.

    Attributes:
        predictions: logits [N, C], whose softmax is the predictive; or what `preprocess_logits_for_metrics` made.
        label_ids: true classes, [N].
        inputs, losses: where `include_for_metrics` names them.
        probs: predictive probabilities, [N, C], rows sum to one.
        p_value: of the gap between the two top classes, [N], in [0, 1].
    """

    def __init__(
        self, predictions: Any, label_ids: Any, probs: Any, p_value: Any, inputs: Any = None, losses: Any = None
    ) -> None:
        super().__init__(predictions=predictions, label_ids=label_ids, inputs=inputs, losses=losses)
        self.probs = probs
        self.p_value = p_value
