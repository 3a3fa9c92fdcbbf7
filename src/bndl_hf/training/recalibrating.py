"""After training: the temperature of images that were not trained on, stored in the model (Guo et al. 2017).

A network trained whole fits its training images better than any others, and a decision layer that learns faster than
the backbone under it ends surer than it is right (docs/benchmarks.md has how far). uncertainty/recalibration.py has the
fit; this reads the images as the Trainer does, in one process or several.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.predictive import BNDLPrediction
from bndl_hf.training.adapters import trained_decision_layer
from bndl_hf.training.collating import labels_of
from bndl_hf.training.trainer import BNDLTrainer
from bndl_hf.uncertainty.collecting import join_predictions
from bndl_hf.uncertainty.recalibration import FittedTemperature, fit_temperature, smoothing_of_few

logger = logging.get_logger(__name__)


def recalibrate(trainer: BNDLTrainer, dataset: Any = None) -> FittedTemperature:
    """Give a trained model the temperature of least negative log-likelihood on held-out images.

    They count as half an image more than they are, of unknown class: a model that is right on all of a few is not for
    that reason sure of everything. Save the model afterwards; training it again drops the temperature.

    Args:
        trainer: after `train()`.
        dataset: images with labels that were not trained on, and that nothing is reported on; None takes the Trainer's
            `eval_dataset`.

    Returns:
        What was found; the model has it already, the same in every process.

    Raises:
        ValueError: no dataset, several at once, or no images in it.

    Example:
        >>> arguments = BNDLTrainingArguments("outputs/mine", disable_tqdm=True)
        >>> trainer = BNDLTrainer(model, arguments, eval_dataset=held_out)  # and a train_dataset
        >>> fitted = recalibrate(trainer)
        >>> fitted.num_images, model.config.temperature == fitted.temperature
        (8, True)
    """
    dataset = trainer.eval_dataset if dataset is None else dataset
    if dataset is None or isinstance(dataset, dict):
        found = "none" if dataset is None else f"several: {', '.join(dataset)}"
        raise ValueError(
            f"A temperature is fitted on one set of held-out images, and there is {found}; pass one as "
            "recalibrate(trainer, dataset)."
        )
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    prediction, labels = _predictions(trainer, model, dataset)
    fitted = fit_temperature(prediction, labels, label_smoothing=smoothing_of_few(len(labels)))
    model.set_temperature(fitted)
    logger.info("Temperature %.3f, from %d held-out images.", fitted.temperature, len(labels))
    return fitted


@torch.no_grad()
def _predictions(trainer: BNDLTrainer, model: Any, dataset: Any) -> tuple[BNDLPrediction, Tensor]:
    """The exact prediction for all images, and their labels [N], the same in every process."""
    layer = trained_decision_layer(model)
    parts: list[dict[str, Any]] = []
    for batch in trainer.get_eval_dataloader(dataset):
        inputs = trainer._prepare_inputs(batch)
        with trainer.compute_loss_context_manager():
            features = features_of(model, inputs)
        exact = layer.predict(features)
        known = {f.name: value for f in fields(exact) if isinstance(value := getattr(exact, f.name), Tensor)}
        gathered = trainer.accelerator.gather_for_metrics({**known, "labels": labels_of(inputs)})  # without padding
        parts.append({name: value.cpu() for name, value in gathered.items()})
    if not parts:
        raise ValueError("The held-out set has no images; pass some that were not trained on.")
    labels = torch.cat([part.pop("labels") for part in parts])
    return join_predictions([BNDLPrediction(**part) for part in parts]), labels
