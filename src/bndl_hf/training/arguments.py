"""`TrainingArguments` plus what a Bayesian decision layer needs: KL weights, warm-up, a frozen and cached backbone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from bndl_hf.model.configuration_bndl import BNDLConfig
from bndl_hf.uncertainty.measures import MEASURES

# Optimizer steps a new layer needs at least, however few images an epoch has; used where held-out rows are the judge.
MIN_STEPS = 400
# Measures of which less is better; transformers knows "loss" alone.
_ERRORS = ("loss", "nll", *(name for name, measure in MEASURES.items() if measure.better == "smaller"))


@dataclass
class BNDLTrainingArguments(TrainingArguments):
    """Arguments of `BNDLTrainer`; all of `TrainingArguments`, and those below.

    `remove_unused_columns` is off by default, because images are decoded when a row is read.
    """

    decision_layer_learning_rate: float | None = field(
        default=1e-3,
        metadata={
            "help": "Learning rate of the decision layer, which starts from nothing; learning_rate is the backbone's. "
            "None (in Python) gives both learning_rate. A search with --tune_head goes by the number of images instead "
            "(up to 0.003) where this is the default."
        },
    )
    kl_local_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the scores' KL (Eq. 12 has 1); default: the model configuration's, or set from the data."
        },
    )
    kl_global_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the loadings' KL (Eq. 12 has 1); default: the model configuration's."},
    )
    kl_warmup_ratio: float = field(
        default=0.0, metadata={"help": "Share of the steps, in [0, 1], over which both KL weights rise from zero."}
    )
    pruning_start: float = field(
        default=0.1,
        metadata={"help": "Share of the steps, in [0, 1], after which the smallest loadings begin to be pruned."},
    )
    pruning_end: float = field(
        default=0.6,
        metadata={"help": "Share of the steps after which the loadings are as sparse as loading_density says."},
    )
    freeze_backbone: bool = field(
        default=False,
        metadata={"help": "Train the decision layer only; the backbone stays as it is, in evaluation mode."},
    )
    cache_features: bool = field(
        default=False,
        metadata={
            "help": "With --freeze_backbone: run the backbone once over every image, keep the features on disk, and "
            "train on those, some ten thousand images a second on a CPU core. One view of each image, without random "
            "augmentation, unless --feature_views says more."
        },
    )
    feature_views: int = field(
        default=1,
        metadata={
            "help": "With --cache_features: views of each training image that are kept, the plain image and others "
            "under the random augmentation; an epoch reads one of each image, in turn. Evaluations read plain images."
        },
    )
    feature_cache_dir: str | None = field(
        default=None, metadata={"help": "Where cached features live; default: <output_dir>/features."}
    )
    tune_head: bool | None = field(
        default=None,
        metadata={
            "help": "With --cache_features: choose the decision layer on held-out images (the validation images, else "
            "folds of the training images) instead of training it once: the trained layer, the non-negative "
            "equivalent of logistic regression and both as one layer compete, and the same images give a temperature "
            "(docs/training.md). Default: finetune.py does so with --cache_features unless something asks for plain "
            "training; a Trainer in Python does not.",
            "nargs": "?",
            "const": True,
        },
    )
    tune_min_steps: int = field(
        default=MIN_STEPS,
        metadata={
            "help": "With --tune_head: optimizer steps of its trained layer at least, unless --max_steps says it; they "
            "double while that saves a fiftieth of the held-out loss. 0: num_train_epochs as they are (finetune.py's "
            "default where --num_train_epochs is given)."
        },
    )
    tune_keeps: list[str] | None = field(
        default=None,
        metadata={
            "help": "With --tune_head: fields of the model's configuration that no candidate may change, such as "
            "loading_density; finetune.py adds those given as flags."
        },
    )
    feature_batch_size: int = field(
        default=256, metadata={"help": "Images the backbone sees at a time while features are computed."}
    )
    class_weights: list[float] | str | None = field(
        default=None,
        metadata={
            "help": "Weight of each class in the likelihood while training: 'balanced' (one over its number of images) "
            "or C numbers, '[1, 9]'. They are scaled so that their mean over the training images is 1."
        },
    )
    weighted_sampler: bool = field(
        default=False,
        metadata={"help": "Draw every class equally often (with replacement), however many images it has."},
    )
    num_eval_samples: int = field(
        default=0,
        metadata={"help": "Draws behind a sampled PAvPU in evaluations; 0: the exact one alone, with no sampling."},
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "Drop dataset columns the model does not read; leave off: images are such columns."},
    )

    def __post_init__(self) -> None:
        self.dataloader_pin_memory &= torch.cuda.is_available()  # pinning without one only warns
        metric, greater = self.metric_for_best_model, getattr(self, "greater_is_better", None)
        if metric is not None and greater is None:
            self.greater_is_better = not metric.endswith(_ERRORS)
        super().__post_init__()
        if not 0 <= self.kl_warmup_ratio <= 1:
            raise ValueError(f"kl_warmup_ratio={self.kl_warmup_ratio} is a share of the steps; it must lie in [0, 1].")
        if not 0 <= self.pruning_start < self.pruning_end <= 1:
            raise ValueError(
                f"pruning_start={self.pruning_start} and pruning_end={self.pruning_end} are shares of the steps; they "
                "must satisfy 0 <= pruning_start < pruning_end <= 1. Set loading_density=1 to prune nothing."
            )
        for name in ("kl_local_weight", "kl_global_weight", "decision_layer_learning_rate"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value} must be zero or above.")
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} is the share of a label that is spread over all "
                "classes; it must lie in [0, 1)."
            )
        if self.freeze_backbone and self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every weight of the decision layer is used in every step
        self.class_weights = read_class_weights(self.class_weights)
        if self.weighted_sampler and self.class_weights == "balanced":
            raise ValueError(
                "class_weights='balanced' and weighted_sampler=True correct the same imbalance twice; pass one of them."
            )
        if self.weighted_sampler and self.train_sampling_strategy != "random":
            raise ValueError(
                f"weighted_sampler=True draws at random, but train_sampling_strategy={self.train_sampling_strategy!r}; "
                "pass one of them."
            )
        if self.num_eval_samples < 0 or self.num_eval_samples == 1:
            raise ValueError(f"num_eval_samples={self.num_eval_samples}: a t-test needs 2 draws or more; 0 draws none.")
        if self.feature_batch_size < 1:
            raise ValueError(f"feature_batch_size={self.feature_batch_size} images at a time; pass 1 or more.")
        if self.feature_views < 1:
            raise ValueError(f"feature_views={self.feature_views} views of each image; pass 1 or more.")
        if self.feature_views > 1 and not self.cache_features:
            raise ValueError(
                f"feature_views={self.feature_views} are views in the cache, and cache_features is off; pass "
                "cache_features=True (--cache_features) too. Without a cache every epoch draws a new view."
            )
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise ValueError(f"num_train_epochs={self.num_train_epochs} trains nothing; pass a number above 0.")
        if self.cache_features and not self.freeze_backbone:
            raise ValueError("cache_features=True needs freeze_backbone=True: features of a moving backbone go stale.")
        if self.tune_head and not self.cache_features:
            raise ValueError(
                "tune_head=True searches on features that do not change; pass freeze_backbone=True and "
                "cache_features=True too, or leave it out."
            )
        if self.tune_min_steps < 0:
            raise ValueError(f"tune_min_steps={self.tune_min_steps} optimizer steps; pass 0 or more.")
        if self.tune_keeps and self.tune_head is False:
            raise ValueError(f"tune_keeps={self.tune_keeps} says what a search keeps, but tune_head=False; drop one.")
        if unknown := sorted(set(self.tune_keeps or ()) - set(BNDLConfig.__dataclass_fields__)):
            raise ValueError(f"tune_keeps names {', '.join(unknown)}; it takes fields of BNDLConfig.")
        if self.push_to_hub and self.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            raise ValueError(
                f"hub_strategy={HubStrategy(self.hub_strategy).value!r} would publish training_args.bin, which holds "
                "paths of this machine and the token; use 'end' or 'every_save', and keep checkpoints where you train."
            )


def read_class_weights(given: list[float] | str | None) -> list[float] | str | None:
    """`class_weights` as the Trainer uses them: None, "balanced", or one finite number >= 0 for each class.

    Raises:
        ValueError: for anything else.

    Example:
        >>> read_class_weights("[1, 9]")
        [1.0, 9.0]
    """
    if given is None or given == "balanced":
        return given
    try:
        numbers = (
            json.loads(given if given.strip().startswith("[") else f"[{given}]") if isinstance(given, str) else given
        )
        weights = [float(number) for number in numbers]
    except (TypeError, ValueError):
        weights = []
    if not weights or not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(
            f"class_weights={given!r} is neither 'balanced' nor a list of numbers >= 0, one for each class; "
            "write '[1, 9]' for two classes."
        )
    return weights


# Chosen on the choosing rows of two sets of features (docs/research).
HEAD_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 12,
    "per_device_train_batch_size": 256,
    "per_device_eval_batch_size": 4096,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "report_to": "none",
    "logging_strategy": "epoch",
}
