"""Before the first step: look at some features, and set from them what the configuration leaves to the data.

Their spread becomes `feature_scale`, the separation of their classes the weight of the scores' KL
(feature_statistics.py has both, docs/defaults.md the reasons).
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Trainer
from transformers.utils import logging

from bndl_hf.model.backbone_inputs import features_of
from bndl_hf.model.posterior_head import PosteriorHead
from bndl_hf.model.presets import KL_LOCAL_BUDGET
from bndl_hf.training.adapters import hold_statistics, trained_decision_layer
from bndl_hf.training.arguments import BNDLTrainingArguments
from bndl_hf.training.feature_statistics import FeatureStatistics

# Images from which spread and separation of the features are measured before training; a standard deviation from 2,048
# images is within 2 % of its value.
NUM_MEASURED_IMAGES = 2048
# Where the classes have collapsed to points their separation grows without end, where they do not show it is zero; the
# weight of the KL does not follow it there.
MIN_SEPARATION, MAX_SEPARATION = 0.05, 4.0

logger = logging.get_logger(__name__)


class PreparingTrainer(Trainer):
    """The half of `BNDLTrainer` that prepares the decision layer."""

    args: BNDLTrainingArguments

    @property
    def decision_layer(self) -> PosteriorHead:
        """The layer whose posteriors are trained."""
        return trained_decision_layer(self.accelerator.unwrap_model(self.model))

    def prepare_decision_layer(self, resumes: bool) -> None:
        """Measure the features where the configuration leaves something to them, and check that a factor is alive.

        A checkpoint knows the spread, and its factors were alive; the KL weight is measured again, to the same number.
        """
        layer, config = self.decision_layer, self.decision_layer.config
        learns = any(p.requires_grad for p in layer.parameters())  # a frozen layer is as it should be
        sets_scale = learns and not resumes and config.normalize_features and bool((layer.feature_scale == 1).all())
        sets_weight = learns and (config.kl_local_weight is None or config.kl_local_weight_is_measured)
        if not resumes:
            self._forget_decisions()
        if resumes and not sets_weight:
            return
        features, labels = self._first_features(NUM_MEASURED_IMAGES if sets_scale or sets_weight else 1)
        layer.check_inputs(features, labels)
        statistics = FeatureStatistics(features, labels, config.num_labels, self.accelerator)
        if sets_scale:
            layer.set_feature_scale(statistics.inverse_spread)
        if sets_weight:
            config.kl_local_weight, config.kl_local_weight_is_measured = KL_LOCAL_BUDGET / config.num_factors, True
            separation = statistics.class_separation
            if self._features_stay and separation is not None:
                config.kl_local_weight *= min(max(separation, MIN_SEPARATION), MAX_SEPARATION)
            logger.info("kl_local_weight=%.3g, class separation %s", config.kl_local_weight, separation)
        if not resumes:
            layer.check_active(features)

    def _forget_decisions(self) -> None:
        """Set back what was fitted on the probabilities of the weights before this training."""
        layer, config = self.decision_layer, self.decision_layer.config
        recalibrated = (config.temperature, config.variance_scale) != (1.0, 1.0)
        if recalibrated or config.abstain_below is not None or config.conformal is not None:
            logger.warning(
                "Temperature, prediction sets and abstention threshold were fitted before this training and are "
                "dropped; fit them again after it."
            )
            layer.set_abstention(None)
            layer.set_conformal(None)
            layer.set_temperature(1.0)

    @property
    def _features_stay(self) -> bool:
        """Whether the features of an image are the same from the first step to the last."""
        model = self.accelerator.unwrap_model(self.model)
        return isinstance(model, PosteriorHead) or not any(p.requires_grad for p in model.backbone.parameters())

    @torch.no_grad()
    def _first_features(self, count: int) -> tuple[Tensor, Tensor]:
        """Features [n, D] and labels [n] of the first training images, n >= count over all processes if there are.

        Every process has its own. In training mode, unless the backbone is frozen: features as the steps to come will
        see them (a new BatchNorm does not normalise yet in evaluation mode, and its features look several times
        narrower than they will be). Statistics and random numbers are as before when it is done.
        """
        features: list[Tensor] = []
        labels: list[Tensor] = []
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        if self.place_model_on_device:
            model.to(self.args.device)
        model.train()
        hold_statistics(model)
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        with torch.random.fork_rng():
            for batch in self.get_train_dataloader():
                inputs = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    features.append(features_of(model, inputs))
                labels.append(inputs["labels"])
                if sum(map(len, features)) * self.args.world_size >= count:
                    break
        for buffer, before in buffers:
            buffer.copy_(before)
        model.train(was_training)
        return torch.cat(features).float(), torch.cat(labels)
