"""What an evaluation of `BNDLTrainer` measures beside the loss: accuracy, and how far the probabilities can be trusted.

The measures are gathered apart from what transformers' Trainer gathers for a user's `compute_metrics`, so that logits,
labels, inputs and losses reach that function as from any Trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction

from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.eval_prediction import BNDLEvalPrediction
from bndl_hf.uncertainty import negative_log_likelihood, pavpu_from_p_value, summarize


class EvaluationJudge:
    """Collects what the measures need, batch by batch, over all processes.

    Args:
        layer: the decision layer that predicts.
        arguments: `num_eval_samples` draws behind a sampled PAvPU, and how batches reach a user's metrics.
        gather: joins the batches of all processes, without padding.
        generator: of the draws.
    """

    def __init__(
        self,
        layer: PosteriorHead,
        arguments: BNDLTrainingArguments,
        gather: Callable[[Any], Any],
        generator: torch.Generator,
    ) -> None:
        self._layer, self._arguments, self._gather, self._generator = layer, arguments, gather, generator
        self._num_samples = arguments.num_eval_samples
        self._batches: list[tuple[Tensor, ...]] = []

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Predict features [B, D] and keep probabilities, p-values and labels [B]."""
        exact = self._layer.predict(features)
        kept = [exact.probs, exact.p_value, labels]
        if self._num_samples:
            sampled = self._layer.predict(
                features, method="monte_carlo", num_samples=self._num_samples, generator=self._generator
            )
            kept.append(sampled.p_value)
        self._batches.append(tuple(tensor.cpu() for tensor in self._gather(tuple(kept))))

    def measures(self) -> dict[str, float]:
        """Every measure over the images seen; empty where none had a label."""
        if not self._batches:
            return {}
        probs, p_value, labels, *sampled = (torch.cat(parts) for parts in zip(*self._batches, strict=True))
        threshold = self._layer.config.certainty_threshold
        measures = {"nll": negative_log_likelihood(probs, labels), **summarize(probs, labels, p_value, threshold)}
        if sampled:
            correct = probs.argmax(dim=-1) == labels
            measures[f"pavpu_{self._num_samples}_draws"] = pavpu_from_p_value(sampled[0], correct, threshold).pavpu
        return {**measures, "sparsity": self._layer.sparsity()}

    def with_trust(self, prediction: EvalPrediction) -> EvalPrediction:
        """`prediction` with probabilities and p-values, in the form of its own fields.

        That is of the last batch with `batch_eval_metrics`, a list of batches without `eval_do_concat_batches`, and of
        all images otherwise.
        """
        if not self._batches:
            return prediction
        trust: list[Any] = [[batch[i] for batch in self._batches] for i in (0, 1)]
        if self._arguments.batch_eval_metrics:
            trust = [parts[-1] for parts in trust]
        elif self._arguments.eval_do_concat_batches:
            trust = [torch.cat(parts).numpy() for parts in trust]
        else:
            trust = [[part.numpy() for part in parts] for parts in trust]
        return BNDLEvalPrediction(
            prediction.predictions, prediction.label_ids, trust[0], trust[1], prediction.inputs, prediction.losses
        )
