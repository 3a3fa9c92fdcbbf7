"""The decision layer for a backbone that is trained with it: another than for one that stays.

A projection makes factors of features that cannot change. Where they can, the backbone makes them itself, and a second
matrix before the loadings is only what learns the training images by heart: on 10,800 images of CIFAR-10 the model
ended less accurate and surer of itself than with a plain head (docs/benchmarks.md). Without a projection there is one
factor a feature, half as many as with it, of which more loadings are kept.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from bndl_hf.model.backbone_inputs import example_inputs
from bndl_hf.model.decision_layer import BNDLDecisionLayer
from bndl_hf.model.modeling_bndl import BNDLForImageClassification

# Fields of the configuration, chosen on the held-out images of one seed (docs/benchmarks.md).
WHOLE_TRAINING: dict[str, Any] = {"projection": "none", "loading_density": 0.3}
# Whoever says one of these, or another preset, has a layer in mind.
_SAID = ("projection", "num_factors", "num_projected", "score_threshold", "score_concentration_input")


@torch.no_grad()
def suit_whole_training(model: BNDLForImageClassification, given: Collection[str] = ()) -> bool:
    """Give a classifier whose backbone is going to be trained the decision layer that suits it: a new one.

    Only where that has been measured: a new layer of the preset "default", over features that are not negative. Scores
    are the ReLU of the features where there is no projection, and would lose half of any that take both signs. A layer
    that was trained before, or warm-started, stays.

    Args:
        model: its decision layer and configuration are changed in place.
        given: fields of the configuration that were chosen on purpose, which stay.

    Returns:
        Whether it got another layer.

    Example:
        >>> suit_whole_training(model), model.config.projection  # a new model around a ResNet
        (True, 'none')
    """
    config = model.config
    is_new = config.num_training_images is None and config.normalize_features  # a warm start reads them as they come
    if not is_new or config.preset != "default" or any(name in given for name in _SAID):
        return False
    was_training = model.training
    features = model.eval().extract_features(**example_inputs(model.backbone, batch_size=8))
    model.train(was_training)
    if bool((features < 0).any()):
        return False
    for name, value in WHOLE_TRAINING.items():
        if name not in given:
            setattr(config, name, value)
    config.num_factors, config.factor_names = config.feature_dim, None
    old = model.decision_layer
    model.decision_layer = BNDLDecisionLayer(config).to(old.raw_loadings.device).train(was_training)
    return True
