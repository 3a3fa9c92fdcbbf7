"""The decision layer of a backbone that is trained with it."""

import pytest
import torch
from transformers import ResNetForImageClassification

from bndl_hf import BNDLForImageClassification
from bndl_hf.training import suit_whole_training

from . import runs


def test_non_negative_features_are_read_as_they_are() -> None:
    model = runs.classifier("resnet")
    backbone = runs.weights(model.backbone)
    assert suit_whole_training(model)
    config = model.config
    assert (config.projection, config.loading_density, config.num_factors) == ("none", 0.3, config.feature_dim)
    assert model.decision_layer.raw_loadings.shape == (config.feature_dim, runs.NUM_LABELS)
    assert model.decision_layer.config is config
    assert model.training
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in runs.weights(model.backbone).items())


@pytest.mark.parametrize(
    ("backbone", "config"),
    [("vit", {}), ("resnet", {"preset": "released"}), ("resnet", {"num_factors": 5})],
    ids=["features of both signs", "another preset", "factors that were asked for"],
)
def test_any_other_layer_stays(backbone: str, config: dict[str, object]) -> None:
    model = runs.classifier(backbone, **config)
    layer, projection = model.decision_layer, model.config.projection
    assert not suit_whole_training(model, config)
    assert (model.decision_layer, model.config.projection) == (layer, projection)


def test_what_was_learned_stays() -> None:
    model = runs.classifier("resnet")
    model.config.num_training_images = 16
    assert not suit_whole_training(model)
    warm = BNDLForImageClassification.from_backbone_pretrained(
        ResNetForImageClassification(runs.BACKBONES["resnet"]()), warm_start=True
    )
    loadings = warm.decision_layer.raw_loadings.clone()
    assert not suit_whole_training(warm)
    assert torch.equal(warm.decision_layer.raw_loadings, loadings)


def test_a_density_that_was_asked_for_stays() -> None:
    model = runs.classifier("resnet", loading_density=0.5)
    assert suit_whole_training(model, {"loading_density"})
    assert (model.config.projection, model.config.loading_density) == ("none", 0.5)
