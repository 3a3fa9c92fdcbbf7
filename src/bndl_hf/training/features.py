"""Head-only training: the decision layer alone on cached features, with the same Trainer and the same loss.

`fit_decision_layer` is for features you already have; `cached_features` runs a backbone once over a dataset and keeps
the result on disk, keyed by everything that decides it (shards.py). Read trainer.py next.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.shards import Tensors, concatenate, content_key, fill_shards, read_shard

logger = logging.getLogger(__name__)

# Images per cache file: an interrupted run repeats at most this many.
SHARD_SIZE = 8192


class FeatureDataset(Dataset):
    """Features [N, D] and labels [N], read a whole batch at a time."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features have shape {list(features.shape)} and labels {list(labels.shape)}; they must be [N, D] and "
                "[N]."
            )
        if not len(features):
            raise ValueError("features are empty; there is nothing to learn from.")
        if not features.isfinite().all():
            bad = (~features.isfinite()).any(dim=1).nonzero().flatten()
            raise ValueError(f"features hold NaN or infinite values in {len(bad)} rows (first: row {bad[0].item()}).")
        self.features, self.labels = features, labels.long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"features": self.features[index], "labels": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = torch.as_tensor(indices)
        return {"features": self.features[rows], "labels": self.labels[rows]}


def keep_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collate function of `FeatureDataset`, whose rows come as a batch already."""
    return batch


def backbone_inputs(batch: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """What of a batch the backbone reads: its pixel values and, for SigLIP 2, their mask and shapes; all but labels."""
    return {name: value.to(device) for name, value in batch.items() if name != "labels"}


def fit_decision_layer(
    features: Tensor,
    labels: Tensor,
    config: BNDLConfig,
    *,
    layer: BNDLDecisionLayer | None = None,
    eval_features: Tensor | None = None,
    eval_labels: Tensor | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **training_arguments: Any,
) -> BNDLDecisionLayer:
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
        >>> layer = fit_decision_layer(torch.rand(512, 64), torch.arange(512) % 10, config)
        >>> layer.predict(torch.rand(3, 64)).probs.shape
        torch.Size([3, 10])
    """
    from bndl_hf.training.trainer import BNDLTrainer  # the Trainer uses this module

    train_dataset = FeatureDataset(features, labels)
    eval_dataset = None
    if (eval_features is None) != (eval_labels is None):
        raise ValueError("eval_features and eval_labels belong together; pass both or neither.")
    if eval_features is not None and eval_labels is not None:
        eval_dataset = FeatureDataset(eval_features, eval_labels)
        training_arguments.setdefault("eval_strategy", "epoch")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = {"output_dir": scratch, "save_strategy": "no", **HEAD_DEFAULTS, **training_arguments}
        arguments = BNDLTrainingArguments(**arguments)
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


# Chosen on the choosing rows of two sets of features (docs/defaults.md).
HEAD_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 12,
    "per_device_train_batch_size": 256,
    "per_device_eval_batch_size": 4096,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "report_to": "none",
    "logging_strategy": "epoch",
}


def cached_features(
    model: BNDLPreTrainedModel,
    dataset: Any,
    arguments: BNDLTrainingArguments,
    processor: Any = None,
    collate: Any = None,
    name: str = "train",
) -> FeatureDataset:
    """Features and labels of every row of `dataset`, from the cache where it holds them, else computed and kept.

    The key is a hash of the backbone's weights, the head's name, the processor, and the dataset's fingerprint, so a
    changed model, processor or dataset is computed anew. Files are written in shards of 8,192 images, each whole or not
    at all: an interrupted run goes on where it was. Several processes share the work.

    Args:
        model: its backbone makes the features.
        dataset: a `datasets.Dataset` whose rows are {"pixel_values", "labels"}.
        arguments: feature_batch_size, workers, mixed precision, cache folder.
        processor: the image processor behind the rows, part of the key.
        collate: makes a batch of rows.
        name: what the progress bar calls the dataset.

    Raises:
        ValueError: when the dataset has no fingerprint to key the cache with, or changes its images at random.
    """
    if getattr(dataset, "_fingerprint", None) is None:
        raise ValueError(
            f"cache_features needs a datasets.Dataset, whose fingerprint says when features go stale; the {name} "
            f"dataset is a {type(dataset).__name__}. Pass one, or cache_features=False."
        )
    transform = (dataset.format["format_kwargs"] or {}).get("transform")
    if getattr(transform, "augment", None) is not None:
        raise ValueError(
            f"cache_features keeps one view of each image, but the {name} dataset changes its images at random "
            "(augmentation). Pass augmentation='none', or cache_features=False."
        )
    key = cache_key(model, dataset, processor, arguments)
    folder = Path(arguments.feature_cache_dir or os.path.join(arguments.output_dir, "features")) / key
    model = model.to(arguments.device).eval()
    shards = fill_shards(
        folder,
        dataset,
        lambda batch, _: _compute(model, batch, arguments),
        shard_size=SHARD_SIZE,
        batch_size=arguments.feature_batch_size,
        collate=collate,
        num_workers=arguments.dataloader_num_workers,
        description=f"Features of {name}",
    )
    features = concatenate([read_shard(shard) for shard in shards])
    logger.info("Features of %s: %d images, kept in %s", name, len(dataset), folder)
    return FeatureDataset(features["features"], features["labels"])


def cache_key(model: BNDLPreTrainedModel, dataset: Any, processor: Any, arguments: BNDLTrainingArguments) -> str:
    """Hash of everything the features depend on."""
    settings = {
        "head": model.config.head_name,
        "processor": None if processor is None else processor.to_dict(),
        "dataset": dataset._fingerprint,
        "precision": [str(model.backbone.dtype), arguments.bf16, arguments.fp16],
    }
    return content_key(model.backbone.state_dict(), settings)


@torch.inference_mode()
def _compute(model: BNDLPreTrainedModel, batch: dict[str, Tensor], arguments: BNDLTrainingArguments) -> Tensors:
    """Features [B, D] in float32 and labels [B] of one batch."""
    autocast = torch.bfloat16 if arguments.bf16 else torch.float16
    with torch.autocast(arguments.device.type, autocast, enabled=arguments.bf16 or arguments.fp16):
        output = model.extract_features(**backbone_inputs(batch, arguments.device))
    return {"features": output.logits.float().cpu(), "labels": batch["labels"].cpu()}
