"""Models small enough to be made in milliseconds, from configurations alone."""

import torch
from transformers import ResNetConfig, ViTConfig

from bndl_hf import BNDLConfig, BNDLForImageClassification

BACKBONES = ("vit", "resnet")
NUM_LABELS = 5
IMAGE_SIZE = 30  # pixels


def tiny_backbone_config(kind, **kwargs):
    """A classifier small enough to be built in milliseconds; ViT's features take both signs, ResNet's do not."""
    if kind == "vit":
        return ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=37,
            image_size=IMAGE_SIZE,
            patch_size=15,
            **kwargs,
        )
    return ResNetConfig(embedding_size=10, hidden_sizes=[10, 20, 30], depths=[1, 1, 1], layer_type="basic", **kwargs)


def tiny_model(kind, **bndl_config_kwargs):
    """A BNDL classifier of five classes around a tiny backbone, in evaluation mode."""
    torch.manual_seed(0)
    config = BNDLConfig.from_backbone_config(tiny_backbone_config(kind), num_labels=NUM_LABELS, **bndl_config_kwargs)
    return BNDLForImageClassification(config).eval()
