"""What a model says about every image of a dataset, as a handful of numbers per image (Sec. 5).

One backbone pass answers exactly and, where asked, by sampling. Neither logits nor probabilities are kept: about 120
bytes an image and, for the measures that look at every class, 3 x C x 15 sums. The numbers lie on disk in shards
(`bndl_hf.utils.shards`), so an interrupted pass goes on where it was and several processes share one. judging.py
judges them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

import bndl_hf.model
import bndl_hf.uncertainty
from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.decisions import Decisions
from bndl_hf.model.modeling_bndl import BNDLForImageClassification
from bndl_hf.uncertainty import OOD_SCORES, gap_test, ood_scores
from bndl_hf.uncertainty.classwise import ClasswiseBins, bin_every_class
from bndl_hf.uncertainty.scoring import log_loss_per_image, squared_error_per_image
from bndl_hf.uncertainty.validation import check_probs
from bndl_hf.utils.shards import Tensors, concatenate, content_key, fill_shards, read_shard

# Images a file, rounded to whole batches: an interruption costs at most this many of each process.
SHARD_SIZE = 1024
_CLASS_SUMS = "class_sums"
_SCORE, _P_SAMPLED, _ZERO_SPREAD = "score/", "p_value_sampled/", "zero_spread/"


@dataclass(frozen=True)
class PredictionSettings:
    """How predictions are made; part of the name they are kept under."""

    batch_size: int = 256
    num_samples: tuple[int, ...] = ()  # numbers of draws S to run the t-test for, from nested draws; () draws none
    num_bins: int = 15  # of every class's probability
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} is not a number of images; pass 1 or more.")
        if any(S < 2 for S in self.num_samples):
            raise ValueError(
                f"num_samples={list(self.num_samples)}: a t-test needs 2 draws or more; leave out what is below."
            )


@dataclass(frozen=True, eq=False)
class ImagePredictions:
    """What a model said about N images, in their order; tensors on the CPU. Labels are there if the images had any."""

    predicted: Tensor  # [N] class
    confidence: Tensor  # [N] largest probability
    p_value: Tensor  # [N] exact, for `config.num_samples` draws
    gap_ratio: Tensor  # [N] E[d] / sd[d] of the gap d of the two largest mean logits; >= 0, inf without spread
    total: Tensor  # [N] entropy, nats
    aleatoric: Tensor  # [N] nats
    epistemic: Tensor  # [N] nats
    scores: dict[str, Tensor]  # name -> [N], higher = more likely out of distribution, or wrong
    labels: Tensor | None = None  # [N]
    negative_log_likelihood: Tensor | None = None  # [N] nats
    brier_score: Tensor | None = None  # [N] squared error, 0 to 2
    class_bins: ClasswiseBins | None = None  # every class's probability in bins
    p_value_sampled: dict[int, Tensor] = field(default_factory=dict)  # S -> [N], paired t-test of S draws
    zero_spread: dict[int, Tensor] = field(default_factory=dict)  # S -> [N] bool, draws that did not differ

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def correct(self) -> Tensor:
        """Whether each answer is right, [N] bool.

        Raises:
            ValueError: the images had no labels.
        """
        if self.labels is None:
            raise ValueError("labels are missing: these predictions were made without; pass has_labels=True.")
        return self.predicted == self.labels


def predict_dataset(
    model: BNDLForImageClassification,
    dataset: Any,
    settings: PredictionSettings,
    *,
    cache_dir: str | Path,
    collate: Any,
    processor: Any = None,
    has_labels: bool = True,
    num_workers: int = 0,
    name: str = "images",
) -> ImagePredictions:
    """Answers and uncertainties of all images of `dataset`: from disk where they are there, else computed and kept.

    The files' folder is named after the model's weights and configuration, the dataset's fingerprint, the processor,
    the settings, and the code that predicts. Numbers do not depend on how many processes share the work.

    Args:
        model: on the device it is to run on.
        dataset: a `datasets.Dataset` whose rows are {"pixel_values", "labels"}.
        settings: batch size, draws, bins.
        cache_dir: the folder above that folder.
        collate: makes a batch of rows.
        processor: the image processor behind the rows, part of the folder's name.
        has_labels: False for images that belong to none of the model's classes; their labels are not looked at.
        num_workers: processes that decode images.
        name: what the progress bar calls the dataset.

    Raises:
        ValueError: the dataset is empty or has no fingerprint, or the model's logits are not finite.
    """
    if getattr(dataset, "_fingerprint", None) is None:
        raise ValueError(f"{name} is a {type(dataset).__name__}; pass a datasets.Dataset, whose fingerprint is known.")
    if len(dataset) == 0:
        raise ValueError(f"{name} holds no image; there is nothing to judge.")
    model.eval()
    key = prediction_key(model, dataset, settings, processor, has_labels)

    def compute(batch: Tensors, first_row: int) -> Tensors:
        # A batch's draws are its own: the same whoever computes it, and whatever was computed before.
        generator = torch.Generator(model.device).manual_seed(settings.seed * 1_000_003 + first_row)
        return _predict_batch(model, batch, settings, has_labels, generator)

    shards = fill_shards(
        Path(cache_dir) / key,
        dataset,
        compute,
        shard_size=settings.batch_size * max(1, SHARD_SIZE // settings.batch_size),
        batch_size=settings.batch_size,
        collate=collate,
        num_workers=num_workers,
        description=f"Judging {name}",
        merge=_merge,
    )
    return _from_tensors(_merge(map(read_shard, shards)))


def prediction_key(
    model: BNDLForImageClassification, dataset: Any, settings: PredictionSettings, processor: Any, has_labels: bool
) -> str:
    """Hash of everything the predictions depend on."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NO_MATTER}
    return content_key(
        model.state_dict(),
        {
            "config": config,
            "dataset": dataset._fingerprint,
            "processor": None if processor is None else processor.to_dict(),
            "settings": vars(settings),
            "has_labels": has_labels,
            "on": [model.device.type, str(model.backbone.dtype)],
            "code": _code(),
        },
    )


# What of a configuration says nothing about the answers: names, places, versions.
_NO_MATTER = ("_name_or_path", "transformers_version", "id2label", "label2id", "architectures", "auto_map")


@functools.cache
def _code() -> str:
    """Hash of the code that predicts: another version of it may say something else."""
    folders = [Path(module.__file__ or "").parent for module in (bndl_hf.model, bndl_hf.uncertainty)]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in [*files, Path(__file__)])).hexdigest()


@torch.inference_mode()
def _predict_batch(
    model: BNDLForImageClassification,
    batch: Tensors,
    settings: PredictionSettings,
    has_labels: bool,
    generator: torch.Generator,
) -> Tensors:
    """One backbone pass, and everything that is kept of it: [B] each, and the sums of `bin_every_class`."""
    features = features_of(model, send_to_device(batch, model.device))
    layer = model.decision_layer
    exact = layer.predict(features)
    kept = {
        "predicted": exact.predicted_labels,
        "confidence": exact.probs.max(dim=-1).values,
        "p_value": exact.p_value,
        "gap_ratio": exact.gap_ratio,
        "total": exact.total,
        "aleatoric": exact.aleatoric,
        "epistemic": exact.epistemic,
        **{_SCORE + name: score for name, score in ood_scores(exact).items()},
    }
    if has_labels:
        labels = batch["labels"].to(model.device)
        probs, truth = check_probs(exact.probs, labels)
        kept |= {
            "labels": truth,
            "negative_log_likelihood": log_loss_per_image(probs, truth),
            "brier_score": squared_error_per_image(probs, truth),
        }
        bins = bin_every_class(probs, truth, settings.num_bins)
        kept[_CLASS_SUMS] = torch.stack([bins.count.double(), bins.prob_sum, bins.true_sum])  # [3, C, M]
    if settings.num_samples:
        sampled = layer.predict(
            features, method="monte_carlo", num_samples=max(settings.num_samples), generator=generator
        )
        assert sampled.logits_samples is not None
        recalibration = Decisions.of(model.config).recalibration
        for S in settings.num_samples:
            test = gap_test(recalibration.samples(sampled.logits_samples[:S]))
            kept |= {f"{_P_SAMPLED}{S}": test.p_value, f"{_ZERO_SPREAD}{S}": test.zero_spread}
    return {name: tensor.cpu() for name, tensor in kept.items()}


def _merge(parts: Iterable[Tensors]) -> Tensors:
    """Images one after the other, sums added up, one part in memory at a time but for its numbers per image."""
    per_image: list[Tensors] = []
    sums: Tensor | None = None
    for part in parts:
        more = part.pop(_CLASS_SUMS, None)
        sums = more if sums is None or more is None else sums + more
        per_image.append(part)
    return concatenate(per_image) | ({} if sums is None else {_CLASS_SUMS: sums})


def _from_tensors(tensors: Tensors) -> ImagePredictions:
    sums = tensors.pop(_CLASS_SUMS, None)
    groups: dict[str, dict[str, Tensor]] = {_SCORE: {}, _P_SAMPLED: {}, _ZERO_SPREAD: {}}
    for name in list(tensors):
        for prefix, group in groups.items():
            if name.startswith(prefix):
                group[name.removeprefix(prefix)] = tensors.pop(name)
    return ImagePredictions(
        **tensors,
        scores={name: groups[_SCORE][name] for name in OOD_SCORES if name in groups[_SCORE]},
        p_value_sampled={int(S): values for S, values in groups[_P_SAMPLED].items()},
        zero_spread={int(S): values for S, values in groups[_ZERO_SPREAD].items()},
        class_bins=None if sums is None else ClasswiseBins(sums[0], sums[1], sums[2], len(tensors["labels"])),
    )
