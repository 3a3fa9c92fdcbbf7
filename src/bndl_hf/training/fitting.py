"""`fit_decision_layer`: train a decision layer alone, on features that are known already."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.arguments import HEAD_DEFAULTS, BNDLTrainingArguments
from bndl_hf.training.features import FeatureDataset, keep_batch
from bndl_hf.training.trainer import BNDLTrainer


def fit_decision_layer(
    features: Tensor,
    labels: Tensor,
    config: BNDLConfig,
    *,
    layer: PosteriorHead | None = None,
    eval_features: Tensor | None = None,
    eval_labels: Tensor | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **training_arguments: Any,
) -> PosteriorHead:
    """Train a decision layer on features that do not change.

    Args:
        features: h = f(x), [N, D], any float dtype.
        labels: [N], in 0 .. C - 1.
        config: `feature_dim` must be D.
        layer: continue with this layer (one that was warm-started, say); default: a new one.
        eval_features, eval_labels: held-out rows to judge on while training.
        callbacks: of the Trainer.
        **training_arguments: fields of `BNDLTrainingArguments`; the defaults here are those of HEAD_DEFAULTS.

    Returns:
        The layer, in evaluation mode, on the CPU.

    Raises:
        ValueError: for shapes that do not fit, labels out of range, NaN features, or thresholds that leave no factor.

    Example:
        >>> config = BNDLConfig(feature_dim=64, num_labels=10)
        >>> layer = fit_decision_layer(torch.rand(512, 64), torch.arange(512) % 10, config, disable_tqdm=True)
        >>> layer.predict(torch.rand(3, 64)).probs.shape
        torch.Size([3, 10])
    """
    train_dataset = FeatureDataset(features, labels)
    eval_dataset = None
    if (eval_features is None) != (eval_labels is None):
        raise ValueError("eval_features and eval_labels belong together; pass both or neither.")
    if eval_features is not None and eval_labels is not None:
        eval_dataset = FeatureDataset(eval_features, eval_labels)
        training_arguments.setdefault("eval_strategy", "epoch")
    with tempfile.TemporaryDirectory() as scratch:
        values = {"output_dir": scratch, "save_strategy": "no", **HEAD_DEFAULTS, **training_arguments}
        arguments = BNDLTrainingArguments(**values)
        torch.manual_seed(arguments.seed)
        layer = BNDLDecisionLayer(copy.deepcopy(config)) if layer is None else layer
        trainer = BNDLTrainer(
            model=layer,
            args=arguments,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=keep_batch,
            callbacks=list(callbacks),
        )
        if arguments.disable_tqdm:
            trainer.remove_callback(PrinterCallback)  # quiet means quiet
        trainer.train()
    return layer.cpu().eval()
