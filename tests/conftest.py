"""Tiny models made from configurations: no download, no GPU, one thread a process (the suite runs with `-n 2`)."""

import os

# Before anything imports transformers: no test may reach for the Hub or draw a progress bar.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

from pathlib import Path

import pytest
import torch
from transformers import ResNetConfig, ViTConfig
from transformers.utils import logging

from bndl_hf import BNDLConfig, BNDLForImageClassification

torch.set_num_threads(1)
logging.disable_progress_bar()

REPOSITORY = Path(__file__).resolve().parents[1]
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


@pytest.fixture(params=BACKBONES)
def model(request):
    return tiny_model(request.param)


@pytest.fixture
def vit_model():
    return tiny_model("vit")


@pytest.fixture
def resnet_model():
    return tiny_model("resnet")


@pytest.fixture
def pixel_values():
    return torch.randn(4, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def shared():
    """The folder of golden vectors and feature sets beside the repository; what needs it is skipped without it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which is not part of the repository")
    return folder
