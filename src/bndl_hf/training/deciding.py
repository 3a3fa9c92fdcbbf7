"""After training: verdicts from images that were held out, and what they came to on those that are reported.

uncertainty/deciding.py has the fits; this reads the images as the Trainer does, from the feature cache where there is
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import DataLoader

from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.training.features import cached_features
from bndl_hf.training.trainer import BNDLTrainer
from bndl_hf.uncertainty.collecting import collect_predictions
from bndl_hf.uncertainty.deciding import FittedDecisions, fit_decisions
from bndl_hf.uncertainty.realised import realised_verdicts

# Training images that say what is familiar: class means and a covariance need no more.
MAX_TRAINING_IMAGES = 5000


def decide(trainer: BNDLTrainer, held_out: Any, training: Any = None, **options: Any) -> FittedDecisions:
    """Give a trained model verdicts: `fit_decisions`, stored in the model. Save it afterwards.

    Args:
        trainer: after `train()`.
        held_out: a dataset of images that were not trained on, as the Trainer reads them.
        training: training images without augmentation, which say what is familiar; of more than 5,000 that many
            are drawn, unless their features are cached.
        **options: of `fit_decisions`: risk, coverage, familiar, delta, recalibrate, seed.

    Returns:
        What was found, the same in every process; the model has it already.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    if training is not None and not trainer.args.cache_features and len(training) > MAX_TRAINING_IMAGES:
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:MAX_TRAINING_IMAGES]
        training = training.select(order.sort().values.tolist())
    decisions = fit_decisions(
        model,
        _images(trainer, held_out, "decision"),
        training=None if training is None else _images(trainer, training, "familiar"),
        progress=not trainer.args.disable_tqdm and trainer.is_world_process_zero(),
        **options,
    )
    if trainer.args.world_size > 1:  # the same to the last digit
        decisions = broadcast_object_list([decisions])[0]
    model.set_decisions(decisions)
    return decisions


def judge_verdicts(trainer: BNDLTrainer, dataset: Any, ood_datasets: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the model's verdicts come to.

    Args:
        trainer: whose model has decisions.
        dataset: images with labels that nothing was fitted on.
        ood_datasets: name -> images that belong to no class; their labels are not looked at.

    Returns:
        `bndl_hf.uncertainty.realised_verdicts` of them, the same in every process.
    """
    model = trainer.accelerator.unwrap_model(trainer.model).eval()

    def predict(images: Any) -> tuple[BNDLPrediction, Tensor]:
        return collect_predictions(model, _loader(trainer, images), progress=not trainer.args.disable_tqdm)

    prediction, labels = predict(dataset)
    outsiders = {name: predict(images)[0] for name, images in (ood_datasets or {}).items()}
    return realised_verdicts(prediction, labels, outsiders)


def _images(trainer: BNDLTrainer, dataset: Any, name: str) -> Any:
    """Features and labels from the cache where features are cached, else batches of images."""
    if not trainer.args.cache_features:
        return _loader(trainer, dataset)
    model = trainer.accelerator.unwrap_model(trainer.model)
    collate: Any = trainer.data_collator
    cached = cached_features(model, dataset, trainer.args, trainer.processing_class, collate, name)
    return cached.features, cached.labels


def _loader(trainer: BNDLTrainer, dataset: Any) -> DataLoader:
    arguments: Any = trainer.args
    return DataLoader(
        dataset,
        batch_size=arguments.per_device_eval_batch_size,
        collate_fn=trainer.data_collator,
        num_workers=arguments.dataloader_num_workers,
    )
