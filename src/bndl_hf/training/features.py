"""Features of a frozen backbone: a dataset of them, and the cache on disk that they are read from.

`cached_features` runs a backbone once over a dataset and keeps the result, keyed by everything that decides it
(shards.py). feature_views.py keeps several views of each image, cached_training.py trains on them, fitting.py on
features you already have.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.modeling_bndl import BNDLPreTrainedModel
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.collating import FeatureBatch, labels_of
from bndl_hf.utils.shards import Tensors, concatenate, content_key, fill_shards, read_shard

logger = logging.getLogger(__name__)

# Images per cache file: an interrupted run repeats at most this many.
SHARD_SIZE = 8192
# Images read twice before features are computed. An image that a random flip leaves alone half of the time is the same
# both times with probability 1/2: all 16 of them once in 65,536 runs.
_NUM_READ_TWICE = 16


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
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels are of dtype {labels.dtype}; a label is a whole number, the class of its row.")
        self.features, self.labels = features, labels.long()

    def all_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features [N, D], labels [N] and the image [N] each row shows: one row an image here."""
        return self.features, self.labels, torch.arange(len(self))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> FeatureBatch:
        return FeatureBatch(features=self.features[index], labels=self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> FeatureBatch:
        rows = torch.as_tensor(indices)
        return FeatureBatch(features=self.features[rows], labels=self.labels[rows])


def keep_batch(batch: FeatureBatch) -> FeatureBatch:
    """Collate function of `FeatureDataset`, whose rows come as a batch already."""
    return batch


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
    if getattr(transform_of(dataset), "augment", None) is not None:
        raise ValueError(
            f"cache_features keeps one view of each image, but the {name} dataset changes its images at random "
            "(augmentation). Pass augmentation='none', cache_features=False or, of training images, feature_views=4 "
            "(--feature_views 4) to keep that many views of each."
        )
    _check_rows_repeat(dataset, collate, name)
    key = cache_key(model, dataset, processor, arguments)
    folder = Path(arguments.feature_cache_dir or os.path.join(str(arguments.output_dir), "features")) / key
    module: Any = model
    module.to(arguments.device).eval()
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


def transform_of(dataset: Any) -> Any:
    """The callable that makes the rows of a `datasets.Dataset`; None where there is none."""
    described = getattr(dataset, "format", None) or {}
    return (described.get("format_kwargs") or {}).get("transform")


def _check_rows_repeat(dataset: Any, collate: Any, name: str) -> None:
    """Raise ValueError where rows of `dataset` are not the same when they are read again."""
    rows = torch.linspace(0, len(dataset) - 1, min(len(dataset), _NUM_READ_TWICE)).long().tolist()
    collate = default_collate if collate is None else collate
    with torch.random.fork_rng():
        once, again = (collate([dataset[row] for row in rows]) for _ in range(2))
    changed = [key for key in once if isinstance(once[key], Tensor) and not _equal(once[key], again[key])]
    if changed:
        raise ValueError(
            f"cache_features keeps one view of each image, but {' and '.join(changed)} of the {name} dataset change "
            "from one reading of a row to the next (a random transform or collator). Take the randomness out, or pass "
            "cache_features=False."
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether both hold the same; NaN equals NaN, for the model to name it."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


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
        features = features_of(model, send_to_device(batch, arguments.device))
    return {"features": features.float().cpu(), "labels": labels_of(batch).cpu()}
