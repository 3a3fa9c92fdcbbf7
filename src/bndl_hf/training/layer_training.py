"""One training of a decision layer alone, on features; `fit_decision_layer` and the search of `tune_head` share it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.features import FeatureDataset, keep_batch

LARGEST_RATE, ROWS_AT_LARGEST_RATE = 3e-3, 5000


def train_layer(
    trainer_class: type[Trainer],
    arguments: BNDLTrainingArguments,
    config: BNDLConfig,
    train_dataset: FeatureDataset,
    eval_dataset: FeatureDataset | None = None,
    layer: PosteriorHead | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PosteriorHead:
    """A layer trained by a Trainer of its own, in evaluation mode, on the CPU.

    Args:
        trainer_class: `BNDLTrainer`.
        arguments: of that Trainer.
        config: of a new layer, which keeps a copy.
        train_dataset, eval_dataset: features and labels.
        layer: the one to go on with; None makes a new one from the seed of `arguments`.
        callbacks: of that Trainer.
    """
    torch.manual_seed(arguments.seed)
    layer = BNDLDecisionLayer(copy.deepcopy(config)) if layer is None else layer
    collate: Any = keep_batch
    trainer = trainer_class(
        model=layer,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        data_collator=collate,
        callbacks=list(callbacks),
    )
    if arguments.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # quiet means quiet
    trainer.train()
    return layer.cpu().eval()


def learning_rate_of(num_images: int) -> float:
    """Of a layer whose noise is sought on held-out rows (trained_layer.py): few images are sooner learned by heart.

    Example:
        >>> learning_rate_of(50_000), round(learning_rate_of(1000), 6)
        (0.003, 0.002006)
    """
    return LARGEST_RATE * min(1.0, (num_images / ROWS_AT_LARGEST_RATE) ** 0.25)


def enough_epochs(num_images: int, batch_size: int, epochs: float, min_steps: int) -> float:
    """`epochs`, or more of them where these make fewer than `min_steps` optimizer steps.

    Args:
        num_images: N.
        batch_size: images a step.
        epochs: asked for.
        min_steps: optimizer steps.

    Example:
        >>> enough_epochs(1000, 256, 12, 400), enough_epochs(50_000, 256, 12, 400)
        (100, 12)
    """
    return max(epochs, math.ceil(min_steps / math.ceil(num_images / batch_size)))
