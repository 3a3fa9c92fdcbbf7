"""Before the first step: look at some features, and set from them what the configuration leaves to the data.

Their spread becomes `feature_scale`, the separation of their classes the weight of the scores' KL
(feature_statistics.py has both, docs/research the reasons).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import has_length
from transformers.utils import logging

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.posterior_head import PosteriorHead, signed_power
from bndl_hf.model.presets import KL_LOCAL_BUDGET
from bndl_hf.training.adapters import hold_statistics, trained_decision_layer
from bndl_hf.training.class_balance import (
    all_labels,
    class_weights,
    count_classes,
    describe_classes,
    known_labels,
    missing_classes,
)
from bndl_hf.training.collating import labels_of
from bndl_hf.training.failures import batch_norm_errors_in_words
from bndl_hf.training.feature_statistics import FeatureStatistics

# Images from which spread and separation of the features are measured before training; a standard deviation from 2,048
# images is within 2 % of its value.
NUM_MEASURED_IMAGES = 2048
# Where the classes have collapsed to points their separation grows without end, where they do not show it is zero; the
# weight of the KL does not follow it there.
MIN_SEPARATION, MAX_SEPARATION = 0.05, 4.0

logger = logging.get_logger(__name__)


def note_training_images(trainer: Trainer) -> Tensor | None:
    """Note N of the ELBO, say what classes there are, and weigh them where `class_weights` asks for it.

    Returns:
        The weight of each class in the likelihood, [C]; None where all count alike.

    Raises:
        ValueError: the number of training images is unknown, or the weights do not fit the classes.
    """
    layer = trained_decision_layer(trainer.accelerator.unwrap_model(trainer.model))
    config, arguments = layer.config, cast(Any, trainer.args)
    layer.knows_labels = False
    dataset, wanted = trainer.train_dataset, arguments.class_weights
    if has_length(dataset):
        config.num_training_images = len(dataset)
    elif config.num_training_images is None:
        raise ValueError(
            "train_dataset has no length, so N of the ELBO (Eq. 12) is unknown; set model.config.num_training_images."
        )
    reads_labels = wanted is not None or arguments.weighted_sampler
    labels = all_labels(dataset) if reads_labels else known_labels(dataset)
    if labels is None:
        return None
    counts = count_classes(labels, config.num_labels)
    layer.knows_labels = int(counts.sum()) == len(labels)  # all in range; the layer names others
    logger.info(describe_classes(counts, config))
    if (sentence := missing_classes(counts, config)) and trainer.is_world_process_zero():
        logger.warning(sentence)
    return None if wanted is None else class_weights(wanted, counts).to(trainer.args.device)


def check_training_set(dataset: Any) -> None:
    """Raise ValueError where there is nothing to train on, or all splits at once."""
    if dataset is None:
        raise ValueError("There is no train_dataset; pass one to the Trainer.")
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"train_dataset is a {type(dataset).__name__} of {', '.join(map(repr, dataset))}; pass one of them, as in "
            f"train_dataset=data[{next(iter(dataset), 'train')!r}]."
        )
    if has_length(dataset) and not len(dataset):
        raise ValueError("train_dataset is empty; there is nothing to learn from.")


def prepare_decision_layer(trainer: Trainer, resumes: bool) -> bool:
    """Measure the features where the configuration leaves something to them, and check that a factor is alive.

    A checkpoint knows the spread, and its factors were alive; the KL weight is measured again, to the same number.

    Args:
        trainer: its model is prepared, on the first batches it is going to train on.
        resumes: whether the weights are those of a checkpoint.

    Returns:
        Whether the layer is a new one, whose spread was measured now.

    Raises:
        ValueError: the features do not fit the layer, or no factor is active.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    layer = trained_decision_layer(model)
    config = layer.config
    learns = any(p.requires_grad for p in layer.parameters())  # a frozen layer is as it should be
    sets_scale = learns and not resumes and config.normalize_features and bool((layer.feature_scale == 1).all())
    sets_weight = learns and (config.kl_local_weight is None or config.kl_local_weight_is_measured)
    if not resumes:
        _forget_decisions(layer)
    if resumes and not sets_weight:
        return False
    features, labels = _first_features(trainer, NUM_MEASURED_IMAGES if sets_scale or sets_weight else 1)
    layer.check_inputs(features, labels)
    powers = signed_power(features, config.feature_power)
    statistics = FeatureStatistics(powers, labels, config.num_labels, trainer.accelerator)
    if sets_scale:
        layer.set_feature_scale(statistics.inverse_spread)
    if sets_weight:
        config.kl_local_weight, config.kl_local_weight_is_measured = KL_LOCAL_BUDGET / config.num_factors, True
        separation = statistics.class_separation
        if _features_stay(model) and separation is not None:
            config.kl_local_weight *= min(max(separation, MIN_SEPARATION), MAX_SEPARATION)
        logger.info("kl_local_weight=%.3g, class separation %s", config.kl_local_weight, separation)
    if not resumes:
        layer.check_active(features)
    return sets_scale


def _forget_decisions(layer: PosteriorHead) -> None:
    """Set back what was fitted on the probabilities of the weights before this training."""
    config = layer.config
    recalibrated = (config.temperature, config.variance_scale) != (1.0, 1.0)
    if layer.familiarity is not None:
        layer.set_familiarity(None)
        logger.warning("What is familiar was fitted before this training and is dropped; fit it again after it.")
    if recalibrated or config.abstain_below is not None or config.conformal is not None:
        logger.warning(
            "Temperature, prediction sets and abstention threshold were fitted before this training and are dropped; "
            "fit them again after it."
        )
        layer.set_abstention(None)
        layer.set_conformal(None)
        layer.set_temperature(1.0)


def _features_stay(model: Any) -> bool:
    """Whether the features of an image are the same from the first step to the last."""
    return isinstance(model, PosteriorHead) or not any(p.requires_grad for p in model.backbone.parameters())


@torch.no_grad()
def _first_features(trainer: Trainer, count: int) -> tuple[Tensor, Tensor]:
    """Features [n, D] and labels [n] of the first training images, n >= count over all processes if there are.

    Every process has its own. In training mode, unless the backbone is frozen: features as the steps to come will see
    them (a new BatchNorm does not normalise yet in evaluation mode, and its features look several times narrower than
    they will be). Statistics and random numbers are as before when it is done.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    if trainer.place_model_on_device:
        model.to(trainer.args.device)
    model.train()
    hold_statistics(model)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(), batch_norm_errors_in_words(trainer.args.per_device_train_batch_size):
        for batch in trainer.get_train_dataloader():
            inputs = trainer._prepare_inputs(batch)
            with trainer.compute_loss_context_manager():
                features.append(features_of(model, inputs))
            labels.append(labels_of(inputs))
            if sum(map(len, features)) * trainer.args.world_size >= count:
                break
    if not features:
        raise ValueError(
            f"train_dataset has fewer than the {trainer.args.per_device_train_batch_size} images of a batch, and "
            "dataloader_drop_last=True leaves out what does not fill one; pass a smaller per_device_train_batch_size."
        )
    for buffer, before in buffers:
        buffer.copy_(before)
    model.train(was_training)
    return torch.cat(features).float(), torch.cat(labels)
